"""Looking at a workflow from outside, and judging what may be wrong with server or worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from assets.errors import BridgeError
from temporal_bridge.server_outage import server_is_away
from temporal_bridge.workflow_run import (
    PendingActivity,
    PendingChild,
    TaskKind,
    WorkflowFailedError,
    WorkflowProgress,
    WorkflowRun,
)
from temporal_bridge.workflows.task_queues import start_command

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowFailureError

CHILDREN_LOOKED_INTO = 16
POLLER_ALIVE_SECONDS = 75
"""A poll lasts a minute, and a killed worker stays listed for minutes: only the age of its last poll tells."""
UNCLAIMED_SECONDS = 3
"""A task that a polling worker could take is taken at once: after this time its workers are busy, or were killed."""
_STATUS_WORDS = {"canceled": "cancelled", "timed_out": "timed out", "continued_as_new": "continued as new"}


async def look_at(client: Client, workflow_id: str, run_id: str, *, children: bool) -> WorkflowProgress:
    """Describe a workflow, and with ``children`` the activities of its running children too."""
    from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState

    description = await client.get_workflow_handle(workflow_id, run_id=run_id or None).describe()
    raw = description.raw_description
    activities = []
    for pending in raw.pending_activities:
        details = await client.data_converter.decode(list(pending.heartbeat_details.payloads))
        heartbeat = details[0] if details and isinstance(details[0], dict) else {}
        failure = pending.last_failure
        last_failure = ""
        if pending.HasField("last_failure"):
            last_failure = str(await client.data_converter.decode_failure(failure))[:500]
        next_attempt = None
        if pending.HasField("next_attempt_schedule_time"):
            next_attempt = pending.next_attempt_schedule_time.ToDatetime(tzinfo=UTC)
        state = PendingActivityState.Name(pending.state).removeprefix("PENDING_ACTIVITY_STATE_").lower()
        activities.append(
            PendingActivity(
                workflow_id=workflow_id,
                activity_type=pending.activity_type.name,
                state=state,
                attempt=pending.attempt,
                maximum_attempts=pending.maximum_attempts,
                worker=pending.last_worker_identity,
                last_failure=last_failure,
                next_attempt_at=next_attempt,
                heartbeat=heartbeat,
                task_queue=pending.activity_options.task_queue.name,
            )
        )
    task = raw.pending_workflow_task
    task_waits = task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    now = datetime.now(UTC)
    own_queue = description.task_queue
    waiting: set[tuple[str, TaskKind]] = {(own_queue, "workflow")} if task_waits else set()
    for activity in activities:
        if activity.state == "scheduled" and (activity.next_attempt_at is None or activity.next_attempt_at <= now):
            waiting.add((activity.task_queue or own_queue, "activity"))
    pending_children = tuple(
        PendingChild(child.workflow_id, child.run_id, child.workflow_type_name) for child in raw.pending_children
    )
    if children and pending_children:
        looked_into = [child for child in pending_children if child.run_id][:CHILDREN_LOOKED_INTO]
        looks = await asyncio.gather(
            *(look_at(client, child.workflow_id, child.run_id, children=False) for child in looked_into)
        )
        for look in looks:
            activities.extend(look.activities)
            waiting.update(look.waiting)
    status = description.status.name.lower() if description.status else "unknown"
    return WorkflowProgress(
        workflow_id=workflow_id,
        run_id=description.run_id,
        status=_STATUS_WORDS.get(status, status),
        history_length=description.history_length,
        activities=tuple(activities),
        children=pending_children,
        waiting=tuple(sorted(waiting)) if status == "running" else (),
    )


async def worker_age(client: Client, task_queue: str, kind: TaskKind) -> float | None:
    """Seconds since the queue was last polled for this kind of task; None: never."""
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    types = {"workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY}
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=types[kind]
        ),
        retry=True,
    )
    polls = [poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in answer.pollers]
    return max(0.0, (datetime.now(UTC) - max(polls)).total_seconds()) if polls else None


class Patience:
    """How long a wait puts up with a server that is away and with a missing worker; says each once."""

    def __init__(
        self,
        run: WorkflowRun,
        address: str,
        warn: Callable[[str], None],
        outage_seconds: float,
        worker_wait_seconds: float,
    ) -> None:
        self._run = run
        self._address = address
        self._warn = warn
        self._outage_seconds = outage_seconds
        self._worker_wait_seconds = worker_wait_seconds
        self._away_since: float | None = None
        self._no_worker_since: float | None = None
        self._deserted = run.task_queue
        self._unclaimed_since: float | None = None
        self._unclaimed_told = False

    def server_answered(self) -> None:
        if self._away_since is not None:
            self._warn(f"Temporal at {self._address} answers again after {time.monotonic() - self._away_since:.0f} s.")
        self._away_since = None

    def server_fault(self, error: Exception) -> None:
        """Note an outage; raise what is none, and an outage that is too long."""
        from temporalio.client import WorkflowFailureError
        from temporalio.service import RPCError, RPCStatusCode

        if isinstance(error, WorkflowFailureError):
            raise workflow_failed(self._run, error) from None
        if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
            raise BridgeError(
                f"Temporal at {self._address} does not know this workflow any more: its state is lost or too old.",
                where=self._run.workflow_id,
                remedy="What the work had committed is still there; start it again.",
                retryable=False,
            ) from None
        if not server_is_away(error):
            raise error
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._warn(f"Temporal at {self._address} does not answer; waiting up to {self._outage_seconds:.0f} s.")
        if now - self._away_since > self._outage_seconds:
            raise BridgeError(
                f"Temporal unreachable at {self._address} for {self._outage_seconds:.0f} s while this was waited for.",
                where=self._run.workflow_id,
                remedy="The work goes on when the server is back; the same command then attaches to it.",
                retryable=True,
            ) from None

    def worker_seen(self) -> None:
        self._no_worker_since = self._unclaimed_since = None

    def worker_missing(self, ages: Mapping[tuple[str, TaskKind], float | None]) -> bool:
        """Judge the ages of the queues' last polls; true when the wait for a worker is over."""
        deserted = [queue for (queue, _), age in ages.items() if age is None or age >= POLLER_ALIVE_SECONDS]
        now = time.monotonic()
        if not deserted:
            self._no_worker_since = None
            self._unclaimed(sorted({queue for queue, _ in ages}), now)
            return False
        self._deserted = deserted[0]
        if self._no_worker_since is None:
            self._no_worker_since = now
            self._warn(
                f"No worker polls the task queue `{self._deserted}`; waiting up to "
                f"{self._worker_wait_seconds:.0f} s. {self._start_command}"
            )
        return now - self._no_worker_since >= self._worker_wait_seconds

    def _unclaimed(self, queues: Sequence[str], now: float) -> None:
        """Say once that listed workers take nothing: a killed one stays listed until its last poll is old."""
        if self._unclaimed_since is None:
            self._unclaimed_since = now
        elif now - self._unclaimed_since >= UNCLAIMED_SECONDS - 1 and not self._unclaimed_told:
            self._unclaimed_told = True
            commands = " or ".join(f"`{start_command(queue)}`" for queue in queues)
            self._warn(
                f"Work waits on the task queue `{'`, `'.join(queues)}` and no worker takes it: they are busy, or were "
                f"killed a moment ago. Another one is started with: {commands}"
            )

    def no_worker_error(self) -> BridgeError:
        return BridgeError(
            f"no worker polls the task queue `{self._deserted}`; the workflow was cancelled after "
            f"{self._worker_wait_seconds:.0f} s.",
            where=self._run.workflow_id,
            remedy=self._start_command,
            retryable=False,
        )

    @property
    def _start_command(self) -> str:
        return f"Start one with: {start_command(self._deserted)}"


def workflow_failed(run: WorkflowRun, error: WorkflowFailureError) -> WorkflowFailedError:
    """Tell how a workflow ended, by its innermost cause."""
    from temporalio.exceptions import CancelledError, TerminatedError, TimeoutError

    from temporal_bridge.workflows.failure_cause import failure_cause

    cause: Any = error.cause
    status = {CancelledError: "cancelled", TerminatedError: "terminated", TimeoutError: "timed out"}.get(
        type(cause), "failed"
    )
    innermost = failure_cause(cause)
    text = innermost.text
    if status == "timed out":
        text = "the workflow's own time limit is over"
    told = {"cancelled": "the workflow was cancelled", "terminated": f"the workflow was {text}"}.get(status, text)
    return WorkflowFailedError(
        told,
        where=run.workflow_id,
        status=status,
        error_type=innermost.error_type,
        non_retryable=innermost.non_retryable,
    )
