"""``/tables`` and ``/status``: every table that was ever synced, as it is now and as it changes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from assets.catalog.listing import Page
from assets.catalog.records import RunStatus, TableRunRecord
from assets.catalog.table_states import TableOrder, TableState
from assets.sync import Column, Model
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Name, Offset, Search
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, feed_of, headrace_of, needs, router
from orchestration.reports import TableInfo

tables = router("/tables", "tables")
status = router("/status", "status")
TableName = Annotated[str, Path(min_length=1, max_length=1000)]


class StoredTable(Model):
    """A table in the lakehouse: its state, where it is, its columns and what each Silver column is made from."""

    info: TableInfo
    columns: tuple[Column, ...] = ()
    silver_columns: dict[str, str] = Field(default_factory=dict, description="source column -> Silver column")
    key: tuple[str, ...] = ()


class Counts(Model):
    """How many tables are in each status."""

    tables: dict[str, int]
    at: datetime


@tables.get("", openapi_extra=needs("read"), summary="One page of the tables")
def list_tables(
    request: Request,
    connector: Annotated[str | None, Query(max_length=63)] = None,
    status: RunStatus | None = None,
    search: Search = None,
    order: TableOrder = "table",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[TableState]:
    return headrace_of(request).catalog.table_page(
        connector=connector, status=status, search=search, order=order, limit=limit, offset=offset
    )


@tables.get(
    "/{connector}/{table}", openapi_extra=needs("read"), responses=responses(404, 504), summary="One table, its columns"
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


@tables.get("/{connector}/{table}/runs", openapi_extra=needs("read"), summary="Its latest runs, newest first")
def table_runs(request: Request, connector: Name, table: TableName, limit: Limit = 50) -> list[TableRunRecord]:
    return headrace_of(request).catalog.table_runs(connector, table, limit=limit)


@status.get("", openapi_extra=needs("read"), summary="How many tables are in each status")
def counts(request: Request) -> Counts:
    from assets.catalog.models import now

    return Counts(tables=headrace_of(request).catalog.table_counts(), at=now())


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
