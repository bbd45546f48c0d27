"""``/connectors``: sources, their configs without secrets, their tests."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from assets.catalog.listing import MAX_LIMIT, ConnectorOrder, Page
from assets.catalog.records import ConnectorRecord, ConnectorStatus
from orchestration.api.problems import responses
from orchestration.api.routing import headrace_of, needs, router

connectors = router("/connectors", "connectors")
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000)]
Search = Annotated[str | None, Query(max_length=200, description="part of the name")]


@connectors.get("", openapi_extra=needs("read"), summary="One page of the connectors")
def list_connectors(
    request: Request,
    type: Annotated[str | None, Query(max_length=63)] = None,
    status: ConnectorStatus | None = None,
    search: Search = None,
    order: ConnectorOrder = "name",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[ConnectorRecord]:
    return headrace_of(request).connectors.page(
        type=type, status=status, search=search, order=order, limit=limit, offset=offset
    )


@connectors.get("/{name}", openapi_extra=needs("read"), responses=responses(404), summary="One connector")
def read_connector(request: Request, name: str) -> ConnectorRecord:
    return headrace_of(request).connectors.show(name)
