"""The state of each table, one row a table, kept by the writes of its runs: what a status page reads every second.

The row follows the table's latest run; what it last proved stays until the next success.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Connection, String, Text, case, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from assets.catalog.listing import MAX_LIMIT, Page
from assets.catalog.models import Base, TableRunRow, now
from assets.catalog.records import RunStatus
from assets.sync import Model

TableOrder = Literal["table", "-table", "-changed_at", "status", "-rows"]
_RESULT = {"rows": "rows_silver", "equal": "equal", "watermark": "watermark_after", "bytes": "bytes"}


class TableStateRow(Base):
    __tablename__ = "table_states"

    connector: Mapped[str] = mapped_column(String(63), primary_key=True)
    table_name: Mapped[str] = mapped_column(Text, primary_key=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    run_group: Mapped[str] = mapped_column(String(255))
    mode: Mapped[str | None] = mapped_column(String(16))
    rows_read: Mapped[int] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)
    error_type: Mapped[str | None] = mapped_column(String(255))
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    equal: Mapped[bool | None] = mapped_column(Boolean)
    watermark: Mapped[str | None] = mapped_column(Text)
    succeeded_at: Mapped[datetime | None]
    synced_from: Mapped[datetime | None]
    changed_at: Mapped[datetime] = mapped_column(index=True)


class TableState(Model):
    """A table now. ``rows``, ``equal`` and ``watermark`` are what its last success brought and proved.

    ``synced_from`` is when that success began: what Silver shows is not older than that.
    """

    connector: str
    table: str
    status: RunStatus
    run_group: str
    mode: str | None = None
    rows_read: int = 0
    error: str | None = None
    error_type: str | None = None
    started_at: datetime
    completed_at: datetime | None = None
    rows: int | None = None
    bytes: int | None = None
    equal: bool | None = None
    watermark: str | None = None
    succeeded_at: datetime | None = None
    synced_from: datetime | None = None
    changed_at: datetime


class TableStates(ABC):
    """Base of `assets.catalog.store.Catalog`: the tables as they are now."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    def table_page(
        self,
        *,
        connector: str | None = None,
        status: RunStatus | None = None,
        search: str | None = None,
        order: TableOrder = "table",
        limit: int = 50,
        offset: int = 0,
    ) -> Page[TableState]:
        """Tables that were ever synced, whose name contains ``search``."""
        query = select(TableStateRow)
        if connector is not None:
            query = query.where(TableStateRow.connector == connector)
        if status is not None:
            query = query.where(TableStateRow.status == status)
        if search:
            query = query.where(TableStateRow.table_name.contains(search, autoescape=True))
        key = (TableStateRow.connector, TableStateRow.table_name)
        columns: Sequence[Any] = {
            "table": key,
            "-table": tuple(column.desc() for column in key),
            "-changed_at": (TableStateRow.changed_at.desc(), *key),
            "status": (TableStateRow.status, *key),
            "-rows": (func.coalesce(TableStateRow.rows, 0).desc(), *key),
        }[order]
        limit = max(1, min(limit, MAX_LIMIT))
        with self._reading() as session:
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            rows = session.scalars(query.order_by(*columns).limit(limit).offset(offset))
            return Page(items=tuple(_state(row) for row in rows), total=total, limit=limit, offset=offset)

    def table_state(self, connector: str, table: str) -> TableState | None:
        """One table; None: it was never synced."""
        with self._reading() as session:
            row = session.get(TableStateRow, (connector, table))
            return _state(row) if row is not None else None

    def tables_changed_since(self, since: datetime, limit: int = 5000) -> list[TableState]:
        """What changed at ``since`` or later, oldest change first."""
        query = select(TableStateRow).where(TableStateRow.changed_at >= since).order_by(TableStateRow.changed_at)
        with self._reading() as session:
            return [_state(row) for row in session.scalars(query.limit(limit))]

    def table_counts(self) -> dict[str, int]:
        """How many tables are in each status; ``differing`` counts those whose last success was not equal."""
        with self._reading() as session:
            grouped = select(TableStateRow.status, func.count()).group_by(TableStateRow.status)
            counts = {status: int(count) for status, count in session.execute(grouped)}
            differing = select(func.count()).select_from(TableStateRow).where(TableStateRow.equal.is_(False))
            return counts | {"differing": session.scalar(differing) or 0}


def _state(row: TableStateRow) -> TableState:
    fields = {name: getattr(row, name) for name in TableState.model_fields if name != "table"}
    return TableState.model_validate(fields | {"table": row.table_name})


@event.listens_for(TableRunRow, "after_insert")
@event.listens_for(TableRunRow, "after_update")
def _keep_state(_mapper: Any, connection: Connection, run: TableRunRow) -> None:
    """Bring the table's row up to its run, in the transaction that writes the run; an older run changes nothing."""
    values: dict[str, Any] = {
        name: getattr(run, name)
        for name in (
            "connector",
            "table_name",
            "status",
            "run_group",
            "mode",
            "rows_read",
            "error",
            "error_type",
            "started_at",
            "completed_at",
        )
    }
    values["changed_at"] = now()
    good = run.status == "succeeded"
    values |= {name: getattr(run, source) if good else None for name, source in _RESULT.items()}
    values["succeeded_at"], values["synced_from"] = (run.completed_at, run.started_at) if good else (None, None)
    proven = {*_RESULT, "succeeded_at", "synced_from"}
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(TableStateRow).values(values)
    given = insert.excluded
    latest = {
        name: case((given.status == "succeeded", given[name]), else_=getattr(TableStateRow, name))
        if name in proven
        else given[name]
        for name in values
        if name not in ("connector", "table_name")
    }
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["connector", "table_name"],
            set_=latest,
            where=TableStateRow.started_at <= given.started_at,
        )
    )
