"""``/pipelines``: which tables are synced, how and when; and their runs by hand."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, computed_field

from assets.catalog.listing import Page, PipelineOrder
from assets.catalog.records import PipelineRecord, PipelineTable
from assets.sync import Overlap, TableOptions
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Name, Offset, Search
from orchestration.api.preconditions import IdempotencyKey, IfMatch, check, tag
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, headrace_of, needs, router
from orchestration.reports import PlanReport

pipelines = router("/pipelines", "pipelines")
MAX_TABLES = 10_000


class ShownPipeline(PipelineRecord):
    @computed_field(alias="schedule")
    @property
    def written_schedule(self) -> str:
        """As it is written: `cron:*/5 * * * *`, `every:15m`, `changes:5m` or `manual`."""
        return self.schedule


class ChangedPipeline(TableOptions):
    """A pipeline's definition; a table may have options of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    connector: str = Field(max_length=63)
    tables: list[str | PipelineTable] = Field(default=[], max_length=MAX_TABLES)
    all_tables: bool = False
    schedule: str = Field(default="manual", max_length=200)
    timezone: str = Field(default="UTC", max_length=63)
    overlap: Overlap = "skip"
    deferred: bool = False
    active: bool = True

    def arguments(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in ChangedPipeline.model_fields}
        return given


class NewPipeline(ChangedPipeline):
    name: str = Field(max_length=63)


class StartedRun(BaseModel):
    """A run that goes on in the background: see `/runs/{run_id}`."""

    run_id: str
    workflow_ids: list[str]


def _shown(response: Response, record: PipelineRecord) -> ShownPipeline:
    tag(response, record.updated_at)
    return ShownPipeline.model_validate({name: getattr(record, name) for name in PipelineRecord.model_fields})


@pipelines.get("", openapi_extra=needs("read"), summary="One page of the pipelines")
def list_pipelines(
    request: Request,
    connector: Annotated[str | None, Query(max_length=63)] = None,
    active: bool | None = None,
    search: Search = None,
    order: PipelineOrder = "name",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[PipelineRecord]:
    return headrace_of(request).pipelines.page(
        connector=connector, active=active, search=search, order=order, limit=limit, offset=offset
    )


@pipelines.post(
    "", status_code=201, openapi_extra=needs("admin", idempotent=True), responses=responses(404, 409), summary="Add one"
)
def add_pipeline(
    request: Request, response: Response, new: NewPipeline, idempotency_key: IdempotencyKey = None
) -> ShownPipeline:
    return _shown(response, headrace_of(request).pipelines.add(new.name, **new.arguments()))


@pipelines.get("/{name}", openapi_extra=needs("read"), responses=responses(404), summary="One pipeline")
def read_pipeline(request: Request, response: Response, name: Name) -> ShownPipeline:
    return _shown(response, headrace_of(request).pipelines.show(name))


@pipelines.put("/{name}", openapi_extra=needs("admin"), responses=responses(404, 409, 412, 428), summary="Change it")
def change_pipeline(
    request: Request, response: Response, name: Name, changed: ChangedPipeline, if_match: IfMatch = None
) -> ShownPipeline:
    pipelines = headrace_of(request).pipelines
    known = pipelines.show(name)
    check(if_match, known.updated_at)
    record = pipelines.add(name, **changed.arguments(), replace=True, unchanged_since=known.updated_at)
    return _shown(response, record)


@pipelines.delete(
    "/{name}",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404, 412),
    summary="Remove it; tables and history stay",
)
def remove_pipeline(request: Request, name: Name, if_match: IfMatch = None) -> None:
    pipelines = headrace_of(request).pipelines
    check(if_match, pipelines.show(name).updated_at, needed=False)
    pipelines.remove(name)


@pipelines.post(
    "/{name}/execute",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Sync its tables now",
)
async def execute(request: Request, name: Name, idempotency_key: IdempotencyKey = None) -> StartedRun:
    pipelines = headrace_of(request).pipelines
    report = await blocking_of(request).run(lambda: pipelines.run(name, wait=False), DISCOVER_SECONDS)
    return StartedRun(run_id=report.run_group, workflow_ids=list(report.workflow_ids))


@pipelines.get(
    "/{name}/plan",
    openapi_extra=needs("operate"),
    responses=responses(404, 502, 504),
    summary="What a run would do now; nothing runs",
)
@pipelines.post(
    "/{name}/plan",
    openapi_extra=needs("operate"),
    responses=responses(404, 502, 504),
    summary="The same, for clients that post",
)
async def plan(request: Request, name: Name) -> PlanReport:
    pipelines = headrace_of(request).pipelines
    return await blocking_of(request).run(lambda: pipelines.plan(name), DISCOVER_SECONDS)


@pipelines.post("/{name}/pause", openapi_extra=needs("operate"), responses=responses(404), summary="Stop its schedule")
def pause(request: Request, response: Response, name: Name) -> ShownPipeline:
    return _shown(response, headrace_of(request).pipelines.pause(name))


@pipelines.post("/{name}/resume", openapi_extra=needs("operate"), responses=responses(404), summary="Start it again")
def resume(request: Request, response: Response, name: Name) -> ShownPipeline:
    return _shown(response, headrace_of(request).pipelines.resume(name))
