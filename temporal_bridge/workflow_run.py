"""What the bridge knows of one workflow: which run it is, how far it is, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from assets.errors import BridgeError

TaskKind = Literal["workflow", "activity"]


@dataclass(frozen=True)
class WorkflowRun:
    """One execution, as `TemporalClient.start_workflow` found or made it.

    ``attached`` is true when the execution existed before; ``finished`` when its recorded result is there already.
    """

    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    namespace: str
    attached: bool = False
    finished: bool = False
    result_type: Any = None


@dataclass(frozen=True)
class PendingActivity:
    """An activity under way, from ``describe()``: no worker is needed to know it."""

    workflow_id: str
    activity_type: str
    state: str
    attempt: int
    maximum_attempts: int
    worker: str
    last_failure: str
    next_attempt_at: datetime | None
    heartbeat: dict[str, Any] = field(default_factory=dict)
    task_queue: str = ""

    @property
    def text(self) -> str:
        """One line for a log: what, attempt, worker, rows so far, why it is being retried."""
        parts = [self.activity_type, self.state]
        if self.attempt > 1:
            parts.append(f"attempt {self.attempt} of {self.maximum_attempts or 'any'}")
        if self.worker:
            parts.append(f"worker {self.worker}")
        if self.heartbeat.get("rows"):
            parts.append(f"{self.heartbeat['rows']:,} rows")
        if self.last_failure:
            parts.append(f"last failure: {self.last_failure}")
        return ", ".join(parts)


@dataclass(frozen=True)
class PendingChild:
    """A child workflow under way."""

    workflow_id: str
    run_id: str
    workflow_type: str


@dataclass(frozen=True)
class WorkflowProgress:
    """A look at a workflow that costs it nothing."""

    workflow_id: str
    run_id: str
    status: str
    history_length: int
    activities: tuple[PendingActivity, ...] = ()
    children: tuple[PendingChild, ...] = ()
    waiting: tuple[tuple[str, TaskKind], ...] = ()
    """Task queues, each with the kind of task, on which something waits to be picked up."""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(activity.text for activity in self.activities) or tuple(
            f"{child.workflow_type} {child.workflow_id}" for child in self.children
        )


class WorkflowFailedError(BridgeError):
    """The workflow ended without a result.

    Attributes:
        status: ``failed``, ``cancelled``, ``terminated`` or ``timed out``.
        error_type: class name of the innermost cause, such as ``SourceAccessError``.
        non_retryable: whether the innermost cause said that a retry cannot help.
    """

    def __init__(self, what: str, *, where: str, status: str, error_type: str, non_retryable: bool) -> None:
        self.status = status
        self.error_type = error_type
        self.non_retryable = non_retryable
        super().__init__(what, where=where, retryable=not non_retryable)
