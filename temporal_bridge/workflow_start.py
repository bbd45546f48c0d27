"""Starting a workflow, or attaching to the one that does this work already."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assets.errors import BridgeError
from temporal_bridge.work_identity import FINGERPRINT_MEMO, differences, fingerprint, work_of
from temporal_bridge.workflow_run import WorkflowRun

if TYPE_CHECKING:
    from temporalio.client import Client

_TOKEN_MEMO = "headrace-start"


async def start_or_attach(
    client: Client,
    wanted: WorkflowRun,
    input: Any,
    token: str,
    summary: str | None,
    selection: str | None,
    memo: Mapping[str, Any],
) -> WorkflowRun:
    """Start, or find the running or succeeded execution of this id and make sure that it does the same work.

    Args:
        client: connected.
        wanted: id, type and queue; its ``run_id`` is not known yet.
        input: the workflow's one argument.
        token: of this start; a repeated call with it finds its own execution, and does not call it attached.
        summary: one line for Temporal's page.
        selection: field of ``input`` that lists the selected items.
        memo: further facts to keep.

    Raises:
        BridgeError: the id belongs to different work; says what differs.
    """
    from temporalio.client import WorkflowExecutionStatus
    from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
    from temporalio.exceptions import WorkflowAlreadyStartedError

    id, name, work = wanted.workflow_id, wanted.workflow_type, fingerprint(input)
    try:
        handle = await client.start_workflow(
            name,
            input,
            id=id,
            task_queue=wanted.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            memo={**memo, FINGERPRINT_MEMO: work, _TOKEN_MEMO: token},
            static_summary=summary,
        )
        run_id = handle.result_run_id or handle.first_execution_run_id
    except WorkflowAlreadyStartedError as error:  # it has succeeded
        run_id = error.run_id
    found = await client.get_workflow_handle(id, run_id=run_id or None).describe()
    recorded = await found.memo()
    attached = recorded.get(_TOKEN_MEMO) != token
    if attached and found.workflow_type != name:
        raise _other_work(id, [f"workflow type: recorded {found.workflow_type}, now {name}"])
    if attached and recorded.get(FINGERPRINT_MEMO) != work:
        differing = differences(await recorded_input(client, id, found.run_id, type(input)), work_of(input), selection)
        if differing:
            raise _other_work(id, differing)
    return dataclasses.replace(
        wanted,
        run_id=found.run_id,
        task_queue=found.task_queue,
        attached=attached,
        finished=found.status == WorkflowExecutionStatus.COMPLETED,
    )


async def recorded_input(client: Client, id: str, run_id: str, model: type) -> Any:
    """`work_of` the input that an execution was started with; ``run_id`` empty: the latest one."""
    async for event in client.get_workflow_handle(id, run_id=run_id or None).fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        values = await client.data_converter.decode(list(payloads))
        return work_of(_with_new_defaults(values[0], model)) if values else None
    return None


def _with_new_defaults(value: Any, model: type) -> Any:
    """A workflow that an earlier release started lacks the fields that came since: their defaults say the same."""
    from pydantic import BaseModel, ValidationError

    if issubclass(model, BaseModel):
        with contextlib.suppress(ValidationError):
            return model.model_validate(value)
    return value


def _other_work(id: str, differing: list[str]) -> BridgeError:
    return BridgeError(
        f"a workflow with this id exists and does different work: {'; '.join(differing)}.",
        where=id,
        remedy="Wait for it or cancel it, or start this work under its own id (a new run).",
        retryable=False,
    )
