"""An agent kit's run: its playbook step by step, each item durable and keyed, outputs by reference."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from assets.kits.model import (
        ApprovalRequest,
        ChildWork,
        Decision,
        ItemInput,
        ItemOutcome,
        KitEnd,
        KitResult,
        KitRun,
        KitStatus,
        Step,
        StepInput,
        StepOutcome,
        StepPlan,
        StepStatus,
        StoreInput,
        Together,
        seconds_of,
    )
    from assets.sync import Model
    from temporal_bridge.workflows.cancellation import raise_cancellation, was_cancelled
    from temporal_bridge.workflows.failure_cause import failure_cause
    from temporal_bridge.workflows.step_inputs import SyncTimeouts
    from temporal_bridge.workflows.task_queues import WorkerRole, role_queue

OWN_WORKFLOW = ("sync", "extract_knowledge", "databricks_job", "kit")
MAX_ERROR = 2_000


class _Stopped(Exception):
    """The run ends here, cleanly."""

    def __init__(self, status: KitStatus, reason: str) -> None:
        self.status: KitStatus = status
        super().__init__(reason)


@workflow.defn(name="AgentKitExecutionWorkflow")
class AgentKitExecutionWorkflow:
    """Run a kit. Ends COMPLETED with the `KitResult` also where the kit failed or its budget stopped it; CANCELED
    after its row was closed as cancelled.
    """

    @workflow.init
    def __init__(self, run: KitRun) -> None:
        self._run_input = run
        self._kit = run.kit
        self._outcomes: dict[str, StepOutcome] = {}
        self._tokens = 0
        self._cost = 0.0
        self._calls = 0
        self._waiting: str | None = None
        self._decision: Decision | None = None
        self._ends: datetime | None = None
        self._timeouts = SyncTimeouts()

    @workflow.query
    def progress(self) -> dict[str, str]:
        """Status of each step that has ended, and the one that waits for an approval."""
        done = {name: outcome.status for name, outcome in self._outcomes.items()}
        return {**done, **({self._waiting: "waiting for approval"} if self._waiting else {})}

    @workflow.update
    async def decide(self, decision: Decision) -> str:
        """A person approves or refuses the step that waits."""
        self._decision = decision
        step = decision.step
        await workflow.wait_condition(lambda: self._waiting != step)
        return "approved" if decision.approve else "refused"

    @decide.validator
    def _may_decide(self, decision: Decision) -> None:
        if self._waiting is None or self._waiting != decision.step:
            raise ApplicationError(f"step {decision.step} waits for no approval", type="NotWaiting")
        if self._decision is not None:
            raise ApplicationError(f"step {decision.step} was decided already", type="NotWaiting")
        step = next(step for step in self._kit.steps if step.step == decision.step)
        approvers = step.approval.approvers if step.approval else ()
        if approvers and decision.by not in approvers:
            raise ApplicationError(f"{decision.by} may not decide this", type="NotAllowed")

    @workflow.run
    async def run(self, run: KitRun) -> KitResult:
        self._timeouts = await workflow.execute_local_activity(
            "sync_timeouts",
            result_type=SyncTimeouts,
            schedule_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        await self._activity("kit_begin", run, type(None))
        try:
            status, reason = await self._within_time(run)
        except (Exception, asyncio.CancelledError) as error:
            cancelled = was_cancelled(error)
            cause = failure_cause(error)
            await self._end("cancelled" if cancelled else "failed", "cancelled" if cancelled else cause.text)
            raise_cancellation()
            raise
        result = await self._end(status, reason)
        if status == "succeeded":
            for child in await self._activity("kit_next", run, list[ChildWork]):
                await self._hand_over(child)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _within_time(self, run: KitRun) -> tuple[KitStatus, str]:
        limit = run.kit.constraints.max_time
        self._ends = workflow.now() + timedelta(seconds=seconds_of(limit))
        try:
            await asyncio.wait_for(self._playbook(run), timeout=seconds_of(limit))
        except _Stopped as stopped:
            status: KitStatus = stopped.status
            return status, str(stopped)
        except TimeoutError:
            return "stopped", f"the run reached its time limit of {limit}"
        except (ActivityError, ChildWorkflowError) as error:
            # what the time limit cancels ends as a cancelled activity, not as a cancelled task
            if not is_cancelled_exception(error) or workflow.cancellation_reason() is not None:
                raise
            return "stopped", f"the run reached its time limit of {limit}"
        return "succeeded", ""

    async def _end(self, status: KitStatus, reason: str) -> KitResult:
        result = KitResult(
            kit=self._kit.name,
            run_id=self._run_input.run_id,
            status=status,
            reason=reason[:MAX_ERROR],
            steps=tuple(self._outcomes.values()),
            tokens=self._tokens,
            cost=self._cost,
            calls=self._calls,
        )
        self._waiting = None
        workflow.set_current_details(f"{self._kit.name}: {status} {reason}".strip())
        return await self._activity("kit_end", KitEnd(run=self._run_input, result=result), KitResult)

    async def _hand_over(self, child: ChildWork) -> None:
        """Start the next kit; it goes on by itself."""
        with contextlib.suppress(WorkflowAlreadyStartedError):  # an earlier try of this run started it
            await workflow.start_child_workflow(
                child.workflow,
                child.input,
                id=child.workflow_id,
                parent_close_policy=ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            )

    # steps

    async def _playbook(self, run: KitRun) -> None:
        for entry in run.kit.playbook:
            if isinstance(entry, Together):
                await self._together(run, entry)
            else:
                await self._step(run, entry)

    async def _together(self, run: KitRun, entry: Together) -> None:
        """The first step that ends the run cancels the others, and the run ends when they have."""
        steps = [asyncio.ensure_future(self._step(run, step)) for step in entry.together]
        try:
            await asyncio.gather(*steps)
        except BaseException:
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
            raise

    async def _step(self, run: KitRun, step: Step) -> None:
        try:
            await self._whole_step(run, step)
        except BaseException:
            ended = StepOutcome(step=step.step, status="stopped", reason="the run ended")
            self._outcomes.setdefault(step.step, ended)
            raise

    async def _whole_step(self, run: KitRun, step: Step) -> None:
        workflow.set_current_details(f"{run.kit.name}: {step.step}")
        plan = await self._activity("kit_plan_step", StepInput(run=run, step=step.step), StepPlan)
        if plan.reused or plan.skip is not None:
            reason = "taken from the earlier run" if plan.reused else plan.skip or ""
            status: StepStatus = "succeeded" if plan.reused and plan.skip is None else "skipped"
            self._outcomes[step.step] = StepOutcome(step=step.step, status=status, reason=reason, items=plan.items)
            return
        if step.approval is not None:
            await self._approved(run, step)
        free = asyncio.Semaphore(step.parallel)

        async def one(number: int) -> ItemOutcome:
            async with free:
                self._spend(step)
                outcome = await self._item(run, step, number)
                self._tokens += 0 if outcome.stored_before else outcome.tokens
                self._cost += 0 if outcome.stored_before else outcome.cost
                return outcome

        # items under way are waited for: what they cost counts, and nothing goes on behind a run that has ended
        ended = await asyncio.gather(*(one(number) for number in range(plan.items)), return_exceptions=True)
        if errors := [outcome for outcome in ended if isinstance(outcome, BaseException)]:
            raise errors[0]
        outcomes = [outcome for outcome in ended if isinstance(outcome, ItemOutcome)]
        failed = [outcome for outcome in outcomes if not outcome.ok]
        reason = (failed[0].error or "")[:MAX_ERROR] if failed else ""
        self._outcomes[step.step] = StepOutcome(
            step=step.step,
            status="failed" if failed else "succeeded",
            reason=reason,
            items=len(outcomes),
            failed_items=len(failed),
            tokens=sum(outcome.tokens for outcome in outcomes),
            cost=sum(outcome.cost for outcome in outcomes),
            calls=len(outcomes),
        )
        if failed and step.on_error == "fail":
            raise _Stopped("failed", f"step {step.step}: {reason}")
        self._check_budget(step)

    def _spend(self, step: Step) -> None:
        limit = self._kit.constraints.max_calls
        if self._calls >= limit:
            self._stop(step, f"the run reached its limit of {limit} tool calls")
        self._check_budget(step)
        self._calls += 1

    def _check_budget(self, step: Step) -> None:
        raise_cancellation()
        limits = self._kit.constraints
        if (
            self._ends is not None and workflow.now() >= self._ends
        ):  # what it cancelled may have ended well all the same
            self._stop(step, f"the run reached its time limit of {limits.max_time}")
        if limits.max_tokens is not None and self._tokens > limits.max_tokens:
            self._stop(step, f"the run used {self._tokens} tokens of {limits.max_tokens}")
        if limits.max_cost is not None and self._cost > limits.max_cost:
            self._stop(step, f"the run cost {self._cost:.4f} of {limits.max_cost}")

    def _stop(self, step: Step, reason: str) -> None:
        self._outcomes.setdefault(step.step, StepOutcome(step=step.step, status="stopped", reason=reason))
        raise _Stopped("stopped", reason)

    async def _approved(self, run: KitRun, step: Step) -> None:
        assert step.approval is not None
        wait = timedelta(seconds=seconds_of(step.approval.expires))
        expires = workflow.now() + wait
        request = ApprovalRequest(run=run, step=step.step, expires_at=expires.isoformat())
        self._decision, self._waiting = None, step.step  # before anybody can read that it waits
        question = await self._activity("kit_ask_approval", request, str)
        workflow.set_current_details(f"{run.kit.name}: {step.step} waits for approval: {question}")
        try:
            await workflow.wait_condition(lambda: self._decision is not None, timeout=wait)
        except TimeoutError:
            self._outcomes[step.step] = StepOutcome(step=step.step, status="expired", reason="nobody decided in time")
            raise _Stopped("stopped", f"step {step.step}: nobody decided within {step.approval.expires}") from None
        finally:
            self._waiting = None
        decision: Decision | None = self._decision
        assert decision is not None
        if not decision.approve:
            reason = f"refused by {decision.by}" + (f": {decision.note}" if decision.note else "")
            self._outcomes[step.step] = StepOutcome(step=step.step, status="rejected", reason=reason)
            raise _Stopped("stopped", f"step {step.step}: {reason}")

    async def _item(self, run: KitRun, step: Step, number: int) -> ItemOutcome:
        item = ItemInput(run=run, step=step.step, item=number)
        try:
            if run.kit.tools[step.tool].kind in OWN_WORKFLOW:
                return await self._child(item, step)
            retry = RetryPolicy(
                initial_interval=timedelta(seconds=seconds_of(step.retry.wait)),
                backoff_coefficient=2,
                maximum_interval=timedelta(minutes=5),
                maximum_attempts=step.retry.attempts,
            )
            limit = timedelta(seconds=seconds_of(step.timeout))
            return await self._activity("kit_item", item, ItemOutcome, "knowledge", limit, retry)
        except (ActivityError, ChildWorkflowError) as error:
            if was_cancelled(error):
                raise
            text = failure_cause(error).text[:MAX_ERROR]
            return await self._activity("kit_store", StoreInput(item=item, error=text), ItemOutcome)

    async def _child(self, item: ItemInput, step: Step) -> ItemOutcome:
        child = await self._activity("kit_prepare_child", item, ChildWork | None)
        if child is None:
            return ItemOutcome(stored_before=True)
        result: Any = await workflow.execute_child_workflow(
            child.workflow,
            child.input,
            id=child.workflow_id,
            result_type=dict,
            execution_timeout=timedelta(seconds=seconds_of(step.timeout)),
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            static_summary=f"{self._kit.name}: {step.step}",
        )
        error = _problem(result)
        return await self._activity("kit_store", StoreInput(item=item, output=result, error=error), ItemOutcome)

    async def _activity(
        self,
        name: str,
        argument: Model,
        result_type: Any,
        role: WorkerRole = "orchestration",
        limit: timedelta = timedelta(minutes=10),
        retry: RetryPolicy | None = None,
    ) -> Any:
        return await workflow.execute_activity(
            name,
            argument,
            result_type=result_type,
            task_queue=role_queue(workflow.info().task_queue, role),
            summary=getattr(argument, "step", None),
            start_to_close_timeout=limit,
            schedule_to_close_timeout=max(timedelta(hours=1), 24 * limit),
            heartbeat_timeout=timedelta(seconds=self._timeouts.heartbeat_seconds),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=retry
            or RetryPolicy(
                initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=10
            ),
        )


def _problem(result: dict[str, Any]) -> str | None:
    """Why a child's result is no success: its own status, or that of the first part that failed."""
    parts = result.get("results") if isinstance(result.get("results"), list) else [result]
    for part in parts or ():
        status = part.get("status") if isinstance(part, dict) else None
        if status in ("failed", "stopped", "cancelled"):
            return str(part.get("error") or part.get("reason") or status)[:MAX_ERROR]
    return None
