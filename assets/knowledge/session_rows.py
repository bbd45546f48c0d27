"""From the answers about one session's chunks to rows: exact places in its messages, entities resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.knowledge.dialogue import Chunk, Message, Session
from assets.knowledge.extractor import Answer, FoundEntity
from assets.knowledge.resolution import VALUES, comparable, short_names, value_of
from assets.knowledge.tables import made_id

PARTICIPANT = "participant"
_ABOUT = re.compile(
    r"(?i)\b(?:my|our|the)\s+(?P<about>[\w' -]{2,40}?)\s+(?:is|was|are|has changed to|changed to)\s+(?:now\s+)?"
    r"(?P<value>.+)$"
)
_BEHIND_NAME = re.compile(r"(?i)\s*[,;(]|\s+(?:and|but|from|at|with|i)\b")


@dataclass
class SessionRows:
    """The rows of one session, by table."""

    mentions: list[dict[str, Any]] = field(default_factory=list)
    statements: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0


@dataclass(frozen=True)
class _Place:
    message: Message
    start: int
    end: int

    @property
    def quote(self) -> str:
        return self.message.text[self.start : self.end]

    def columns(self, source: str, session: str) -> dict[str, Any]:
        return {
            "source": source,
            "session": session,
            "message": self.message.id,
            "start": self.start,
            "end": self.end,
            "quote": self.quote,
            "role": self.message.role,
            "at": self.message.at,
        }


def session_rows(source: str, session: Session, chunks: Sequence[Chunk], answers: Iterable[Answer]) -> SessionRows:
    """Everything that was found in a session, each once, however many overlapping chunks found it."""
    return _Reader(source, session).read(chunks, answers)


class _Reader:
    def __init__(self, source: str, session: Session) -> None:
        self._source, self._session = source, session
        self._rows = SessionRows()
        self._entities: dict[tuple[str, int, int], tuple[_Place, FoundEntity]] = {}
        self._mentions: dict[str, dict[str, Any]] = {}
        self._statements: dict[str, dict[str, Any]] = {}
        self._stated: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._short: dict[str, str] = {}
        self._speakers: dict[str, str | None] = {}

    def read(self, chunks: Sequence[Chunk], answers: Iterable[Answer]) -> SessionRows:
        pairs = list(zip(chunks, answers, strict=True))
        for chunk, answer in pairs:
            self._rows.dropped += answer.dropped
            for entity in answer.entities:
                place = self._place(chunk, entity.segment, entity.start, entity.end)
                if place:
                    self._entities.setdefault((place.message.id, place.start, place.end), (place, entity))
        self._keep_longest()
        people = [place.quote for place, found in self._entities.values() if found.type == "person"]
        self._short = short_names(people)
        self._find_speakers()
        for place, found in self._entities.values():
            self._mention(place, found.type, place.quote, found.confidence, found.attributes)
        for chunk, answer in pairs:
            self._read_statements(chunk, answer)
            self._read_relations(chunk, answer)
        self._rows.mentions = list(self._mentions.values())
        self._rows.statements = list(self._statements.values())
        return self._rows

    def _place(self, chunk: Chunk, segment: int, start: int, end: int) -> _Place | None:
        if not 0 <= segment < len(chunk.segments):
            self._rows.dropped += 1
            return None
        piece = chunk.segments[segment]
        if not 0 <= start < end <= len(piece.text):
            self._rows.dropped += 1
            return None
        return _Place(self._session.messages[piece.message], piece.start + start, piece.start + end)

    def _keep_longest(self) -> None:
        """A name that a chunk's edge cut gives way to the whole one that the neighbour saw."""
        kept: dict[tuple[str, int, int], tuple[_Place, FoundEntity]] = {}
        last: tuple[str, int, int] | None = None
        for key in sorted(self._entities, key=lambda k: (k[0], k[1], -k[2])):
            if last and last[0] == key[0] and key[1] < last[2]:
                continue
            kept[key] = self._entities[key]
            last = key
        self._entities = kept

    def _find_speakers(self) -> None:
        """Who speaks in a role: the one person that introduced itself in it."""
        said: dict[str, set[str]] = {}
        for place, found in self._entities.values():
            if found.type == "person" and found.attributes.get("speaker"):
                said.setdefault(place.message.role, set()).add(self._full_name("person", place.quote)[0])
        self._speakers = {role: next(iter(names)) if len(names) == 1 else None for role, names in said.items()}

    def _full_name(self, kind: str, name: str) -> tuple[str, str]:
        """The name that it stands for in this session, and why."""
        key = comparable(kind, name)
        if kind == "person" and key in self._short and len(key.split()) == 1:
            full = self._short[key]
            return full, f"{name!r} is short for {full!r}, the only full name with it in session {self._session.id}"
        return name, ""

    def _mention(
        self, place: _Place, kind: str, name: str, confidence: float, attributes: dict[str, str] | None = None
    ) -> str | None:
        """Add a mention; returns the id of its entity."""
        entity_id, entity_name, resolution = None, None, ""
        if kind not in VALUES:
            full, resolution = self._full_name(kind, name)
            key = comparable(kind, full)
            entity_id, entity_name = made_id("entity", kind, key), full
            if not resolution and key != name and kind != PARTICIPANT:
                resolution = f"{name!r} compared as {key!r}"
        row = place.columns(self._source, self._session.id) | {
            "mention_id": made_id(
                "mention", self._source, self._session.id, place.message.id, place.start, place.end, kind
            ),
            "type": kind,
            "value": value_of(kind, name, place.message.at),
            "entity_id": entity_id,
            "entity_name": entity_name,
            "resolution": resolution,
            "attributes": json.dumps(attributes or {}, ensure_ascii=False, sort_keys=True),
            "confidence": confidence,
        }
        self._mentions.setdefault(row["mention_id"], row)
        return entity_id

    def _speaker(self, place: _Place) -> str:
        """The id of whoever says this: the person that introduced itself, else the participant of that role."""
        name = self._speakers.get(place.message.role)
        if name:
            return made_id("entity", "person", comparable("person", name))
        own = f"{place.message.role} of {self._source}/{self._session.id}"
        entity_id = self._mention(place, PARTICIPANT, own, 1.0, {"role": place.message.role})
        assert entity_id is not None
        return entity_id

    def _read_statements(self, chunk: Chunk, answer: Answer) -> None:
        for found in answer.statements:
            place = self._place(chunk, found.segment, found.start, found.end)
            if place is None or self._inside_another(place, found.kind):
                continue
            about, value = found.topic, "yes" if found.polarity > 0 else "no"
            if found.kind == "fact":
                match = _ABOUT.search(place.quote)
                about, value = (match["about"], match["value"]) if match else (found.topic, found.topic)
                if about.lower().endswith("name"):  # what follows the name is no part of it
                    value = _BEHIND_NAME.split(value, maxsplit=1)[0]
            self._statement(
                place,
                found.kind,
                self._speaker(place),
                about=" ".join(about.lower().split())[:200],
                value=" ".join(value.split())[:500],
                polarity=found.polarity,
                confidence=found.confidence,
            )

    def _inside_another(self, place: _Place, kind: str) -> bool:
        """Whether an overlapping chunk gave a longer statement of this kind at this place already."""
        earlier = self._stated.setdefault((place.message.id, kind), [])
        inside = any(start <= place.start and place.end <= end for start, end in earlier[-20:])
        if not inside:
            earlier.append((place.start, place.end))
        return inside

    def _read_relations(self, chunk: Chunk, answer: Answer) -> None:
        for found in answer.relations:
            place = self._place(chunk, found.segment, found.start, found.end)
            if place is None:
                continue
            inside = place.quote
            if found.object not in inside or (found.subject and found.subject not in inside):
                self._rows.dropped += 1
                continue
            object_id = self._named(place, found.object_type, found.object, found.confidence)
            subject_id = (
                self._named(place, found.subject_type or "person", found.subject, found.confidence)
                if found.subject
                else self._speaker(place)
            )
            if object_id is None or subject_id is None or object_id == subject_id:
                continue
            self._statement(
                place,
                "relation",
                subject_id,
                predicate=found.predicate,
                object_id=object_id,
                value=found.object,
                changed=found.changed,
                ends=found.ends,
                confidence=found.confidence,
            )

    def _named(self, place: _Place, kind: str, name: str, confidence: float) -> str | None:
        start = place.message.text.index(name, place.start, place.end)
        return self._mention(_Place(place.message, start, start + len(name)), kind, name, confidence)

    def _statement(self, place: _Place, kind: str, subject_id: str, **facts: Any) -> None:
        row = place.columns(self._source, self._session.id) | {
            "statement_id": made_id(
                "statement",
                self._source,
                self._session.id,
                place.message.id,
                place.start,
                place.end,
                kind,
                facts.get("predicate"),
                facts.get("object_id"),
            ),
            "kind": kind,
            "subject_id": subject_id,
            "about": None,
            "value": None,
            "polarity": 1,
            "predicate": None,
            "object_id": None,
            "changed": False,
            "ends": False,
        }
        self._statements.setdefault(row["statement_id"], row | facts)
