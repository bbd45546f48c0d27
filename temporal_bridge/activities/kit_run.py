"""The activities of an agent kit's run: thin, blocking, each effect once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from temporalio import activity

from assets.kits.model import (
    ApprovalRequest,
    ChildWork,
    ItemInput,
    ItemOutcome,
    KitEnd,
    KitResult,
    KitRun,
    StepInput,
    StepPlan,
    StoreInput,
)
from assets.kits.steps import KitSteps
from temporal_bridge.activities.error_classification import classified
from temporal_bridge.activities.progress_heartbeat import ProgressHeartbeat
from temporal_bridge.workflows.task_queues import WorkerRole

Call = TypeVar("Call", bound=Callable[..., Any])


def beating(call: Call) -> Call:
    """Beat while the call lives, so that a dead worker is noticed in one heartbeat timeout."""

    @functools.wraps(call)
    def beat(*args: Any) -> Any:
        with ProgressHeartbeat(call.__name__, cancellable=True):
            return call(*args)

    return beat  # type: ignore[return-value]


class KitActivities:
    """Bound to one installation."""

    def __init__(self, steps: KitSteps) -> None:
        self._steps = steps

    def of_role(self, role: WorkerRole) -> Sequence[Callable[..., Any]]:
        """Tools run where texts are read and models asked; what only writes the catalog beside the workflows."""
        if role == "knowledge":
            return [self.kit_item]
        if role != "orchestration":
            return []
        return [
            self.kit_begin,
            self.kit_plan_step,
            self.kit_ask_approval,
            self.kit_prepare_child,
            self.kit_store,
            self.kit_end,
            self.kit_next,
        ]

    @activity.defn(name="kit_begin")
    @classified
    @beating
    def kit_begin(self, run: KitRun) -> None:
        self._steps.begin(run, activity.info().workflow_id or "")

    @activity.defn(name="kit_plan_step")
    @classified
    @beating
    def kit_plan_step(self, step: StepInput) -> StepPlan:
        return self._steps.plan_step(step)

    @activity.defn(name="kit_ask_approval")
    @classified
    @beating
    def kit_ask_approval(self, request: ApprovalRequest) -> str:
        """Note that the run waits; returns the question."""
        step = StepInput(run=request.run, step=request.step)
        question = self._steps.question(step)
        waiting = {"step": request.step, "question": question, "expires_at": request.expires_at}
        self._steps.catalog.set_kit_waiting(request.run.run_id, waiting)
        return question

    @activity.defn(name="kit_item")
    @classified
    @beating
    def kit_item(self, item: ItemInput) -> ItemOutcome:
        return self._steps.run_item(item)

    @activity.defn(name="kit_prepare_child")
    @classified
    @beating
    def kit_prepare_child(self, item: ItemInput) -> ChildWork | None:
        return self._steps.prepare_child(item)

    @activity.defn(name="kit_store")
    @classified
    @beating
    def kit_store(self, stored: StoreInput) -> ItemOutcome:
        return self._steps.store(stored.item, stored.output, stored.error)

    @activity.defn(name="kit_end")
    @classified
    @beating
    def kit_end(self, end: KitEnd) -> KitResult:
        return self._steps.end(end.run, end.result)

    @activity.defn(name="kit_next")
    @classified
    @beating
    def kit_next(self, run: KitRun) -> list[ChildWork]:
        return self._steps.next_kits(run)
