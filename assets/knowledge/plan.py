"""The first step of an extraction: which sessions are new or changed, staged in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.knowledge.chat_exports import chatgpt_sessions, claude_sessions, export_files
from assets.knowledge.chat_tables import ChatReader
from assets.knowledge.dialogue import Message, Session
from assets.knowledge.documents import email_sessions, files_under, html_sessions, json_sessions, text_sessions
from assets.knowledge.source_config import (
    ChatGptExport,
    ChatTables,
    ClaudeExport,
    EmailFiles,
    HtmlFiles,
    JsonFiles,
    KnowledgeSource,
    TextFiles,
)
from assets.knowledge.tables import CONNECTOR, columns_schema, silver
from assets.knowledge.work import SourceExtraction
from assets.lakehouse.interface import Lakehouse
from assets.scratch_database import ScratchDatabase
from assets.sync import Part

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.settings import Settings

STAGED = {
    "session": "string", "title": "string", "content_hash": "string", "position": "int64", "message": "string",
    "role": "string", "at": "time", "text": "string",
}  # fmt: skip
GONE = {"source": "string", "session": "string"}
LOOK_UP = 500
BATCH_MESSAGES, BATCH_CHARACTERS = 500, 400_000
MAX_BATCHES = 400
PAID_BATCH_SESSIONS, PAID_BATCH_CHARACTERS, PAID_MAX_BATCHES = 40, 60_000, 50
"""Each call is an activity of three history events, and a workflow may have 51,200 of them."""


def source_sessions(
    source: KnowledgeSource, settings: Settings, catalog: Catalog, lakehouse: Lakehouse
) -> Iterator[Session]:
    """Every session of a source.

    Raises:
        NotFoundError: its tables or files are not there. Nothing is ever taken for deleted then.
        SourceAccessError: a file cannot be read.
    """
    config = source.source
    if isinstance(config, ChatTables):
        with ChatReader(settings, catalog, lakehouse, config) as reader:
            yield from reader.sessions()
        return
    path = Path(config.path).expanduser()
    if not path.exists():
        raise NotFoundError(
            f"{path} is not there.", where=source.name, remedy="Correct the path, on the worker's machine."
        )
    if isinstance(config, ChatGptExport | ClaudeExport):
        read = chatgpt_sessions if isinstance(config, ChatGptExport) else claude_sessions
        files = export_files(path)
        _require(files, path, source.name)
        for file in files:
            yield from read(file)
        return
    suffixes = {"text": (".txt", ".md"), "email": (".eml", ".mbox"), "html": (".html", ".htm")}
    found = files_under(path, suffixes.get(config.kind, (".json", ".jsonl", ".ndjson")))
    _require(found, path, source.name)
    if isinstance(config, EmailFiles):
        yield from email_sessions(found, path)
    for file in found:
        if isinstance(config, TextFiles):
            yield from text_sessions(file, path)
        elif isinstance(config, HtmlFiles):
            yield from html_sessions(file, path)
        elif isinstance(config, JsonFiles):
            yield from json_sessions(file, path, config.text_fields, config.id_field, config.time_field)


def _require(files: list[Path], path: Path, source: str) -> None:
    if not files:
        raise NotFoundError(f"{path} holds no file of this kind.", where=source, remedy="Correct the path or the kind.")


class SessionPlanner(ScratchDatabase):
    """Compares a source's sessions with those that were extracted, and stages the ones to do."""

    def __init__(self, settings: Settings, lakehouse: Lakehouse, work: SourceExtraction, extractor: str) -> None:
        super().__init__(settings.memory_limit, settings.home_path / "scratch")
        self._lakehouse, self._work, self._extractor = lakehouse, work, extractor
        self._db.execute("CREATE TABLE stored (session VARCHAR, hash VARCHAR, extractor VARCHAR, done BOOLEAN)")
        self._db.execute("CREATE TABLE seen (session VARCHAR)")
        if lakehouse.state(silver("sessions")) is not None:
            columns = ["source", "session", "content_hash", "extractor", "status", "run_group"]
            with lakehouse.scan(silver("sessions"), columns) as reader:
                self._db.register("incoming", reader)
                # what this run tried is not tried again; what an earlier run left incomplete is
                self._db.execute(
                    "INSERT INTO stored SELECT session, content_hash, extractor, status = 'extracted' OR run_group = ?"
                    " FROM incoming WHERE source = ? AND (NOT ? OR run_group = ?)",
                    [work.run_group, work.source, work.again, work.run_group],
                )
                self._db.unregister("incoming")

    def changed(self, sessions: Iterator[Session], counts: dict[str, int], free: bool) -> Iterator[Session]:
        """The sessions to do. Counts sessions and messages on the way; each session id is taken once.

        Args:
            free: a free extractor reads a session again when it has changed itself.
        """
        waiting: list[Session] = []
        characters = 0
        for session in sessions:
            if not session.messages:
                continue
            waiting.append(session)
            characters += sum(len(message.text) for message in session.messages)
            if len(waiting) >= LOOK_UP or characters > BATCH_CHARACTERS:
                yield from self._look_up(waiting, counts, free)
                waiting, characters = [], 0
        yield from self._look_up(waiting, counts, free)

    def _look_up(self, sessions: list[Session], counts: dict[str, int], free: bool) -> Iterator[Session]:
        by_id = {session.id: session for session in reversed(sessions)}
        if not by_id:
            return
        ids = list(by_id)
        marks = ", ".join("?" * len(ids))
        known = {
            r[0]: r[1:] for r in self._db.execute(f"SELECT * FROM stored WHERE session IN ({marks})", ids).fetchall()
        }
        before = {
            r[0] for r in self._db.execute(f"SELECT session FROM seen WHERE session IN ({marks})", ids).fetchall()
        }
        new = [id for id in ids if id not in before]
        if new:
            self._db.execute(f"INSERT INTO seen VALUES {', '.join(['(?)'] * len(new))}", new)
        for id in reversed(new):
            session = by_id[id]
            counts["sessions"] += 1
            counts["messages"] += len(session.messages)
            stored = known.get(id)
            same = stored is not None and stored[0] == session.content_hash and stored[2]
            if not same or (free and stored is not None and stored[1] != self._extractor):
                counts["changed"] += 1
                counts["changed_messages"] += len(session.messages)
                yield session

    def stage(
        self, sessions: Iterator[Session], generation: int, attempt: int, paid: bool
    ) -> tuple[tuple[Part, ...], bool]:
        """Write batches; returns them, and whether more sessions wait behind the last one."""
        most = PAID_BATCH_CHARACTERS if paid else BATCH_CHARACTERS
        most_batches = PAID_MAX_BATCHES if paid else MAX_BATCHES
        batches: list[Part] = []
        rows: list[dict[str, Any]] = []
        characters = held = 0
        for session in sessions:
            if len(batches) >= most_batches:
                return tuple(batches), True
            rows += _staged_rows(session)
            characters += sum(len(message.text) for message in session.messages)
            held += 1
            if len(rows) >= BATCH_MESSAGES or characters >= most or (paid and held >= PAID_BATCH_SESSIONS):
                batches.append(self._write(f"batch-{generation}-{len(batches)}", STAGED, rows, attempt))
                rows, characters, held = [], 0, 0
        if rows:
            batches.append(self._write(f"batch-{generation}-{len(batches)}", STAGED, rows, attempt))
        return tuple(batches), False

    def gone(self, generation: int, attempt: int) -> tuple[int, tuple[Part, ...]]:
        """Sessions of the source that it has no more. Only after every session was seen."""
        self._db.execute("CREATE OR REPLACE TABLE stored_all (session VARCHAR)")
        if self._lakehouse.state(silver("sessions")) is None:
            return 0, ()
        with self._lakehouse.scan(silver("sessions"), ["source", "session"]) as reader:
            self._db.register("incoming", reader)
            self._db.execute(
                "INSERT INTO stored_all SELECT session FROM incoming WHERE source = ?", [self._work.source]
            )
            self._db.unregister("incoming")
        query = "SELECT session FROM stored_all WHERE session NOT IN (SELECT session FROM seen) ORDER BY 1"
        found = self._db.execute(query)
        parts: list[Part] = []
        count = 0
        while rows := found.fetchmany(50_000):
            count += len(rows)
            given = [{"source": self._work.source, "session": row[0]} for row in rows]
            parts.append(self._write(f"gone-{generation}-{len(parts)}", GONE, given, attempt))
        return count, tuple(parts)

    def _write(self, stream: str, columns: dict[str, str], rows: list[dict[str, Any]], attempt: int) -> Part:
        (part,) = write_parts(self._lakehouse, self._work, stream, columns, rows, attempt)
        return part


def write_parts(
    lakehouse: Lakehouse, work: SourceExtraction, stream: str, columns: dict[str, str], rows: list[dict[str, Any]],
    attempt: int,
) -> tuple[Part, ...]:  # fmt: skip
    """Stage rows under the run; no rows, no part."""
    import pyarrow as pa

    if not rows:
        return ()
    schema = columns_schema(columns)
    with lakehouse.part_writer(CONNECTOR, f"extract.{work.source}", work.run_group, attempt, stream, schema) as writer:
        for start in range(0, len(rows), 10_000):
            writer.write(pa.RecordBatch.from_pylist(rows[start : start + 10_000], schema=schema))
    return writer.parts


def _staged_rows(session: Session) -> Iterator[dict[str, Any]]:
    content_hash = session.content_hash
    for position, message in enumerate(session.messages):
        yield {
            "session": session.id,
            "title": session.title,
            "content_hash": content_hash,
            "position": position,
            "message": message.id,
            "role": message.role,
            "at": message.at,
            "text": message.text,
        }


def staged_sessions(lakehouse: Lakehouse, batch: Part) -> Iterator[tuple[Session, str]]:
    """The sessions of one batch, each with its content hash."""
    current: tuple[str, str, str] | None = None
    messages: list[Message] = []
    for rows in lakehouse.read_parts([batch]):
        for row in rows.to_pylist():
            key = (row["session"], row["title"] or "", row["content_hash"])
            if key != current:
                if current:
                    yield Session(current[0], tuple(messages), current[1]), current[2]
                current, messages = key, []
            messages.append(Message(row["message"], row["role"], row["at"], row["text"]))
    if current:
        yield Session(current[0], tuple(messages), current[1]), current[2]
