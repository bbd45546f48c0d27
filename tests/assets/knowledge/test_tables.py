"""The tables are a function of what the sessions say: contradictions stay, deletions take what rested on them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from assets.errors import NotFoundError
from assets.knowledge.reading import KnowledgeReader
from assets.knowledge.steps import KnowledgeSteps
from assets.knowledge.work import BatchInput, ExtractionPlan, FoldInput, SourceExtraction
from assets.settings import Settings


class Notes:
    """Text files as a source, extracted step by step."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder, self.settings = folder, settings
        folder.mkdir()
        self.steps = KnowledgeSteps.from_settings(settings)
        self.steps.knowledge.add_source("notes", {"kind": "text", "path": str(folder)})

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def extract(self, times: int = 1) -> ExtractionPlan:
        work = SourceExtraction(source="notes", run_group=uuid.uuid4().hex)
        plan = self.steps.plan(work, 0, 1)
        done = [
            self.steps.extract_batch(BatchInput(work=work, batch=b, number=n), 1) for n, b in enumerate(plan.batches)
        ]
        for _ in range(times):
            self.steps.fold(FoldInput(work=work, generation=0, batches=tuple(done), gone_part=plan.gone_part))
        return plan

    def rows(self, table: str) -> list[dict[str, Any]]:
        with KnowledgeReader(self.settings, self.steps.lakehouse) as reader:
            return reader.rows(table, 1000)


@pytest.fixture
def notes(settings: Settings, tmp_path: Path) -> Notes:
    return Notes(settings, tmp_path / "notes")


def test_only_new_and_changed_sessions_are_extracted_and_a_repeated_fold_changes_nothing(notes: Notes) -> None:
    notes.write("a.txt", "My name is Anna Keller. I prefer e-mail.")
    notes.write("b.txt", "Anna Keller called about order ORD-20931.")
    assert notes.extract(times=2).changed == 2
    before = notes.rows("entities"), notes.rows("entity_history")
    assert notes.extract().changed == 0
    assert (notes.rows("entities"), notes.rows("entity_history")) == before
    notes.write("b.txt", "Anna Keller called again.")
    assert notes.extract().changed == 1


def test_a_session_that_leaves_takes_along_what_rested_on_it_alone(notes: Notes) -> None:
    notes.write("a.txt", "My name is Anna Keller. I prefer e-mail.")
    notes.write("b.txt", "Anna Keller flies to Lisbon with Tom Hughes.")
    notes.extract()
    (notes.folder / "b.txt").unlink()
    assert notes.extract().gone == 1
    names = {row["canonical_name"]: row["mentions"] for row in notes.rows("entities")}
    assert names == {"Anna Keller": 1}
    assert {row["change"] for row in notes.rows("entity_history")} == {"appeared", "evidence", "removed"}


def test_a_name_that_is_said_again_in_another_sentence_is_no_contradiction(notes: Notes) -> None:
    notes.write("a.txt", "My name is Anna Keller and I am writing about my order.")
    notes.write("b.txt", "Hello, my name is Anna Keller, the parcel is late.")
    notes.extract()
    facts = [row for row in notes.rows("observations") if row["kind"] == "fact"]
    assert [(row["about"], row["value"], row["status"]) for row in facts] == [("name", "Anna Keller", "stated")] * 2


def test_contradictions_are_kept_as_disputed_and_a_stated_change_ends_the_earlier_relation(notes: Notes) -> None:
    notes.write("a.txt", "My name is Anna Keller. I live in Hamburg. I like tea.")
    notes.write("b.txt", "My name is Anna Keller. I live in Porto. I hate tea.")
    notes.extract()
    assert [row["status"] for row in notes.rows("relations")] == ["disputed", "disputed"]
    preferences = [row for row in notes.rows("observations") if row["kind"] == "preference"]
    assert [row["status"] for row in preferences] == ["disputed", "disputed"]
    assert preferences[0]["disputed_with"] == [preferences[1]["observation_id"]]


def test_a_short_name_is_resolved_where_it_is_unambiguous_and_the_reason_is_told(notes: Notes) -> None:
    notes.write("a.txt", "Anna Keller wrote. I called Anna back.")
    notes.write("b.txt", "Anna Keller and Anna Petrova wrote. I called Anna back.")
    notes.extract()
    by_name = {row["canonical_name"]: row for row in notes.rows("entities")}
    assert {"Anna Keller", "Anna Petrova", "Anna"} <= set(by_name)
    assert by_name["Anna Keller"]["aliases"] == ["Anna"]
    assert any("is short for 'Anna Keller'" in reason for reason in by_name["Anna Keller"]["resolution"])


def test_a_missing_folder_is_an_error_and_no_deletion(notes: Notes) -> None:
    notes.write("a.txt", "My name is Anna Keller.")
    notes.extract()
    (notes.folder / "a.txt").rename(notes.folder.parent / "a.txt")
    notes.folder.rmdir()
    with pytest.raises(NotFoundError):
        notes.extract()
    assert notes.rows("entities") != []
