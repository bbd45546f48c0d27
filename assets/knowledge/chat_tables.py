"""Sessions from chat tables that a connector syncs: read from Silver, ordered, one session in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from assets.errors import NotFoundError
from assets.knowledge.dialogue import Message, Session
from assets.knowledge.source_config import ChatTables
from assets.lakehouse.interface import Lakehouse, TableId
from assets.naming import snake_case
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.settings import Settings

ROWS = 2_048


class ChatReader(ScratchDatabase):
    """Orders a chat table's rows with bounded memory and yields its sessions, sorted by id."""

    def __init__(self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse, config: ChatTables) -> None:
        super().__init__(settings.memory_limit, settings.home_path / "scratch")
        self._catalog, self._lakehouse, self._config = catalog, lakehouse, config

    def sessions(self) -> Iterator[Session]:
        """Every session with a message.

        Raises:
            NotFoundError: a table or column is not there.
        """
        config = self._config
        wanted = {"session": config.session, "message": config.message, "text": config.text}
        wanted |= {name: column for name, column in (("role", config.role), ("at", config.time)) if column}
        self._load("rows", config.messages, wanted)
        role = "CAST(role AS VARCHAR)" if config.role else "'unknown'"
        at = 'CAST(r."at" AS TIMESTAMPTZ)' if config.time else "NULL::TIMESTAMPTZ"
        title, known = "NULL", ""
        if config.sessions:
            columns = {"id": config.sessions_key} | ({"title": config.title} if config.title else {})
            self._load("sessions", config.sessions, columns)
            known = "JOIN sessions s ON CAST(s.id AS VARCHAR) = CAST(r.session AS VARCHAR)"
            title = "CAST(s.title AS VARCHAR)" if config.title else "NULL"
        ordered = self._db.execute(
            f"SELECT CAST(r.session AS VARCHAR) AS session, CAST(r.message AS VARCHAR) AS message, {role} AS role,"
            f" {at} AS at, CAST(r.text AS VARCHAR) AS text, {title} AS title FROM rows r {known}"
            " WHERE r.session IS NOT NULL AND r.text IS NOT NULL AND trim(CAST(r.text AS VARCHAR)) <> ''"
            f" ORDER BY 1, {at} NULLS LAST, r.message, 5"
        )
        current: str | None = None
        messages: list[Message] = []
        name = ""
        seen: dict[str, int] = {}
        while rows := ordered.fetchmany(ROWS):
            for session, message, speaker, moment, text, own_title in rows:
                if session != current:
                    if current is not None:
                        yield Session(current, tuple(messages), name)
                    current, messages, name, seen = session, [], own_title or "", {}
                messages.append(Message(_unique(str(message), seen), speaker or "unknown", _utc(moment), text))
        if current is not None:
            yield Session(current, tuple(messages), name)

    def _load(self, name: str, table: str, columns: dict[str, str]) -> None:
        id = TableId(layer="silver", connector=self._config.connector, table=table)
        where = f"{self._config.connector}/{table}"
        if self._lakehouse.state(id) is None:
            raise NotFoundError(
                "the table was not synced yet.",
                where=where,
                remedy=f"Run: headrace sync {self._config.connector} {table}",
            )
        stored = set(self._lakehouse.schema(id).names)
        last = self._catalog.last_table_run(self._config.connector, table)
        mapping = last.result.column_names if last and last.result else {}
        silver = {alias: mapping.get(column, snake_case(column)) for alias, column in columns.items()}
        missing = [columns[alias] for alias, column in silver.items() if column not in stored]
        if missing:
            raise NotFoundError(
                f"there is no column {', '.join(missing)}.", where=where, remedy="Correct the source's columns."
            )
        with self._lakehouse.scan(id, list(dict.fromkeys(silver.values()))) as reader:
            self._db.register("incoming", reader)
            chosen = ", ".join(f"{quoted(column)} AS {quoted(alias)}" for alias, column in silver.items())
            self._db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {chosen} FROM incoming")
            self._db.unregister("incoming")


def _unique(id: str, seen: dict[str, int]) -> str:
    """A message id that occurs twice in a session is numbered: a place needs one message."""
    seen[id] = seen.get(id, 0) + 1
    return id if seen[id] == 1 else f"{id}#{seen[id]}"


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
