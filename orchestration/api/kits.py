"""``/kits`` and ``/kit-runs``: playbooks of tools, their runs and approvals."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from assets.catalog.kit_history import KitOutput, KitRunRecord
from assets.catalog.listing import Page
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Offset
from orchestration.api.paging import page_of
from orchestration.api.preconditions import IdempotencyKey
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, caller_of, headrace_of, needs, router
from orchestration.api.runs import CANCEL_SECONDS, RunId
from orchestration.kit_simulation import KitSimulation
from orchestration.kits import KitSummary

kits = router("/kits", "kits")
kit_runs = router("/kit-runs", "kits")
KitName = Annotated[str, Path(min_length=1, max_length=63, pattern=r"^[a-z][a-z0-9_]*$")]
MAX_INPUTS = 100


class KitInputs(BaseModel):
    """Values of the kit's inputs."""

    model_config = ConfigDict(extra="forbid")
    inputs: dict[str, Any] = Field(default_factory=dict, max_length=MAX_INPUTS)


class Approval(BaseModel):
    """Who decides is who sends it."""

    model_config = ConfigDict(extra="forbid")
    approve: bool
    note: str = Field(default="", max_length=2_000)
    step: str | None = Field(default=None, max_length=63, description="default: the step that waits")


class Decided(BaseModel):
    decision: str


class ShownKit(BaseModel):
    """A kit as its file says it; what is left out has its default."""

    kit: dict[str, Any]


@kits.get("", openapi_extra=needs("read"), summary="One page of the kits, also those that are not valid")
def list_kits(request: Request, limit: Limit = 50, offset: Offset = 0) -> Page[KitSummary]:
    return page_of(headrace_of(request).kits.list(), limit, offset)


@kits.get("/{name}", openapi_extra=needs("read"), responses=responses(404), summary="One kit")
def read_kit(request: Request, name: KitName) -> ShownKit:
    kit = headrace_of(request).kits.show(name)
    return ShownKit(kit=kit.model_dump(mode="json", by_alias=True, exclude_defaults=True))


@kits.post(
    "/{name}/simulate",
    openapi_extra=needs("operate"),
    responses=responses(404, 504),
    summary="Steps, tools, tables and an estimate; runs nothing",
)
async def simulate_kit(request: Request, name: KitName, given: KitInputs) -> KitSimulation:
    kits = headrace_of(request).kits
    return await blocking_of(request).run(lambda: kits.simulate(name, given.inputs), DISCOVER_SECONDS)


@kits.post(
    "/{name}/run",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Run it",
)
async def run_kit(
    request: Request, name: KitName, given: KitInputs, idempotency_key: IdempotencyKey = None
) -> KitRunRecord:
    kits = headrace_of(request).kits
    started = await blocking_of(request).run(
        lambda: kits.run(name, given.inputs, wait=False, trigger="api"), DISCOVER_SECONDS
    )
    assert isinstance(started, KitRunRecord)
    return started


@kit_runs.get("", openapi_extra=needs("read"), summary="The latest runs, newest first")
def list_kit_runs(
    request: Request,
    kit: Annotated[str | None, Query(max_length=63)] = None,
    open_only: bool = False,
    limit: Limit = 50,
) -> list[KitRunRecord]:
    return headrace_of(request).kits.runs(kit, open_only=open_only, limit=limit)


@kit_runs.get("/{run_id}", openapi_extra=needs("read"), responses=responses(404), summary="One run")
def read_kit_run(request: Request, run_id: RunId) -> KitRunRecord:
    return headrace_of(request).catalog.kit_run(run_id)


@kit_runs.get(
    "/{run_id}/outputs", openapi_extra=needs("data"), responses=responses(404), summary="What its steps brought"
)
def read_outputs(request: Request, run_id: RunId, limit: Limit = 50, offset: Offset = 0) -> Page[KitOutput]:
    return page_of(headrace_of(request).kits.outputs(run_id), limit, offset)


@kit_runs.post(
    "/{run_id}/decision",
    openapi_extra=needs("operate"),
    responses=responses(404, 409, 504),
    summary="Approve or refuse the step that waits",
)
async def decide(request: Request, run_id: RunId, approval: Approval) -> Decided:
    kits, by = headrace_of(request).kits, caller_of(request).name
    answer = await blocking_of(request).run(
        lambda: kits.approve(run_id, approve=approval.approve, by=by, note=approval.note, step=approval.step),
        DISCOVER_SECONDS,
    )
    return Decided(decision=answer)


@kit_runs.post("/{run_id}/cancel", openapi_extra=needs("operate"), responses=responses(404, 504), summary="Cancel it")
async def cancel_kit_run(request: Request, run_id: RunId) -> KitRunRecord:
    kits = headrace_of(request).kits
    return await blocking_of(request).run(lambda: kits.cancel(run_id), CANCEL_SECONDS)


@kit_runs.post(
    "/{run_id}/rerun",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Do it again, from a step on if told so",
)
async def rerun_kit(
    request: Request,
    run_id: RunId,
    from_step: Annotated[str | None, Query(max_length=63)] = None,
    idempotency_key: IdempotencyKey = None,
) -> KitRunRecord:
    kits = headrace_of(request).kits
    started = await blocking_of(request).run(lambda: kits.rerun(run_id, from_step, wait=False), DISCOVER_SECONDS)
    assert isinstance(started, KitRunRecord)
    return started
