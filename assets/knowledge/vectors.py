"""Vectors of the indexed texts, in a file of the home: each text is embedded once a model, in batches that stay."""

from __future__ import annotations

import hashlib
import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from assets.knowledge.embedder import MAX_CHARACTERS, Embedder

BATCH = 256
LOCK_SECONDS = 3_600
Row = tuple[Any, ...]
"""A row of the full-text index, its text first."""


class VectorFile:
    """Vectors by the hash of their text. An interrupted run leaves the batches that it finished."""

    def __init__(self, file: Path, embedder: Embedder) -> None:
        self._file, self._embedder = file, embedder

    def bring_up(self, version: str, texts: Iterable[str]) -> None:
        """Embed what is new, and forget what no text has any more; nothing to do for a version that is there."""
        from filelock import FileLock

        stamp = f"{self._embedder.name} {version}"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock", timeout=LOCK_SECONDS), closing(sqlite3.connect(self._file)) as db:
            with db:
                columns = "model TEXT, hash BLOB, vector BLOB, seen TEXT, PRIMARY KEY (model, hash)"
                db.execute(f"CREATE TABLE IF NOT EXISTS vectors ({columns})")
                db.execute("CREATE TABLE IF NOT EXISTS done (stamp TEXT)")
            if db.execute("SELECT stamp FROM done").fetchone() == (stamp,):
                return
            for part in _batches(texts, BATCH):
                self._embed(db, part, stamp)
            with db:
                db.execute("DELETE FROM vectors WHERE seen <> ?", (stamp,))
                db.execute("DELETE FROM done")
                db.execute("INSERT INTO done VALUES (?)", (stamp,))

    def _embed(self, db: sqlite3.Connection, texts: Sequence[str], stamp: str) -> None:
        by_hash = {_hash(text): text for text in texts}
        name = self._embedder.name
        with db:
            db.executemany(
                "UPDATE vectors SET seen = ? WHERE model = ? AND hash = ?", [(stamp, name, key) for key in by_hash]
            )
        there = self._vectors(db, list(by_hash))
        new = {key: text for key, text in by_hash.items() if key not in there}
        if not new:
            return
        found = self._embedder.embed([text[:MAX_CHARACTERS] for text in new.values()])
        rows = [(name, key, vector.tobytes(), stamp) for key, vector in zip(new, found, strict=True)]
        with db:
            db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)

    def _vectors(self, db: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, bytes]:
        marks = ", ".join("?" * len(keys))
        query = f"SELECT hash, vector FROM vectors WHERE model = ? AND hash IN ({marks})"
        return dict(db.execute(query, [self._embedder.name, *keys]).fetchall())

    def nearest(self, query: str, rows: Iterable[Row], limit: int) -> list[tuple[float, Row]]:
        """The rows whose texts are nearest to the query by cosine, best first. One batch is held at a time."""
        import numpy as np

        wanted = self._embedder.embed([query[:MAX_CHARACTERS]])[0]
        best: list[tuple[float, int, Row]] = []
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as db:
            number = 0
            for part in _batches(rows, BATCH):
                keys = [_hash(row[0]) for row in part]
                there = self._vectors(db, keys)
                known = [(key, row) for key, row in zip(keys, part, strict=True) if key in there]
                if not known:
                    continue
                matrix = np.frombuffer(b"".join(there[key] for key, _ in known), dtype="float32")
                scores = matrix.reshape(len(known), -1) @ wanted
                for score, (_, row) in zip(scores.tolist(), known, strict=True):
                    number += 1
                    if score > 0:
                        best.append((score, -number, row))
                best = heapq.nlargest(limit, best, key=lambda item: item[:2])
        return [(score, row) for score, _, row in best]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
