"""Precision, recall and F1 a type of the embedded extractor on labelled dialogues, beside the bare NER model.

``python -m bench.knowledge_quality``. The dialogues are in ``bench/knowledge_dialogues``: rules were developed on
``dev.txt``; ``test.txt`` and ``heldout.txt`` are only measured, their errors never looked at for rules. An entity
counts when type and both ends are exact (``--overlap``: any common character). Statements count a message and kind. In
the files ``[text](type)`` marks an entity, ``[lead|text](type)`` one without its lead, ``[text](type|part)`` the part
that counts, ``#kind`` a statement.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from assets.knowledge.dialogue import Chunk, Segment
from assets.knowledge.embedded import shared

FOLDER = Path(__file__).parent / "knowledge_dialogues"
_MARK = re.compile(r"\[([^\]|]*\|)?([^\]]+)\]\((\w+)(?:\|([^)]+))?\)")
_STATEMENTS = re.compile(r"(?: #(fact|preference|decision))+$")
BARE = {
    "PERSON": "person", "ORG": "organization", "GPE": "location", "LOC": "location", "FAC": "location",
    "PRODUCT": "product", "DATE": "date", "TIME": "time", "MONEY": "money", "PERCENT": "percent",
}  # fmt: skip
"""The bare model's labels; it has none for identifiers, addresses and the like."""
Found = tuple[int, int, str]


@dataclass
class Line:
    text: str
    entities: set[Found] = field(default_factory=set)
    statements: set[str] = field(default_factory=set)


def lines_of(path: Path) -> Iterator[Line]:
    """The messages of a file."""
    for raw in path.read_text().splitlines():
        if not raw or raw.startswith("=="):
            continue
        body = raw.partition(": ")[2]
        statements = set(re.findall(r"#(fact|preference|decision)\b", (_STATEMENTS.search(body) or [""])[0]))
        line = Line("", statements=statements)
        body = _STATEMENTS.sub("", body)
        position = 0
        for mark in _MARK.finditer(body):
            line.text += body[position : mark.start()] + (mark[1] or "").rstrip("|")
            part = mark[4] or mark[2]
            start = len(line.text) + mark[2].index(part)
            line.text += mark[2]
            line.entities.add((start, start + len(part), mark[3]))
            position = mark.end()
        line.text += body[position:]
        yield line


def embedded(text: str) -> tuple[set[Found], set[str]]:
    answer = next(shared().answers([Chunk(0, (Segment(0, 0, "user", text),))]))
    return {(e.start, e.end, e.type) for e in answer.entities}, {s.kind for s in answer.statements}


def bare(text: str) -> set[Found]:
    return {(start, end, BARE[label]) for start, end, label in shared().bare(text) if label in BARE}


def count(gold: set[Found], found: set[Found], overlap: bool, counts: dict[str, Counter[str]]) -> None:
    """Add true positives, false positives and misses by type; each label is matched once."""
    left = set(gold)
    for start, end, kind in sorted(found):
        same = [label for label in sorted(left) if label[2] == kind]
        match = next((g for g in same if (g[0] < end and start < g[1] if overlap else g[:2] == (start, end))), None)
        counts.setdefault(kind, Counter())["tp" if match else "fp"] += 1
        if match:
            left.discard(match)
    for _, _, kind in left:
        counts.setdefault(kind, Counter())["fn"] += 1


def scores(counts: Counter[str]) -> tuple[float, float, float]:
    right, wrong, missed = counts["tp"], counts["fp"], counts["fn"]
    precision = right / (right + wrong) if right + wrong else 0.0
    recall = right / (right + missed) if right + missed else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def measure(path: Path, overlap: bool, errors: bool) -> None:
    ours: dict[str, Counter[str]] = {}
    base: dict[str, Counter[str]] = {}
    stated: dict[str, Counter[str]] = {}
    labels = 0
    for line in lines_of(path):
        entities, statements = embedded(line.text)
        labels += len(line.entities)
        count(line.entities, entities, overlap, ours)
        count(line.entities, bare(line.text), overlap, base)
        for kind in line.statements | statements:
            outcome = "tp" if kind in line.statements & statements else "fn" if kind in line.statements else "fp"
            stated.setdefault(kind, Counter())[outcome] += 1
        if errors and (entities != line.entities or statements != line.statements):
            print(line.text)
            print("   missed", sorted((line.text[s:e], t) for s, e, t in line.entities - entities))
            print("   wrong ", sorted((line.text[s:e], t) for s, e, t in entities - line.entities))
            print("   statements", sorted(line.statements), "found", sorted(statements))
    print(f"\n{path.stem}: {labels} labelled entities, {'overlapping' if overlap else 'exact'} spans")
    print(f"{'type':14}{'labels':>8} | {'P':>6}{'R':>6}{'F1':>6} | bare model {'P':>6}{'R':>6}{'F1':>6}")
    total = {"ours": Counter[str](), "base": Counter[str]()}
    for kind in sorted({*ours, *base}):
        mine, theirs = ours.get(kind, Counter()), base.get(kind, Counter())
        total["ours"] += mine
        total["base"] += theirs
        print(_row(kind, mine, theirs))
    print(_row("all", total["ours"], total["base"]))
    for kind, counts in sorted(stated.items()):
        precision, recall, f1 = scores(counts)
        print(f"{kind:14}{counts['tp'] + counts['fn']:>8} | {precision:6.2f}{recall:6.2f}{f1:6.2f} | (messages)")


def _row(kind: str, mine: Counter[str], theirs: Counter[str]) -> str:
    own, other = scores(mine), scores(theirs)
    labels = mine["tp"] + mine["fn"]
    return (
        f"{kind:14}{labels:>8} | "
        + "".join(f"{v:6.2f}" for v in own)
        + " |            "
        + "".join(f"{v:6.2f}" for v in other)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["dev", "test", "heldout"])
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--errors", action="store_true", help="print what differs; for dev only")
    options = parser.parse_args()
    for part in options.parts:
        measure(FOLDER / f"{part}.txt", options.overlap, options.errors)


if __name__ == "__main__":
    main()
