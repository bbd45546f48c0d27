"""``/tables`` and ``/status``: every table that was ever synced, as it is now and as it changes; and what it holds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from assets.catalog.listing import Page
from assets.catalog.records import RunStatus, TableRunRecord
from assets.catalog.table_states import Health, TableOrder, TableState
from assets.lakehouse_sql import MAX_QUERY, QueryResult
from assets.sync import Column, Model
from orchestration import sql_box, stored_tables
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Name, Offset, Search
from orchestration.api.pipelines import StartedRun
from orchestration.api.preconditions import IdempotencyKey
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, feed_of, headrace_of, needs, router
from orchestration.reports import TableInfo
from orchestration.stored_tables import ColumnLineage, Quarantine, StoredLayer, TablePreview

tables = router("/tables", "tables")
status = router("/status", "status")
sql = router("/sql", "sql")
TableName = Annotated[str, Path(min_length=1, max_length=1000)]
Rows = Annotated[int, Query(ge=1, le=stored_tables.MAX_ROWS)]


class StoredTable(Model):
    """A table in the lakehouse: its state, where it is, its columns and what each Silver column is made from."""

    info: TableInfo
    columns: tuple[Column, ...] = ()
    silver_columns: dict[str, str] = Field(default_factory=dict, description="source column -> Silver column")
    key: tuple[str, ...] = ()


class Counts(Model):
    """How many tables are in each status, and of each health (see ``TableState``)."""

    tables: dict[str, int]
    health: dict[Health, int]
    at: datetime


class SqlQuery(BaseModel):
    """One SELECT over ``silver.CONNECTOR__TABLE``."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(
        min_length=1, max_length=MAX_QUERY, examples=["SELECT count(*) FROM silver.shop__public__orders"]
    )
    max_rows: int = Field(default=sql_box.DEFAULT_ROWS, ge=1, le=sql_box.MAX_ROWS)


@tables.get("", openapi_extra=needs("read"), summary="One page of the tables")
def list_tables(
    request: Request,
    connector: Annotated[str | None, Query(max_length=63)] = None,
    pipeline: Annotated[str | None, Query(max_length=63)] = None,
    status: RunStatus | None = None,
    health: Annotated[list[Health] | None, Query(max_length=5, description="in one of these")] = None,
    search: Search = None,
    order: TableOrder = "table",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[TableState]:
    return headrace_of(request).catalog.table_page(
        connector=connector,
        pipeline=pipeline,
        status=status,
        health=health,
        search=search,
        order=order,
        limit=limit,
        offset=offset,
    )


# a table's name may hold slashes, so that what stands behind it is looked for first


@tables.get("/{connector}/{table:path}/runs", openapi_extra=needs("read"), summary="Its latest runs, newest first")
def table_runs(request: Request, connector: Name, table: TableName, limit: Limit = 50) -> list[TableRunRecord]:
    return headrace_of(request).catalog.table_runs(connector, table, limit=limit)


@tables.get(
    "/{connector}/{table:path}/state", openapi_extra=needs("read"), responses=responses(404), summary="Its state alone"
)
def table_state(request: Request, connector: Name, table: TableName) -> TableState:
    return headrace_of(request).table_state(connector, table)


@tables.get(
    "/{connector}/{table:path}/lineage",
    openapi_extra=needs("read"),
    responses=responses(404, 504),
    summary="Where each of its columns comes from",
)
async def table_lineage(request: Request, connector: Name, table: TableName) -> list[ColumnLineage]:
    headrace = headrace_of(request)

    def read() -> list[ColumnLineage]:
        headrace.table_state(connector, table)
        return list(stored_tables.lineage(headrace, connector, table))

    return await blocking_of(request).run(read, DISCOVER_SECONDS)


@tables.get(
    "/{connector}/{table:path}/preview",
    openapi_extra=needs("data"),
    responses=responses(404, 504),
    summary="Its first rows, values as text",
)
async def table_preview(
    request: Request,
    connector: Name,
    table: TableName,
    layer: StoredLayer = "silver",
    rows: Rows = stored_tables.DEFAULT_ROWS,
) -> TablePreview:
    headrace = headrace_of(request)
    return await blocking_of(request).run(
        lambda: stored_tables.preview(headrace, connector, table, layer, rows), DISCOVER_SECONDS
    )


@tables.get(
    "/{connector}/{table:path}/quarantine",
    openapi_extra=needs("data"),
    responses=responses(404, 504),
    summary="Values that did not fit: key, column, reason",
)
async def table_quarantine(
    request: Request, connector: Name, table: TableName, rows: Rows = stored_tables.MAX_ROWS
) -> Quarantine:
    headrace = headrace_of(request)

    def read() -> Quarantine:
        headrace.table_state(connector, table)
        return stored_tables.quarantine(headrace, connector, table, rows)

    return await blocking_of(request).run(read, DISCOVER_SECONDS)


@tables.post(
    "/{connector}/{table:path}/reset",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Start it anew: read in full, swapped in atomically, with a new watermark",
)
async def reset_table(
    request: Request, connector: Name, table: TableName, idempotency_key: IdempotencyKey = None
) -> StartedRun:
    headrace = headrace_of(request)
    report = await blocking_of(request).run(lambda: headrace.reset_table(connector, table), DISCOVER_SECONDS)
    return StartedRun(run_id=report.run_group, workflow_ids=list(report.workflow_ids))


@tables.get(
    "/{connector}/{table:path}",
    openapi_extra=needs("read"),
    responses=responses(404, 504),
    summary="One table, its columns",
)
async def read_table(request: Request, connector: Name, table: TableName) -> StoredTable:
    headrace = headrace_of(request)

    def read() -> StoredTable:
        info = headrace.table(connector, table)
        proven = headrace.catalog.last_table_run(connector, table)
        result = proven.result if proven else None
        if result is None:
            return StoredTable(info=info)
        return StoredTable(info=info, columns=result.columns, silver_columns=result.column_names, key=result.key)

    return await blocking_of(request).run(read, DISCOVER_SECONDS)


@sql.post(
    "", openapi_extra=needs("data"), responses=responses(404, 409, 504), summary="Ask Silver: one SELECT, read-only"
)
async def ask(request: Request, asked: SqlQuery) -> QueryResult:
    headrace = headrace_of(request)
    seconds = sql_box.START_SECONDS + sql_box.MAX_SECONDS + 5
    return await blocking_of(request).run(lambda: sql_box.ask(headrace, asked.query, max_rows=asked.max_rows), seconds)


@status.get("", openapi_extra=needs("read"), summary="How many tables are in each status")
def counts(request: Request) -> Counts:
    from assets.catalog.models import now

    catalog = headrace_of(request).catalog
    return Counts(tables=catalog.table_counts(), health=catalog.health_counts(), at=now())


@status.get(
    "/stream",
    openapi_extra=needs("read"),
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `tables` with the tables that changed, as JSON",
            "content": {"text/event-stream": {}},
        }
    },
    summary="Every table's state as it changes",
)
async def stream(request: Request) -> StreamingResponse:
    events = await feed_of(request).subscribe()
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
