"""``/connectors``: sources, their configs without secrets, their tests and tables."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from assets.catalog.listing import MAX_LIMIT, ConnectorOrder, Page
from assets.catalog.records import ConnectorRecord, ConnectorStatus
from assets.sync import Backfill, SourceTable, TableOptions
from orchestration.api.preconditions import IdempotencyKey, IfMatch, check, tag
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, headrace_of, needs, router
from orchestration.reports import ConnectorTest, PlanReport

connectors = router("/connectors", "connectors")
TEST_SECONDS, DISCOVER_SECONDS = 30, 120
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000)]
Search = Annotated[str | None, Query(max_length=200, description="part of the name")]
Name = Annotated[str, Path(min_length=1, max_length=63, pattern=r"^[a-z][a-z0-9_]*$")]


class ConnectorType(BaseModel):
    """A connector type; ``config_schema`` is the JSON schema of its config, secrets marked ``writeOnly``."""

    name: str
    config_schema: dict[str, Any]


class ConfigTrial(BaseModel):
    """A config that is tried and not kept."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(max_length=63)
    config: dict[str, Any]


class NewConnector(ConfigTrial):
    name: str = Field(max_length=63)


class ChangedConnector(BaseModel):
    """A secret field that ``config`` leaves out keeps its value."""

    model_config = ConfigDict(extra="forbid")
    type: str | None = Field(default=None, max_length=63)
    config: dict[str, Any]


@connectors.get("/types", openapi_extra=needs("read"), summary="Connector types with their config schemas")
def list_types(request: Request) -> list[ConnectorType]:
    from assets.sources.interface import connector_types

    return [
        ConnectorType(name=name, config_schema=kind.Config.model_json_schema())
        for name, kind in sorted(connector_types().items())
    ]


@connectors.post("/test", openapi_extra=needs("admin"), responses=responses(502, 504), summary="Try a config")
async def test_config(request: Request, trial: ConfigTrial) -> ConnectorTest:
    connectors = headrace_of(request).connectors
    return await blocking_of(request).run(lambda: connectors.test_config(trial.type, trial.config), TEST_SECONDS)


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


@connectors.post(
    "", status_code=201, openapi_extra=needs("admin", idempotent=True), responses=responses(409), summary="Add one"
)
def add_connector(
    request: Request, response: Response, new: NewConnector, idempotency_key: IdempotencyKey = None
) -> ConnectorRecord:
    record = headrace_of(request).connectors.add(new.name, new.type, new.config)
    tag(response, record.updated_at)
    return record


@connectors.get("/{name}", openapi_extra=needs("read"), responses=responses(404), summary="One connector")
def read_connector(request: Request, response: Response, name: Name) -> ConnectorRecord:
    record = headrace_of(request).connectors.show(name)
    tag(response, record.updated_at)
    return record


@connectors.put(
    "/{name}", openapi_extra=needs("admin"), responses=responses(404, 409, 412, 428), summary="Change its config"
)
def change_connector(
    request: Request, response: Response, name: Name, changed: ChangedConnector, if_match: IfMatch = None
) -> ConnectorRecord:
    connectors = headrace_of(request).connectors
    known = connectors.show(name)
    check(if_match, known.updated_at)
    record = connectors.update(name, changed.config, type=changed.type, unchanged_since=known.updated_at)
    tag(response, record.updated_at)
    return record


@connectors.delete(
    "/{name}",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404, 409, 412),
    summary="Remove it; its tables in the lakehouse stay",
)
def remove_connector(
    request: Request,
    name: Name,
    with_pipelines: Annotated[bool, Query(description="remove the pipelines that use it too")] = False,
    if_match: IfMatch = None,
) -> None:
    connectors = headrace_of(request).connectors
    check(if_match, connectors.show(name).updated_at, needed=False)
    connectors.remove(name, force=with_pipelines)


@connectors.post(
    "/{name}/test", openapi_extra=needs("operate"), responses=responses(404, 502, 504), summary="Try its source"
)
async def test_connector(request: Request, name: Name) -> ConnectorTest:
    connectors = headrace_of(request).connectors
    return await blocking_of(request).run(lambda: connectors.test(name), TEST_SECONDS)


@connectors.get(
    "/{name}/discover", openapi_extra=needs("operate"), responses=responses(404, 502, 504), summary="Tables it finds"
)
async def discover(
    request: Request,
    name: Name,
    table: Annotated[list[str] | None, Query(max_length=1000, description="only these")] = None,
) -> list[SourceTable]:
    connectors = headrace_of(request).connectors
    return list(await blocking_of(request).run(lambda: connectors.discover(name, table), DISCOVER_SECONDS))


class PlannedSync(TableOptions):
    """What would be synced, and how; every table where none is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tables: list[str] | None = Field(default=None, max_length=1000)
    backfill: Backfill | None = None
    reset: bool = False


@connectors.get(
    "/{name}/plan",
    openapi_extra=needs("operate"),
    responses=responses(404, 502, 504),
    summary="What a sync of its tables would do; nothing runs",
)
async def plan(
    request: Request,
    name: Name,
    table: Annotated[list[str] | None, Query(max_length=1000, description="only these")] = None,
) -> PlanReport:
    hr = headrace_of(request)
    return await blocking_of(request).run(lambda: hr.plan(name, table), DISCOVER_SECONDS)


@connectors.post(
    "/{name}/plan",
    openapi_extra=needs("operate"),
    responses=responses(404, 502, 504),
    summary="What a sync with these options would do; nothing runs",
)
async def plan_with_options(request: Request, name: Name, asked: PlannedSync) -> PlanReport:
    hr = headrace_of(request)
    options = {field: getattr(asked, field) for field in PlannedSync.model_fields if field != "tables"}
    if asked.backfill:
        options["backfill"] = (asked.backfill.low, asked.backfill.high)
    return await blocking_of(request).run(lambda: hr.plan(name, asked.tables, **options), DISCOVER_SECONDS)
