"""The sync of one table: six steps, each an activity whose effect happens once."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from assets.sync import ChunkedRead, CommitInfo, Model, TableResult, TableSync, WindowPlan
    from temporal_bridge.workflows.cancellation import raise_cancellation, was_cancelled
    from temporal_bridge.workflows.failure_cause import FailureCause, failure_cause
    from temporal_bridge.workflows.step_inputs import (
        ChunkInput,
        CommitInput,
        ExtractInput,
        FailInput,
        RecordInput,
        SkipInput,
        SyncTimeouts,
        TurnAnswer,
        TurnRequest,
        VerifyInput,
    )
    from temporal_bridge.workflows.task_queues import WorkerRole, role_queue

Result = TypeVar("Result")


@dataclass(frozen=True)
class StepLimits:
    """Time limits of one step; attempts are bounded too."""

    one_attempt: timedelta
    all_attempts: timedelta
    attempts: int = 5
    role: WorkerRole = "extract"


MAX_WAITING = 20
HELD = "TableHeldError"
"""Error type: the table is being synced by a workflow of many tables."""
MINUTES = timedelta(minutes=10)
HOURS = timedelta(hours=12)
STEP_LIMITS = {
    "open_window": StepLimits(timedelta(hours=2), timedelta(hours=24)),  # it may have to catch Silver up
    "extract": StepLimits(HOURS, timedelta(hours=48)),
    "begin_chunks": StepLimits(timedelta(hours=2), timedelta(hours=24)),
    "extract_chunk": StepLimits(HOURS, timedelta(hours=48)),
    "finish_chunks": StepLimits(HOURS, timedelta(hours=48)),
    "commit_bronze": StepLimits(timedelta(hours=1), timedelta(hours=24)),
    "merge_silver": StepLimits(HOURS, timedelta(hours=48)),
    "verify": StepLimits(HOURS, timedelta(hours=48)),
    "record": StepLimits(MINUTES, timedelta(hours=24), attempts=20, role="orchestration"),
    "fail": StepLimits(MINUTES, timedelta(hours=24), attempts=20, role="orchestration"),
    "skip": StepLimits(MINUTES, timedelta(hours=24), attempts=20, role="orchestration"),
}


@workflow.defn(name="DataSourceSyncWorkflow")
class DataSourceSyncWorkflow:
    """Bring one table from its source to Bronze and Silver, and prove it.

    Ends COMPLETED with the `TableResult`; FAILED, with the error's type and text, after the run row was closed as
    failed; CANCELED after the run row was closed as cancelled.
    """

    @workflow.init
    def __init__(self, work: TableSync) -> None:
        self._table = f"{work.connector}/{work.table}"
        self._step = "starting"
        self._timeouts = SyncTimeouts()
        self._waiting: list[TurnRequest] = []

    @workflow.signal
    async def wait_for_turn(self, request: TurnRequest) -> None:
        """Tell ``request.workflow_id`` when this sync has ended: by the signal ``turn``. One may queue at a time."""
        others = [other for other in self._waiting if other.workflow_id != request.workflow_id]
        if len(others) >= MAX_WAITING or (request.overlap == "queue_one" and others):
            await self._answer(request, refused=True)
        else:
            self._waiting = [*others, request]

    @workflow.signal
    def give_up_turn(self, workflow_id: str) -> None:
        """The workflow does not wait any more."""
        self._waiting = [other for other in self._waiting if other.workflow_id != workflow_id]

    @workflow.query
    def progress(self) -> str:
        """The step under way. Rows so far: heartbeat details in ``describe()``, which needs no worker."""
        return self._step

    @workflow.run
    async def run(self, work: TableSync) -> TableResult:
        try:
            return await self._run(work)
        finally:
            while self._waiting:
                await self._answer(self._waiting.pop(0), refused=False)

    async def _answer(self, request: TurnRequest, *, refused: bool) -> None:
        waiting = workflow.get_external_workflow_handle(request.workflow_id)
        with contextlib.suppress(FailureError):  # it has ended
            await waiting.signal("turn", TurnAnswer(holder_id=workflow.info().workflow_id, refused=refused))

    async def _run(self, work: TableSync) -> TableResult:
        self._timeouts = await workflow.execute_local_activity(
            "sync_timeouts",
            result_type=SyncTimeouts,
            schedule_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        try:
            return await self._sync(work)
        except (Exception, asyncio.CancelledError) as error:
            cancelled, cause = was_cancelled(error), failure_cause(error)
            if cause.error_type == HELD:  # its row and its staging are another run's
                raise ApplicationError(cause.text, type=HELD, non_retryable=True) from error
            if cancelled:
                cause = FailureCause("Cancelled", "cancelled")
            failed = FailInput(work=work, error_type=cause.error_type, error=cause.text)
            await self._run_step("fail", failed, TableResult)
            workflow.set_current_details(f"{self._table}: {cause.text}")
            if cancelled:
                raise_cancellation()
                raise
            raise ApplicationError(cause.text, type=cause.error_type, non_retryable=cause.non_retryable) from error

    async def _sync(self, work: TableSync) -> TableResult:
        plan = await self._run_step("open_window", work, WindowPlan)
        if plan.skip:
            return await self._run_step("skip", SkipInput(work=work, plan=plan), TableResult)
        extract = ExtractInput(work=work, plan=plan)
        if plan.chunked:
            manifest_uri = await self._extract_chunks(extract)
        else:
            manifest_uri = await self._run_step("extract", extract, str)
        staged = CommitInput(work=work, manifest_uri=manifest_uri)
        bronze = await self._run_step("commit_bronze", staged, CommitInfo)
        silver = await self._run_step("merge_silver", staged, CommitInfo)
        proof = VerifyInput(work=work, manifest_uri=manifest_uri, bronze=bronze, silver=silver)
        result = await self._run_step("verify", proof, TableResult)
        info = workflow.info()
        result = result.model_copy(update={"workflow_id": info.workflow_id, "started_at": info.start_time})
        result = await self._run_step("record", RecordInput(work=work, result=result), TableResult)
        workflow.set_current_details(f"{self._table}: {result.status}, {result.rows_read} rows read")
        return result

    async def _extract_chunks(self, extract: ExtractInput) -> str:
        """Read a large table in chunks, some at once, wherever workers are free. One that fails ends them all."""
        work = extract.work
        begun = await self._run_step("begin_chunks", extract, ChunkedRead)
        free = asyncio.Semaphore(begun.parallel)

        async def read(number: int) -> int:
            async with free:
                return await self._run_step("extract_chunk", ChunkInput(work=work, uri=begun.uri, number=number), int)

        chunks = [asyncio.create_task(read(number)) for number in range(begun.chunks)]
        try:
            await asyncio.gather(*chunks)
        finally:
            for chunk in chunks:
                chunk.cancel()
            await asyncio.gather(*chunks, return_exceptions=True)
        return await self._run_step("finish_chunks", ChunkInput(work=work, uri=begun.uri), str)

    async def _run_step(self, step: str, argument: Model, result_type: type[Result]) -> Result:
        if step != "fail":
            raise_cancellation()
        self._step = step
        workflow.set_current_details(f"{self._table}: {step}")
        limits = STEP_LIMITS[step]
        result: Any = await workflow.execute_activity(
            step,
            argument,
            result_type=result_type,
            task_queue=role_queue(workflow.info().task_queue, limits.role),
            summary=self._table,
            start_to_close_timeout=limits.one_attempt,
            schedule_to_close_timeout=limits.all_attempts,
            heartbeat_timeout=timedelta(seconds=self._timeouts.heartbeat_seconds),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1),
                backoff_coefficient=2,
                maximum_interval=timedelta(seconds=30),
                maximum_attempts=limits.attempts,
            ),
        )
        return result
