"""The sync of many tables of one connector: bounded parallel children, one failing alone."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from pydantic import Field
from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from assets.naming import workflow_id
    from assets.sync import Model, Overlap, TableResult, TableSync
    from temporal_bridge.workflows.cancellation import gather_all, raise_cancellation
    from temporal_bridge.workflows.data_source_sync import HELD, DataSourceSyncWorkflow
    from temporal_bridge.workflows.failure_cause import failure_cause
    from temporal_bridge.workflows.result_size import MAX_RESULT_BYTES, lean
    from temporal_bridge.workflows.small_tables import SmallTables
    from temporal_bridge.workflows.step_inputs import RecordInput, TurnAnswer, TurnRequest

# About six history events a table, of the 51,200 a workflow may have; each lean result has about 700 bytes.
MAX_TABLES = 1500
MAX_ERROR_CHARACTERS = 2000
MIN_TOGETHER = 8
"""From so many tables on, small ones share steps: fewer are done as fast by a workflow each."""
# A holder that was terminated tells nobody that it ended: look again after this time.
TURN_PATIENCE = timedelta(seconds=60)
MAX_TURNS = 2000


class DatasetSync(Model):
    """Input of `DatasetSyncWorkflow`; ``overlap``: what happens to a table that another sync holds."""

    connector: str
    tables: tuple[TableSync, ...] = Field(max_length=MAX_TABLES)
    run_group: str
    max_parallel: int = Field(default=4, ge=1, le=256)
    overlap: Overlap = "skip"


class DatasetResult(Model):
    """One result a table, in the input's order; ``columns`` are left out where all together would be too large."""

    results: tuple[TableResult, ...]


@workflow.defn(name="DatasetSyncWorkflow")
class DatasetSyncWorkflow:
    """Sync tables as children with a fixed id each, which is the table's lock. A child's failure is a result.

    Of many tables, those without news and the small ones are done many in one step, without children: see
    `SmallTables`.
    """

    @workflow.init
    def __init__(self, dataset: DatasetSync) -> None:
        self._done: dict[str, str] = {}
        self._total = len(dataset.tables)

        self._overlap: Overlap = dataset.overlap
        self._free = asyncio.Semaphore(dataset.max_parallel)
        self._turns: dict[str, TurnAnswer] = {}

    @workflow.query
    def progress(self) -> dict[str, str]:
        """Status of each finished table."""
        return self._done

    @workflow.signal
    def turn(self, answer: TurnAnswer) -> None:
        """From the sync that holds a table: it has ended, or the place behind it is taken."""
        self._turns[answer.holder_id] = answer

    @workflow.run
    async def run(self, dataset: DatasetSync) -> DatasetResult:
        results: dict[str, TableResult] = {}

        def ended(result: TableResult) -> None:
            results[result.table] = result
            self._done[result.table] = result.status
            workflow.set_current_details(f"{dataset.connector}: {len(self._done)} of {self._total} tables done")

        async def sync(work: TableSync) -> None:
            ended(await self._sync_table(work))

        left = dataset.tables
        if len(left) >= MIN_TOGETHER and workflow.patched("small-tables-together"):
            small = SmallTables(self._free, dataset.max_parallel, ended)
            left = await small.first_look(dataset.tables)
            await gather_all(small.sync(sync), *(sync(work) for work in left))
        else:
            await gather_all(*(sync(work) for work in left))
        return DatasetResult(results=_bounded([results[work.table] for work in dataset.tables]))

    async def _sync_table(self, work: TableSync) -> TableResult:
        child_id = workflow_id(work.connector, work.table)
        outcome = TableResult(
            connector=work.connector,
            table=work.table,
            status="failed",
            run_group=work.run_group,
            workflow_id=child_id,
        )
        reason = "another sync of this table is running"
        for _ in range(MAX_TURNS):
            raise_cancellation()
            try:
                async with self._free:
                    return await workflow.execute_child_workflow(
                        DataSourceSyncWorkflow.run,
                        work,
                        id=child_id,
                        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                        parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                        static_summary=f"{work.connector}/{work.table}",
                    )
            except WorkflowAlreadyStartedError:
                if self._overlap == "skip":
                    break
                if not await self._turn_came(child_id):
                    reason = "another sync of this table is running, and the next one waits already"
                    break
            except ChildWorkflowError as error:
                raise_cancellation()
                cause = failure_cause(error)
                if cause.error_type == HELD:
                    if self._overlap == "skip":
                        break
                    await asyncio.sleep(1)  # such a table is small: it is free in a moment
                    continue
                text = cause.text[:MAX_ERROR_CHARACTERS]
                return outcome.model_copy(update={"error_type": cause.error_type, "error": text})
        skipped = outcome.model_copy(update={"status": "skipped", "reason": reason, "error_type": "AlreadyRunning"})
        await workflow.execute_activity(
            "close_row",
            RecordInput(work=work, result=skipped),
            start_to_close_timeout=timedelta(minutes=1),
            schedule_to_close_timeout=timedelta(hours=1),
            retry_policy=RetryPolicy(maximum_attempts=10),
        )
        return skipped

    async def _turn_came(self, holder_id: str) -> bool:
        """Wait for the end of the sync that holds the table; false if the place behind it is taken."""
        own_id = workflow.info().workflow_id
        holder = workflow.get_external_workflow_handle(holder_id)
        told = self._turns.pop(holder_id, None) is not None
        if told:  # it said that it ends, and has not ended yet
            await asyncio.sleep(0.2)
            return True
        try:
            try:
                await holder.signal("wait_for_turn", TurnRequest(workflow_id=own_id, overlap=self._overlap))
                if self._overlap == "cancel_other":
                    await holder.cancel()
            except FailureError:  # it has ended, or the cancellation came while the signal was sent
                raise_cancellation()
                return True
            raise_cancellation()
            await workflow.wait_condition(lambda: holder_id in self._turns, timeout=TURN_PATIENCE)
        except TimeoutError:
            return True
        except asyncio.CancelledError:
            with contextlib.suppress(FailureError):
                await holder.signal("give_up_turn", own_id)
            raise
        return not self._turns[holder_id].refused


def _bounded(results: list[TableResult]) -> tuple[TableResult, ...]:
    if sum(len(result.model_dump_json()) for result in results) <= MAX_RESULT_BYTES:
        return tuple(results)
    return tuple(lean(result) for result in results)
