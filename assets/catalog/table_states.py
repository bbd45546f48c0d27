"""The state of each table, one row a table, kept by the writes of its runs: what a status page reads every second.

The row follows the table's latest run, but a run that is skipped because another one goes on does not hide that one;
what the table last proved stays until a later success.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cache
from typing import Any, Literal, get_args

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Select,
    String,
    Text,
    and_,
    bindparam,
    case,
    column,
    event,
    func,
    literal,
    not_,
    or_,
    select,
    update,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from assets.catalog.lateness import SCHEDULED, overdue_before
from assets.catalog.listing import MAX_LIMIT, Page
from assets.catalog.models import Base, PipelineRow, RunRow, TableRunRow, UtcDateTime, now
from assets.catalog.records import RunStatus
from assets.sync import Model

TableOrder = Literal["table", "-table", "-changed_at", "status", "-rows", "synced_from"]
Health = Literal["syncing", "failed", "differs", "late", "ok"]
"""A table at a glance: its latest run goes on, or failed; else what it last proved was not equal, or is older than its
schedule allows."""
ATTENTION: tuple[Health, ...] = ("failed", "differs", "late")
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
    pipeline: Mapped[str | None] = mapped_column(String(63), index=True)


class TableState(Model):
    """A table now. ``rows``, ``equal`` and ``watermark`` are what its last success brought and proved.

    ``synced_from`` is when that success began: what Silver shows is not older than that, so ``lag_seconds``, its age,
    bounds how far Silver is behind the source. ``pipeline`` is the one that synced it last.
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
    pipeline: str | None = None
    health: Health = "ok"
    lag_seconds: float | None = None


class ConnectorTables(Model):
    """The tables of one connector: how many, how many of them failed last; ``synced_from`` is that of the oldest."""

    tables: int = 0
    failed: int = 0
    synced_from: datetime | None = None


class TableStates(ABC):
    """Base of `assets.catalog.store.Catalog`: the tables as they are now."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    def table_page(
        self,
        *,
        connector: str | None = None,
        pipeline: str | None = None,
        status: RunStatus | None = None,
        health: Sequence[Health] | None = None,
        search: str | None = None,
        order: TableOrder = "table",
        limit: int = 50,
        offset: int = 0,
    ) -> Page[TableState]:
        """Tables that were ever synced, whose name contains ``search``; ``health``: in one of these."""
        limit = max(1, min(limit, MAX_LIMIT))
        with self._reading() as session:
            query = _states(session)
            if connector is not None:
                query = query.where(TableStateRow.connector == connector)
            if pipeline is not None:
                query = query.where(TableStateRow.pipeline == pipeline)
            if status is not None:
                query = query.where(TableStateRow.status == status)
            if health is not None:
                query = query.where(query.selected_columns.health.in_(health))
            if search:
                query = query.where(TableStateRow.table_name.contains(search, autoescape=True))
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            rows = session.execute(query.order_by(*_order(order)).limit(limit).offset(offset))
            return Page(items=tuple(_state(*row) for row in rows), total=total, limit=limit, offset=offset)

    def table_state(self, connector: str, table: str) -> TableState | None:
        """One table; None: it was never synced."""
        with self._reading() as session:
            one = (TableStateRow.connector == connector, TableStateRow.table_name == table)
            row = session.execute(_states(session).where(*one)).one_or_none()
            return _state(*row) if row is not None else None

    def tables_of_connectors(self, connectors: Sequence[str]) -> dict[str, ConnectorTables]:
        """The tables of each of these connectors that has some."""
        row = TableStateRow
        failed = func.sum(case((row.status == "failed", 1), else_=0))
        query = select(row.connector, func.count(), failed, func.min(row.synced_from)).group_by(row.connector)
        with self._reading() as session:
            return {
                name: ConnectorTables(tables=count, failed=int(bad), synced_from=oldest)
                for name, count, bad, oldest in session.execute(query.where(row.connector.in_(connectors)))
            }

    def tables_changed_since(self, since: datetime, limit: int = 5000) -> list[TableState]:
        """What changed at ``since`` or later, oldest change first."""
        with self._reading() as session:
            query = _states(session).where(TableStateRow.changed_at >= since).order_by(TableStateRow.changed_at)
            return [_state(*row) for row in session.execute(query.limit(limit))]

    def table_names(self, connector: str) -> list[str]:
        """Tables of a connector that were ever synced."""
        query = select(TableStateRow.table_name).where(TableStateRow.connector == connector)
        with self._reading() as session:
            return list(session.scalars(query.order_by(TableStateRow.table_name)))

    def table_counts(self) -> dict[str, int]:
        """How many tables are in each status; ``differing`` counts those whose last success was not equal."""
        with self._reading() as session:
            grouped = select(TableStateRow.status, func.count()).group_by(TableStateRow.status)
            counts = {status: int(count) for status, count in session.execute(grouped)}
            differing = select(func.count()).select_from(TableStateRow).where(TableStateRow.equal.is_(False))
            return counts | {"differing": session.scalar(differing) or 0}

    def health_counts(self, connector: str | None = None) -> dict[Health, int]:
        """How many tables there are of each health."""
        with self._reading() as session:
            query = _states(session)
            if connector is not None:
                query = query.where(TableStateRow.connector == connector)
            of = query.with_only_columns(query.selected_columns.health.label("health")).subquery()
            found = dict(session.execute(select(of.c.health, func.count()).group_by(of.c.health)).tuples().all())
            return {health: int(found.get(health, 0)) for health in get_args(Health)}


def _order(order: TableOrder) -> Sequence[Any]:
    key = (TableStateRow.connector, TableStateRow.table_name)
    return {
        "table": key,
        "-table": tuple(column.desc() for column in key),
        "-changed_at": (TableStateRow.changed_at.desc(), *key),
        "status": (TableStateRow.status, *key),
        "-rows": (func.coalesce(TableStateRow.rows, 0).desc(), *key),
        "synced_from": (func.coalesce(TableStateRow.synced_from, TableStateRow.started_at), *key),
    }[order]


def _states(session: Session) -> Select[Any, Any]:
    """Rows of states, each with its ``health``. Late is told by the schedules of today's active pipelines."""
    schedule = (PipelineRow.schedule_kind, PipelineRow.schedule_expression, PipelineRow.timezone)
    scheduled = and_(PipelineRow.active, PipelineRow.schedule_kind.in_(SCHEDULED))
    at = now()
    known = [
        (kind, expression, timezone, overdue_before(kind, expression or "", timezone, at))
        for kind, expression, timezone in session.execute(select(*schedule).where(scheduled).distinct())
    ]
    if not known:
        return select(TableStateRow, _health(None).label("health"))
    due = values(
        column("kind", String), column("expression", String), column("timezone", String), column("due", UtcDateTime)
    )
    due = due.data(known).cte("due")
    same = [
        mine == theirs for mine, theirs in zip(schedule, (due.c.kind, due.c.expression, due.c.timezone), strict=True)
    ]
    return (
        select(TableStateRow, _health(due.c.due).label("health"))
        .outerjoin(PipelineRow, and_(PipelineRow.name == TableStateRow.pipeline, scheduled))
        .outerjoin(due, and_(*same))
    )


def _health(due: ColumnElement[Any] | None) -> ColumnElement[Any]:
    began = func.coalesce(TableStateRow.synced_from, TableStateRow.started_at)
    late = [] if due is None else [(began < due, literal("late"))]
    return case(
        (TableStateRow.status == "running", literal("syncing")),
        (TableStateRow.status == "failed", literal("failed")),
        (TableStateRow.equal.is_(False), literal("differs")),
        *late,
        else_=literal("ok"),
    )


def _state(row: TableStateRow, health: Health) -> TableState:
    fields = {name: getattr(row, name, None) for name in TableState.model_fields}
    lag = (now() - row.synced_from).total_seconds() if row.synced_from else None
    return TableState.model_validate(fields | {"table": row.table_name, "health": health, "lag_seconds": lag})


@event.listens_for(PipelineRow, "after_insert")
@event.listens_for(PipelineRow, "after_update")
def _belong(_mapper: Any, connection: Connection, pipeline: PipelineRow) -> None:
    """Tables that this pipeline takes and no other one has are its own; those it takes no more are nobody's."""
    query = select(TableStateRow.table_name, TableStateRow.pipeline).where(
        TableStateRow.connector == pipeline.connector,
        (TableStateRow.pipeline == pipeline.name) | TableStateRow.pipeline.is_(None),
    )
    names = {entry["name"] for entry in pipeline.tables}
    for table, owner in connection.execute(query).all():
        wanted = pipeline.name if pipeline.all_tables or table in names else None
        if wanted != owner:
            one = (TableStateRow.connector == pipeline.connector, TableStateRow.table_name == table)
            connection.execute(update(TableStateRow).where(*one).values(pipeline=wanted))


@event.listens_for(TableRunRow, "after_insert")
@event.listens_for(TableRunRow, "after_update")
def _keep_state(_mapper: Any, connection: Connection, run: TableRunRow) -> None:
    """Bring the table's row up to its run, in the transaction that writes the run.

    An older run changes only what is proved, by a success, when nothing newer was.
    """
    row: dict[str, Any] = {
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
    row["changed_at"] = now()
    good = run.status == "succeeded"
    row |= {name: getattr(run, source) if good else None for name, source in _RESULT.items()}
    row["succeeded_at"], row["synced_from"] = (run.completed_at, run.started_at) if good else (None, None)
    connection.execute(_upsert(connection.dialect.name), {f"new_{name}": value for name, value in row.items()})


@cache
def _upsert(dialect: str) -> Any:
    """Built once: composing it takes longer than running it. Parameters: ``new_`` and the column's name."""
    proven = {*_RESULT, "succeeded_at", "synced_from"}
    columns = [column for column in TableStateRow.__table__.columns if column.name != "pipeline"]
    row: dict[str, Any] = {column.name: bindparam(f"new_{column.name}", type_=column.type) for column in columns}
    row["pipeline"] = select(RunRow.pipeline).where(RunRow.run_group == row["run_group"]).scalar_subquery()
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(TableStateRow).values(row)
    given = insert.excluded
    good, skipped = given.status == "succeeded", given.status == "skipped"
    newer = TableStateRow.started_at <= given.started_at
    behind = and_(skipped, TableStateRow.status == "running", TableStateRow.run_group != given.run_group)
    follows = and_(newer, not_(behind))
    unproven = or_(TableStateRow.synced_from.is_(None), TableStateRow.synced_from < given.synced_from)
    proves = and_(good, or_(newer, unproven))
    latest: dict[str, Any] = {
        name: case((proves if name in proven else follows, given[name]), else_=getattr(TableStateRow, name))
        for name in row
        if name not in ("connector", "table_name", "pipeline", "changed_at")
    }
    latest["changed_at"] = given.changed_at
    latest["pipeline"] = func.coalesce(given.pipeline, TableStateRow.pipeline)
    return insert.on_conflict_do_update(
        index_elements=["connector", "table_name"], set_=latest, where=or_(follows, proves)
    )
