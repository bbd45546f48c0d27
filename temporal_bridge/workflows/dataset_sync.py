"""The sync of many tables of one connector: bounded parallel children, one failing alone."""

from __future__ import annotations

import asyncio

from pydantic import Field
from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from assets.naming import workflow_id
    from assets.sync import Model, TableResult, TableSync
    from temporal_bridge.workflows.data_source_sync import DataSourceSyncWorkflow
    from temporal_bridge.workflows.failure_cause import failure_cause

# One payload holds 2 MiB; a result above it would leave the workflow RUNNING for ever.
MAX_RESULT_BYTES = 1024 * 1024
# About six history events a table, of the 51,200 a workflow may have; each lean result has about 700 bytes.
MAX_TABLES = 1500
MAX_ERROR_CHARACTERS = 2000


class DatasetSync(Model):
    """Input of `DatasetSyncWorkflow`. A table that is being synced by another workflow is skipped."""

    connector: str
    tables: tuple[TableSync, ...] = Field(max_length=MAX_TABLES)
    run_group: str
    max_parallel: int = Field(default=4, ge=1, le=256)


class DatasetResult(Model):
    """One result a table, in the input's order; ``columns`` are left out where all together would be too large."""

    results: tuple[TableResult, ...]


@workflow.defn(name="DatasetSyncWorkflow")
class DatasetSyncWorkflow:
    """Sync tables as children with a fixed id each, which is the table's lock. A child's failure is a result."""

    @workflow.init
    def __init__(self, dataset: DatasetSync) -> None:
        self._done: dict[str, str] = {}
        self._total = len(dataset.tables)

    @workflow.query
    def progress(self) -> dict[str, str]:
        """Status of each finished table."""
        return self._done

    @workflow.run
    async def run(self, dataset: DatasetSync) -> DatasetResult:
        free = asyncio.Semaphore(dataset.max_parallel)

        async def sync(work: TableSync) -> TableResult:
            async with free:
                result = await self._sync_table(work)
            self._done[work.table] = result.status
            workflow.set_current_details(f"{dataset.connector}: {len(self._done)} of {self._total} tables done")
            return result

        results = await asyncio.gather(*(sync(work) for work in dataset.tables))
        return DatasetResult(results=_bounded(results))

    async def _sync_table(self, work: TableSync) -> TableResult:
        child_id = workflow_id(work.connector, work.table)
        outcome = TableResult(
            connector=work.connector,
            table=work.table,
            status="failed",
            run_group=work.run_group,
            workflow_id=child_id,
        )
        try:
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
            reason = "another sync of this table is running"
            return outcome.model_copy(update={"status": "skipped", "reason": reason, "error_type": "AlreadyRunning"})
        except ChildWorkflowError as error:
            if is_cancelled_exception(error) and workflow.cancellation_reason() is not None:
                raise
            cause = failure_cause(error)
            text = cause.text[:MAX_ERROR_CHARACTERS]
            return outcome.model_copy(update={"error_type": cause.error_type, "error": text})


def _bounded(results: list[TableResult]) -> tuple[TableResult, ...]:
    if sum(len(result.model_dump_json()) for result in results) <= MAX_RESULT_BYTES:
        return tuple(results)
    lean = {"columns": (), "column_names": {}, "reason": ""}
    return tuple(result.model_copy(update=lean) for result in results)
