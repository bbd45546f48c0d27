"""A run of a Databricks job: started once, looked at in short activities between durable timers, cancelled with it."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from assets.databricks_job import DatabricksJob, DatabricksJobResult, JobRunLook
    from assets.sync import Model
    from temporal_bridge.workflows.cancellation import raise_cancellation, was_cancelled
    from temporal_bridge.workflows.step_inputs import SyncTimeouts
    from temporal_bridge.workflows.task_queues import role_queue

Result = TypeVar("Result")

FIRST_POLL_SECONDS = 0.5
POLL_GROWTH = 1.5
CANCEL_LOOKS = 60
LOOKS_BEFORE_NEW_HISTORY = 2000


class StartJobRun(Model):
    job: DatabricksJob
    token: str


class JobRun(Model):
    run_id: int


class DatabricksJobInput(Model):
    """Input of `DatabricksJobWorkflow`; ``run_id`` once the run is known and a new history goes on with it."""

    job: DatabricksJob
    run_id: int | None = None


@workflow.defn(name="DatabricksJobWorkflow")
class DatabricksJobWorkflow:
    """Run a notebook, SQL, a wheel or several tasks on Databricks.

    Ends COMPLETED with the `DatabricksJobResult`; FAILED with the tasks' errors and the run's page; CANCELED after the
    run in the workspace has ended. The run is started with a token made of this workflow's id and first run id: an
    activity that is repeated finds the run that was started, a workflow that is started again starts a new one.
    """

    @workflow.init
    def __init__(self, work: DatabricksJobInput) -> None:
        self._state = "starting"
        self._timeouts = SyncTimeouts()

    @workflow.query
    def progress(self) -> str:
        """The run's state in the workspace."""
        return self._state

    @workflow.run
    async def run(self, work: DatabricksJobInput) -> DatabricksJobResult:
        self._timeouts = await workflow.execute_local_activity(
            "sync_timeouts",
            result_type=SyncTimeouts,
            schedule_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        run_id = work.run_id
        try:
            if run_id is None:
                info = workflow.info()
                token = hashlib.sha256(f"{info.workflow_id}\n{info.first_execution_run_id}".encode()).hexdigest()
                started = self._activity("start_databricks_run", StartJobRun(job=work.job, token=token), JobRun)
                try:
                    run_id = (await asyncio.shield(started)).run_id
                except asyncio.CancelledError:
                    run_id = (await started).run_id  # it may run by now: it has to be known to be cancelled
                    raise
            look = await self._ended(run_id, work.job)
        except (Exception, asyncio.CancelledError) as error:
            # a cancel during an activity arrives as the activity's failure
            if run_id is not None and was_cancelled(error):
                await self._cancel(run_id)
            raise_cancellation()
            raise
        result = await self._activity("databricks_run_result", JobRun(run_id=run_id), DatabricksJobResult)
        workflow.set_current_details(f"{work.job.name}: {result.result_state} {look.run_page_url or ''}")
        if result.result_state != "SUCCESS":
            errors = "; ".join(f"{task.task_key}: {task.error}" for task in result.tasks if task.error)
            raise ApplicationError(
                f"Databricks run {run_id} ended {result.result_state}: {errors or result.message or 'no reason given'} "
                f"({result.run_page_url})"[:4000],
                type="DatabricksJobFailed",
                non_retryable=True,
            )
        return result

    async def _ended(self, run_id: int, job: DatabricksJob) -> JobRunLook:
        """Look until the run has ended; a long one goes on in a new history."""
        pause = FIRST_POLL_SECONDS
        for _ in range(LOOKS_BEFORE_NEW_HISTORY):
            raise_cancellation()
            look = await self._activity("look_at_databricks_run", JobRun(run_id=run_id), JobRunLook)
            if look.life_cycle != self._state:
                self._state = look.life_cycle
                workflow.set_current_details(f"{job.name}: {look.life_cycle} {look.run_page_url or ''}")
            if look.ended:
                return look
            await workflow.sleep(timedelta(seconds=pause))
            pause = min(job.poll_seconds, pause * POLL_GROWTH)
            if workflow.info().is_continue_as_new_suggested():
                break
        raise_cancellation()  # the next generation would know nothing of it
        workflow.continue_as_new(DatabricksJobInput(job=job, run_id=run_id))

    async def _cancel(self, run_id: int) -> None:
        await self._activity("cancel_databricks_run", JobRun(run_id=run_id), JobRunLook)
        for _ in range(CANCEL_LOOKS):
            look = await self._activity("look_at_databricks_run", JobRun(run_id=run_id), JobRunLook)
            if look.ended:
                return
            await workflow.sleep(timedelta(seconds=1))

    def _activity(self, name: str, argument: Model, result_type: type[Result]) -> workflow.ActivityHandle[Result]:
        handle: Any = workflow.start_activity(
            name,
            argument,
            result_type=result_type,
            task_queue=role_queue(workflow.info().task_queue, "databricks"),
            start_to_close_timeout=timedelta(minutes=3),
            schedule_to_close_timeout=timedelta(hours=24),
            heartbeat_timeout=timedelta(seconds=self._timeouts.heartbeat_seconds),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=60
            ),
        )
        return handle
