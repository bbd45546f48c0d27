"""``/runs``: what ran, how it ended, what happened; cancel and do again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request
from pydantic import AwareDatetime

from assets.catalog.listing import Page, RunOrder
from assets.catalog.records import RunRecord, RunStatus, RunSummary
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Offset
from orchestration.api.pipelines import StartedRun
from orchestration.api.preconditions import IdempotencyKey
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, headrace_of, needs, router
from orchestration.runs import RunEvent

runs = router("/runs", "runs")
RunId = Annotated[str, Path(min_length=1, max_length=255)]
CANCEL_SECONDS = 90
Instant = Annotated[AwareDatetime | None, Query(description="ISO 8601 with a zone")]


@runs.get("", openapi_extra=needs("read"), summary="One page of the runs, newest first")
def list_runs(
    request: Request,
    connector: Annotated[str | None, Query(max_length=63)] = None,
    pipeline: Annotated[str | None, Query(max_length=63)] = None,
    status: RunStatus | None = None,
    since: Instant = None,
    until: Instant = None,
    order: RunOrder = "-started_at",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[RunSummary]:
    return headrace_of(request).catalog.run_page(
        connector=connector,
        pipeline=pipeline,
        status=status,
        since=_bounded(since),
        until=_bounded(until),
        order=order,
        limit=limit,
        offset=offset,
    )


def _bounded(at: datetime | None) -> datetime | None:
    """Instants at the ends of the calendar have no UTC form: nothing ran there anyway."""
    return None if at is None or not 2 < at.year < 9998 else at


@runs.get("/{run_id}", openapi_extra=needs("read"), responses=responses(404), summary="One run with its tables")
def read_run(request: Request, run_id: RunId) -> RunRecord:
    return headrace_of(request).run(run_id).record


@runs.get("/{run_id}/events", openapi_extra=needs("read"), responses=responses(404, 504), summary="What happened")
async def run_events(request: Request, run_id: RunId) -> list[RunEvent]:
    headrace = headrace_of(request)
    return await blocking_of(request).run(lambda: headrace.run(run_id).events(), DISCOVER_SECONDS)


@runs.post("/{run_id}/cancel", openapi_extra=needs("operate"), responses=responses(404, 504), summary="Cancel it")
async def cancel_run(request: Request, run_id: RunId) -> RunRecord:
    headrace = headrace_of(request)
    return await blocking_of(request).run(lambda: headrace.run(run_id).cancel().record, CANCEL_SECONDS)


@runs.post(
    "/{run_id}/rerun",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Sync its tables again, as a new run",
)
async def rerun(
    request: Request,
    run_id: RunId,
    failed_only: Annotated[bool, Query(description="only the tables that failed")] = False,
    idempotency_key: IdempotencyKey = None,
) -> StartedRun:
    headrace = headrace_of(request)
    report = await blocking_of(request).run(
        lambda: headrace.run(run_id).rerun(from_failure=failed_only, wait=False), DISCOVER_SECONDS
    )
    return StartedRun(run_id=report.run_group, workflow_ids=list(report.workflow_ids))
