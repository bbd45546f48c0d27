"""Knowledge from sessions: each source under a lock of its own, each model call an activity that is paid once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from assets.knowledge.work import (
        BatchInput,
        BatchResult,
        CallInput,
        CallOutcome,
        ExtractionPlan,
        ExtractionResult,
        ExtractionTotals,
        FoldInput,
        FoldResult,
        KnowledgeExtraction,
        KnowledgeResult,
        ModelCall,
        RecordExtraction,
        SourceExtraction,
    )
    from assets.naming import path_part
    from assets.sync import Model, Part
    from temporal_bridge.workflows.cancellation import gather_all, raise_cancellation, was_cancelled
    from temporal_bridge.workflows.failure_cause import FailureCause, failure_cause
    from temporal_bridge.workflows.step_inputs import SyncTimeouts
    from temporal_bridge.workflows.task_queues import WorkerRole, role_queue

Result = TypeVar("Result")
MAX_GENERATIONS = 10_000
MAX_ERROR_CHARACTERS = 2000
MINUTES, HOURS = timedelta(minutes=10), timedelta(hours=6)


def lock_id(source: str) -> str:
    """The fixed id of a source's extraction: one at a time."""
    return f"knowledge/{path_part(source)}"


@dataclass(frozen=True)
class StepLimits:
    one_attempt: timedelta
    all_attempts: timedelta
    attempts: int = 5
    role: WorkerRole = "knowledge"


LIMITS = {
    "plan_knowledge": StepLimits(HOURS, timedelta(hours=24)),
    "prepare_calls": StepLimits(MINUTES, timedelta(hours=6)),
    "call_model": StepLimits(timedelta(hours=1), timedelta(hours=24), attempts=8),
    "extract_knowledge": StepLimits(timedelta(hours=2), timedelta(hours=24)),
    "fold_knowledge": StepLimits(HOURS, timedelta(hours=24)),
    "record_knowledge": StepLimits(MINUTES, timedelta(hours=24), attempts=20),
}


class SourceRun(Model):
    """Input of `KnowledgeSourceWorkflow`: the work, and where continue-as-new left off."""

    work: SourceExtraction
    generation: int = 0
    totals: ExtractionTotals = ExtractionTotals()
    tables: FoldResult = FoldResult()


@workflow.defn(name="KnowledgeSourceWorkflow")
class KnowledgeSourceWorkflow:
    """Extract what is new or changed in one source, a bounded part of the backlog a generation.

    Ends COMPLETED with the `ExtractionResult` (also where the token budget stopped it); FAILED or CANCELED after the
    run's row was closed.
    """

    @workflow.init
    def __init__(self, run: SourceRun) -> None:
        self._work = run.work
        self._totals = run.totals
        self._timeouts = SyncTimeouts()
        self._reserved = 0
        self._next_call = 0.0
        self._stopped = False

    @workflow.query
    def progress(self) -> ExtractionTotals:
        """What was done and spent so far."""
        return self._totals

    @workflow.run
    async def run(self, run: SourceRun) -> ExtractionResult:
        self._timeouts = await workflow.execute_local_activity(
            "sync_timeouts",
            result_type=SyncTimeouts,
            schedule_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        try:
            return await self._run(run)
        except workflow.ContinueAsNewError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            cancelled = was_cancelled(error)
            cause = FailureCause("Cancelled", "cancelled") if cancelled else failure_cause(error)
            failed = self._result("cancelled" if cancelled else "failed", run.tables, run.generation)
            failed = failed.model_copy(update={"error": cause.text, "error_type": cause.error_type})
            await self._step("record_knowledge", RecordExtraction(work=run.work, result=failed), ExtractionResult)
            if cancelled:
                raise_cancellation()
                raise
            raise ApplicationError(cause.text, type=cause.error_type, non_retryable=cause.non_retryable) from error

    async def _run(self, run: SourceRun) -> ExtractionResult:
        plan = await self._step("plan_knowledge", run, ExtractionPlan)
        if run.generation == 0:
            self._add(
                sessions=plan.sessions,
                messages=plan.messages,
                unchanged=0 if plan.more else plan.sessions - plan.changed,
            )
        self._add(gone=plan.gone)
        batches = await self._extract(run.work, plan)
        tables = run.tables
        if batches or plan.gone or run.generation == 0:
            fold = FoldInput(work=run.work, generation=run.generation, batches=tuple(batches), gone_part=plan.gone_part)
            tables = await self._step("fold_knowledge", fold, FoldResult)
        if plan.more and not self._stopped and run.generation + 1 < MAX_GENERATIONS:
            raise_cancellation()  # the next generation would know nothing of it
            workflow.continue_as_new(
                SourceRun(work=run.work, generation=run.generation + 1, totals=self._totals, tables=tables)
            )
        status = "stopped" if self._stopped else "succeeded"
        result = self._result(status, tables, run.generation)
        if self._stopped:
            spent = self._totals.tokens_in + self._totals.tokens_out
            reason = (
                f"the budget of {plan.token_budget:,} tokens is spent ({spent:,}); the rest is left for the next run"
            )
            result = result.model_copy(update={"reason": reason})
        return await self._step("record_knowledge", RecordExtraction(work=run.work, result=result), ExtractionResult)

    async def _extract(self, work: SourceExtraction, plan: ExtractionPlan) -> list[BatchResult]:
        """Bounded fan-out over the batches; the results in the batches' order."""
        free = asyncio.Semaphore(max(1, plan.parallel))
        done: dict[int, BatchResult] = {}

        async def one(number: int, batch: Part) -> None:
            given = BatchInput(work=work, batch=batch, number=number)
            if plan.paid and not await self._call_models(given, plan, free):
                return
            async with free:
                result = await self._step("extract_knowledge", given, BatchResult)
            done[number] = result
            self._add(
                extracted=result.sessions,
                incomplete=result.incomplete,
                new_mentions=result.mentions,
                new_statements=result.statements,
                dropped=result.dropped,
            )
            workflow.set_current_details(
                f"{work.source}: {len(done)} of {len(plan.batches)} batches, "
                f"{self._totals.tokens_in + self._totals.tokens_out:,} tokens, cost {self._totals.cost:.4f}"
            )

        # paid batches go one after the other: their calls run at once, and a spent budget leaves whole batches out
        width = 1 if plan.paid else max(1, plan.parallel) * 2
        for start in range(0, len(plan.batches), width):
            if self._stopped:
                break
            window = list(enumerate(plan.batches))[start : start + width]
            await gather_all(*(one(number, batch) for number, batch in window))
        return [done[number] for number in sorted(done)]

    async def _call_models(self, batch: BatchInput, plan: ExtractionPlan, free: asyncio.Semaphore) -> bool:
        """Ask for every answer that the batch lacks; False if the budget does not allow all of them."""
        calls = await self._step("prepare_calls", batch, list[ModelCall])

        async def ask(call: ModelCall) -> bool:
            async with free:
                if not await self._may_call(call, plan):
                    return False
                try:
                    outcome = await self._step(
                        "call_model", CallInput(work=batch.work, batch=batch.batch, call=call), CallOutcome
                    )
                finally:
                    self._reserved -= call.estimated_tokens
            cost = (outcome.tokens_in * plan.price_in + outcome.tokens_out * plan.price_out) / 1_000_000
            self._add(
                calls=outcome.calls,
                answers_reused=int(outcome.stored_before),
                calls_uncertain=outcome.uncertain,
                calls_failed=int(not outcome.answered),
                tokens_in=outcome.tokens_in,
                tokens_out=outcome.tokens_out,
                cost=cost,
            )
            if outcome.problem and not self._totals.problem:
                self._totals = self._totals.model_copy(update={"problem": outcome.problem})
            return True

        asked = await gather_all(*(ask(call) for call in calls))
        return all(asked)

    async def _may_call(self, call: ModelCall, plan: ExtractionPlan) -> bool:
        """Reserve the call's tokens and wait for its turn under the rate limit."""
        if plan.token_budget is not None:
            spent = self._totals.tokens_in + self._totals.tokens_out
            if self._stopped or spent + self._reserved + call.estimated_tokens > plan.token_budget:
                self._stopped = True
                return False
        self._reserved += call.estimated_tokens
        if plan.seconds_between_calls:
            now = workflow.time()
            turn = max(now, self._next_call)
            self._next_call = turn + plan.seconds_between_calls
            if turn > now:
                await asyncio.sleep(turn - now)
        return True

    def _add(self, **more: float) -> None:
        sums = {name: getattr(self._totals, name) + value for name, value in more.items()}
        self._totals = self._totals.model_copy(update=sums)

    def _result(self, status: Any, tables: FoldResult, generation: int) -> ExtractionResult:
        return ExtractionResult(
            source=self._work.source,
            run_group=self._work.run_group,
            status=status,
            totals=self._totals,
            tables=tables,
            workflow_id=workflow.info().workflow_id,
            generations=generation + 1,
        )

    async def _step(self, step: str, argument: Model, result_type: type[Result]) -> Result:
        if step != "record_knowledge":
            raise_cancellation()
        limits = LIMITS[step]
        result: Any = await workflow.execute_activity(
            step,
            argument,
            result_type=result_type,
            task_queue=role_queue(workflow.info().task_queue, limits.role),
            summary=self._work.source,
            start_to_close_timeout=limits.one_attempt,
            schedule_to_close_timeout=limits.all_attempts,
            heartbeat_timeout=timedelta(seconds=self._timeouts.heartbeat_seconds),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1),
                backoff_coefficient=2,
                maximum_interval=timedelta(seconds=60),
                maximum_attempts=limits.attempts,
            ),
        )
        return result


@workflow.defn(name="KnowledgeExtractionWorkflow")
class KnowledgeExtractionWorkflow:
    """Extract several sources as children with a fixed id each, which is the source's lock. A failure is a result."""

    @workflow.run
    async def run(self, extraction: KnowledgeExtraction) -> KnowledgeResult:
        free = asyncio.Semaphore(extraction.max_parallel)

        async def one(work: SourceExtraction) -> ExtractionResult:
            outcome = ExtractionResult(
                source=work.source, run_group=work.run_group, status="failed", workflow_id=lock_id(work.source)
            )
            try:
                async with free:
                    return await workflow.execute_child_workflow(
                        KnowledgeSourceWorkflow.run,
                        SourceRun(work=work),
                        id=lock_id(work.source),
                        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                        parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                        static_summary=work.source,
                    )
            except WorkflowAlreadyStartedError:
                reason = "another extraction of this source is running"
                return outcome.model_copy(
                    update={"status": "skipped", "reason": reason, "error_type": "AlreadyRunning"}
                )
            except ChildWorkflowError as error:
                raise_cancellation()
                cause = failure_cause(error)
                text = cause.text[:MAX_ERROR_CHARACTERS]
                return outcome.model_copy(update={"error": text, "error_type": cause.error_type})

        return KnowledgeResult(results=tuple(await gather_all(*(one(work) for work in extraction.sources))))
