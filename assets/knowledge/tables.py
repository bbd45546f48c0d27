"""The tables of knowledge: their columns, keys and ids. Each is a Silver table ``knowledge__<name>``, one row a key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN, TableId

if TYPE_CHECKING:
    import pyarrow as pa

CONNECTOR = "knowledge"
PLACE = ("source", "session", "message", "start", "end", "quote")
_TEXT, _NUMBER, _TIME, _REAL, _FLAG, _LIST = "string", "int64", "time", "double", "bool", "list"
COLUMNS: dict[str, dict[str, str]] = {
    "sessions": {
        "source": _TEXT, "session": _TEXT, "title": _TEXT, "content_hash": _TEXT, "extractor": _TEXT, "status": _TEXT,
        "problem": _TEXT, "messages": _NUMBER, "characters": _NUMBER, "chunks": _NUMBER, "chunks_answered": _NUMBER,
        "mentions": _NUMBER, "statements": _NUMBER, "first_at": _TIME, "last_at": _TIME, "run_group": _TEXT,
    },
    "messages": {
        "source": _TEXT, "session": _TEXT, "message": _TEXT, "position": _NUMBER, "role": _TEXT, "at": _TIME,
        "text": _TEXT,
    },
    "mentions": {
        "mention_id": _TEXT, "source": _TEXT, "session": _TEXT, "message": _TEXT, "start": _NUMBER, "end": _NUMBER,
        "quote": _TEXT, "type": _TEXT, "value": _TEXT, "entity_id": _TEXT, "entity_name": _TEXT, "resolution": _TEXT,
        "attributes": _TEXT, "confidence": _REAL, "role": _TEXT, "at": _TIME,
    },
    "statements": {
        "statement_id": _TEXT, "source": _TEXT, "session": _TEXT, "message": _TEXT, "start": _NUMBER, "end": _NUMBER,
        "quote": _TEXT, "kind": _TEXT, "subject_id": _TEXT, "about": _TEXT, "value": _TEXT, "polarity": _NUMBER,
        "predicate": _TEXT, "object_id": _TEXT, "changed": _FLAG, "ends": _FLAG, "confidence": _REAL, "role": _TEXT,
        "at": _TIME,
    },
    "entities": {
        "entity_id": _TEXT, "type": _TEXT, "canonical_name": _TEXT, "aliases": _LIST, "attributes": _TEXT,
        "confidence": _REAL, "mentions": _NUMBER, "sessions": _NUMBER, "first_seen": _TIME, "last_seen": _TIME,
        "resolution": _LIST,
    },
    "relations": {
        "relation_id": _TEXT, "subject_id": _TEXT, "predicate": _TEXT, "object_id": _TEXT, "status": _TEXT,
        "valid_from": _TIME, "valid_to": _TIME, "evidence": _LIST, "evidence_count": _NUMBER, "confidence": _REAL,
        "disputed_with": _LIST,
    },
    "observations": {
        "observation_id": _TEXT, "kind": _TEXT, "source": _TEXT, "session": _TEXT, "message": _TEXT, "start": _NUMBER,
        "end": _NUMBER, "quote": _TEXT, "subject_id": _TEXT, "about": _TEXT, "value": _TEXT, "polarity": _NUMBER,
        "status": _TEXT, "disputed_with": _LIST, "confidence": _REAL, "role": _TEXT, "at": _TIME,
    },
    "entity_history": {
        "history_id": _TEXT, "entity_id": _TEXT, "change": _TEXT, "before": _TEXT, "after": _TEXT, "run_group": _TEXT,
    },
}  # fmt: skip
KEYS: dict[str, tuple[str, ...]] = {
    "sessions": ("source", "session"),
    "messages": ("source", "session", "message"),
    "mentions": ("mention_id",),
    "statements": ("statement_id",),
    "entities": ("entity_id",),
    "relations": ("relation_id",),
    "observations": ("observation_id",),
    "entity_history": ("history_id",),
}
EVIDENCE = ("messages", "mentions", "statements")
"""Rows that belong to one session: a session that changes or leaves takes its rows with it."""
DERIVED = ("entities", "relations", "observations")
"""A function of the evidence alone."""
SILVER = (*EVIDENCE, *DERIVED, "entity_history", "sessions")
ANSWERS = "answers"
ANSWER_COLUMNS = {
    "content_hash": _TEXT, "model": _TEXT, "prompt_version": _TEXT, "status": _TEXT, "answer": _TEXT,
    "tokens_in": _NUMBER, "tokens_out": _NUMBER, "calls": _NUMBER,
}  # fmt: skip
ANSWER_KEY = ("content_hash", "model", "prompt_version")


def silver(name: str) -> TableId:
    return TableId(layer="silver", connector=CONNECTOR, table=name)


def answers_table() -> TableId:
    return TableId(layer="bronze", connector=CONNECTOR, table=ANSWERS)


def arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    return {
        _TEXT: pa.string(),
        _NUMBER: pa.int64(),
        _TIME: pa.timestamp("us", tz="UTC"),
        _REAL: pa.float64(),
        _FLAG: pa.bool_(),
        _LIST: pa.list_(pa.string()),
    }[kind]


def columns_schema(columns: dict[str, str]) -> pa.Schema:
    """The data columns alone, as they are staged."""
    import pyarrow as pa

    return pa.schema([pa.field(name, arrow_type(kind)) for name, kind in columns.items()])


def table_schema(columns: dict[str, str]) -> pa.Schema:
    """The table's columns: data, then those of every Silver table."""
    import pyarrow as pa

    time = pa.timestamp("us", tz="UTC")
    extra = [(RUN, pa.string()), (LOADED_AT, time), (POSITION, pa.int64()), (DELETED_AT, time)]
    return pa.schema([*columns_schema(columns), *(pa.field(name, kind) for name, kind in extra)])


def made_id(*parts: object) -> str:
    """An id that is the same wherever the same thing is found: 20 hex digits."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()[:20]
