"""Pages of what the catalog holds: filtered, ordered, counted by the database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, case, func, select, union_all
from sqlalchemy.orm import defer

from assets.catalog.models import ConnectorRow, PipelineRow, RunRow, TableRunRow
from assets.catalog.records import (
    ConnectorRecord,
    ConnectorStatus,
    PipelineRecord,
    RunStatus,
    RunSummary,
    TableRunRecord,
)
from assets.errors import NotFoundError
from assets.sync import Model

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_LIMIT = 500
MOST_CHARTS = 100
ConnectorOrder = Literal["name", "-name", "updated_at", "-updated_at", "type", "status"]
PipelineOrder = Literal["name", "-name", "updated_at", "-updated_at", "connector"]
RunOrder = Literal["started_at", "-started_at"]
Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list, and how many there are in all."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    items: tuple[Item, ...]
    total: int
    limit: int
    offset: int


class RunPoint(Model):
    """One run of a table, for a chart: ``rows`` of Silver after it."""

    status: RunStatus
    started_at: datetime
    completed_at: datetime | None = None
    rows: int = 0


class Listing(ABC):
    """Base of `assets.catalog.store.Catalog`: lists of which a person sees one page."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    @abstractmethod
    def _connector_record(self, row: ConnectorRow) -> ConnectorRecord: ...

    @abstractmethod
    def _pipeline_record(self, row: PipelineRow) -> PipelineRecord: ...

    def connector_page(
        self,
        *,
        type: str | None = None,
        status: ConnectorStatus | None = None,
        search: str | None = None,
        order: ConnectorOrder = "name",
        limit: int = 50,
        offset: int = 0,
    ) -> Page[ConnectorRecord]:
        """Connectors whose name contains ``search``."""
        query = select(ConnectorRow)
        if type is not None:
            query = query.where(ConnectorRow.type == type)
        if status is not None:
            query = query.where(ConnectorRow.status == status)
        if search:
            query = query.where(ConnectorRow.name.contains(search, autoescape=True))
        with self._reading() as session:
            return _page(session, query, ConnectorRow, order, "name", limit, offset, self._connector_record)

    def pipeline_page(
        self,
        *,
        connector: str | None = None,
        active: bool | None = None,
        search: str | None = None,
        order: PipelineOrder = "name",
        limit: int = 50,
        offset: int = 0,
    ) -> Page[PipelineRecord]:
        """Pipelines whose name contains ``search``."""
        query = select(PipelineRow)
        if connector is not None:
            query = query.where(PipelineRow.connector == connector)
        if active is not None:
            query = query.where(PipelineRow.active == active)
        if search:
            query = query.where(PipelineRow.name.contains(search, autoescape=True))
        with self._reading() as session:
            return _page(session, query, PipelineRow, order, "name", limit, offset, self._pipeline_record)

    def run_page(
        self,
        *,
        connector: str | None = None,
        pipeline: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: RunOrder = "-started_at",
        limit: int = 50,
        offset: int = 0,
    ) -> Page[RunSummary]:
        """Runs that started in ``[since, until)``."""
        query = select(RunRow)
        if connector is not None:
            query = query.where(RunRow.connector == connector)
        if pipeline is not None:
            query = query.where(RunRow.pipeline == pipeline)
        if status is not None:
            query = query.where(RunRow.status == status)
        if since is not None:
            query = query.where(RunRow.started_at >= since)
        if until is not None:
            query = query.where(RunRow.started_at < until)
        with self._reading() as session:
            found = _page(session, query, RunRow, order, "run_group", limit, offset, lambda row: row)
            counts = _table_counts(session, [row.run_group for row in found.items])
            items = tuple(_run_summary(row, *counts.get(row.run_group, (0, 0, 0))) for row in found.items)
        return Page(items=items, total=found.total, limit=found.limit, offset=found.offset)

    def run_summary(self, run_group: str) -> RunSummary:
        """One run without its tables.

        Raises:
            NotFoundError: there is no such run.
        """
        with self._reading() as session:
            row = session.get(RunRow, run_group)
            if row is None:
                raise NotFoundError(f"there is no run {run_group[:255]!r}.")
            return _run_summary(row, *_table_counts(session, [run_group]).get(run_group, (0, 0, 0)))

    def table_run_page(
        self, run_group: str, *, status: RunStatus | None = None, limit: int = 50, offset: int = 0
    ) -> Page[TableRunRecord]:
        """The tables of one run without their results: those that failed first, then in the order they began."""
        query = select(TableRunRow).where(TableRunRow.run_group == run_group).options(defer(TableRunRow.result))
        if status is not None:
            query = query.where(TableRunRow.status == status)
        failed_first = case((TableRunRow.status == "failed", 0), else_=1)
        limit = max(1, min(limit, MAX_LIMIT))
        with self._reading() as session:
            total = session.scalar(select(func.count()).select_from(query.with_only_columns(TableRunRow.id).subquery()))
            ordered = query.order_by(failed_first, TableRunRow.started_at, TableRunRow.id)
            rows = session.scalars(ordered.limit(limit).offset(offset))
            return Page(items=tuple(_without_result(row) for row in rows), total=total or 0, limit=limit, offset=offset)

    def recent_points(
        self, tables: Sequence[tuple[str, str]], *, each: int = 20
    ) -> dict[tuple[str, str], list[RunPoint]]:
        """The latest runs of each of at most a hundred tables, oldest first."""
        found: dict[tuple[str, str], list[RunPoint]] = {table: [] for table in tables}
        columns = (
            TableRunRow.connector,
            TableRunRow.table_name,
            TableRunRow.status,
            TableRunRow.started_at,
            TableRunRow.completed_at,
            TableRunRow.rows_silver,
        )
        latest = [
            select(*columns)
            .where(TableRunRow.connector == connector, TableRunRow.table_name == table)
            .order_by(TableRunRow.started_at.desc())
            .limit(each)
            .subquery()
            for connector, table in tables[:MOST_CHARTS]
        ]
        if not latest:
            return found
        # one query: by its index each part reads ``each`` rows, however long the history is
        with self._reading() as session:
            for connector, table, status, started, completed, rows in session.execute(
                union_all(*(select(part) for part in latest))
            ):
                point = RunPoint(status=status, started_at=started, completed_at=completed, rows=rows or 0)
                found[connector, table].append(point)
        return {table: sorted(points, key=lambda point: point.started_at) for table, points in found.items()}


def _without_result(row: TableRunRow) -> TableRunRecord:
    fields = {name: getattr(row, name) for name in TableRunRecord.model_fields.keys() - {"table", "result", "options"}}
    return TableRunRecord(**fields, table=row.table_name, options=row.options or {})


def _table_counts(session: Session, run_groups: list[str]) -> dict[str, tuple[int, int, int]]:
    """Tables that succeeded, tables that failed and rows read, of each run."""
    query = (
        select(
            TableRunRow.run_group,
            func.sum(case((TableRunRow.status == "succeeded", 1), else_=0)),
            func.sum(case((TableRunRow.status == "failed", 1), else_=0)),
            func.sum(TableRunRow.rows_read),
        )
        .where(TableRunRow.run_group.in_(run_groups))
        .group_by(TableRunRow.run_group)
    )
    return {group: (int(good), int(bad), int(rows)) for group, good, bad, rows in session.execute(query)}


def _run_summary(row: RunRow, succeeded: int, failed: int, rows_read: int) -> RunSummary:
    counted: dict[str, Any] = {
        "table_count": len(row.tables),
        "succeeded": succeeded,
        "failed": failed,
        "rows_read": rows_read,
    }
    fields = {name: getattr(row, name) for name in RunSummary.model_fields if name not in counted}
    return RunSummary(**fields, **counted)


def _page(
    session: Session,
    query: Select[Any],
    row_type: Any,
    order: str,
    tie: str,
    limit: int,
    offset: int,
    record: Callable[[Any], Item],
) -> Page[Item]:
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    columns = [getattr(row_type, name) for name in dict.fromkeys((order.removeprefix("-"), tie))]
    if order.startswith("-"):
        columns = [column.desc() for column in columns]
    limit = max(1, min(limit, MAX_LIMIT))
    rows = session.scalars(query.order_by(*columns).limit(limit).offset(offset)).all()
    return Page(items=tuple(record(row) for row in rows), total=total, limit=limit, offset=offset)
