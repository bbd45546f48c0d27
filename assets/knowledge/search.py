"""Search: an SQLite FTS5 index in the home, made anew when the tables have changed; by meaning, vectors beside it."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from assets.knowledge.tables import silver
from assets.lakehouse.interface import Lakehouse

if TYPE_CHECKING:
    from assets.settings import Settings

FORMAT = "1"
LOCK_SECONDS = 120
MAX_QUERY = 1_000
INDEXED = ("entities", "observations", "relations", "messages")
_COLUMNS = ("kind", "id", "text", "type", "source", "session", "message", "start", "stop")
_NAMES = (*_COLUMNS[:-1], "end")
KINDS = ("entity", "observation", "relation", "message")


class KnowledgeIndex:
    """The index of one home. Making it anew costs one pass over the tables; several processes take turns."""

    def __init__(self, settings: Settings, lakehouse: Lakehouse) -> None:
        self._settings = settings
        self._file = settings.home_path / "knowledge-search.db"
        self._lakehouse = lakehouse

    def search(self, query: str, kind: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Rows whose text holds all words of the query, by BM25, the best first.

        Accents and case are no matter. ``"..."`` is a phrase, ``word*`` a beginning.
        """
        match = _fts_query(query)
        if not match:
            return []
        self._bring_up()
        with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True) as db:
            rows = db.execute(
                f"SELECT {', '.join(_COLUMNS)}, bm25(found) FROM found"
                " WHERE found MATCH ? AND (? IS NULL OR kind = ?) ORDER BY bm25(found), id LIMIT ?",
                (match, kind, kind, limit),
            ).fetchall()
        db.close()
        return [dict(zip(_NAMES, row[:-1], strict=True)) | {"score": round(-row[-1], 4)} for row in rows]

    def nearest(self, query: str, kind: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Rows whose text means what the query means, by the cosine of their vectors, the best first.

        The first search after an extraction embeds the texts that are new.

        Raises:
            ConfigurationError: no embedder is installed.
        """
        from assets.knowledge.embedder import open_embedder
        from assets.knowledge.vectors import VectorFile

        if not query.strip():
            return []
        embedder = open_embedder(self._settings.knowledge_embedder)
        self._bring_up()
        vectors = VectorFile(self._settings.home_path / "knowledge-vectors.db", embedder)
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as db:
            (version,) = db.execute("SELECT value FROM version").fetchone()
            vectors.bring_up(version, (text for (text,) in db.execute("SELECT text FROM found")))
            chosen = ("text", *(name for name in _COLUMNS if name != "text"))
            rows = db.execute(f"SELECT {', '.join(chosen)} FROM found WHERE ? IS NULL OR kind = ?", (kind, kind))
            found = vectors.nearest(query, rows, limit)
        names = ["end" if column == "stop" else column for column in chosen]
        return [dict(zip(names, row, strict=True)) | {"score": round(score, 4)} for score, row in found]

    def _version(self) -> str:
        states = [self._lakehouse.state(silver(name)) for name in INDEXED]
        return " ".join([FORMAT, *(str(state.version) if state else "-" for state in states)])

    def _bring_up(self) -> None:
        from filelock import FileLock

        wanted = self._version()
        if self._indexed() == wanted:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock", timeout=LOCK_SECONDS):
            if self._indexed() == wanted:
                return
            fresh = self._file.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            db = sqlite3.connect(fresh)
            try:
                with db:
                    db.execute(
                        "CREATE VIRTUAL TABLE found USING fts5(text, kind UNINDEXED, id UNINDEXED, type UNINDEXED,"
                        " source UNINDEXED, session UNINDEXED, message UNINDEXED, start UNINDEXED, stop UNINDEXED,"
                        " tokenize = 'unicode61 remove_diacritics 2')"
                    )
                    db.executemany(
                        "INSERT INTO found(text, kind, id, type, source, session, message, start, stop)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        self._rows(),
                    )
                    db.execute("CREATE TABLE version (value TEXT)")
                    db.execute("INSERT INTO version VALUES (?)", (wanted,))
            finally:
                db.close()
            os.replace(fresh, self._file)

    def _indexed(self) -> str | None:
        if not self._file.exists():
            return None
        db = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        try:
            return db.execute("SELECT value FROM version").fetchone()[0]
        except sqlite3.DatabaseError:
            return None
        finally:
            db.close()

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for row in self._scan("entities", ["entity_id", "canonical_name", "aliases", "type"]):
            text = " · ".join([row["canonical_name"], *(row["aliases"] or [])])
            yield (text, "entity", row["entity_id"], row["type"], None, None, None, None, None)
        columns = ["observation_id", "quote", "about", "kind", "source", "session", "message", "start", "end"]
        for row in self._scan("observations", columns):
            place = (row["source"], row["session"], row["message"], row["start"], row["end"])
            yield (row["quote"], "observation", row["observation_id"], row["kind"], *place)
        for row in self._named_relations():
            yield (row["text"], "relation", row["relation_id"], row["predicate"], None, None, None, None, None)
        for row in self._scan("messages", ["source", "session", "message", "text", "role"]):
            place = (row["source"], row["session"], row["message"], 0, len(row["text"]))
            yield (row["text"], "message", row["message"], row["role"], *place)

    def _named_relations(self) -> Iterator[dict[str, Any]]:
        names: dict[str, str] = {}
        wanted = {
            id
            for row in self._scan("relations", ["subject_id", "object_id"])
            for id in (row["subject_id"], row["object_id"])
        }
        for row in self._scan("entities", ["entity_id", "canonical_name"]):
            if row["entity_id"] in wanted:
                names[row["entity_id"]] = row["canonical_name"]
        for row in self._scan("relations", ["relation_id", "subject_id", "predicate", "object_id"]):
            subject, object = names.get(row["subject_id"], ""), names.get(row["object_id"], "")
            yield row | {"text": f"{subject} {row['predicate'].replace('_', ' ')} {object}"}

    def _scan(self, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        if self._lakehouse.state(silver(name)) is None:
            return
        with self._lakehouse.scan(silver(name), columns) as reader:
            for batch in reader:
                yield from batch.to_pylist()


def _fts_query(query: str) -> str:
    """The user's words as an FTS5 expression: each quoted, so that no word is an operator."""
    terms = []
    for phrase, word in re.findall(r'"([^"]+)"|(\S+)', query[:MAX_QUERY]):
        plain = (phrase or word.rstrip("*")).replace('"', " ").strip()
        if any(c.isalnum() for c in plain):
            star = "*" if word.endswith("*") else ""
            terms.append(f'"{plain}"{star}')
    return " ".join(terms)
