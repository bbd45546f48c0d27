"""Runs of Databricks jobs: started once by a token, looked at, cancelled, and what they gave back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assets.databricks_job import MAX_TASKS, DatabricksJob, DatabricksJobResult, JobRunLook, TaskRunResult

if TYPE_CHECKING:
    from assets.lakehouse.databricks_client import DatabricksConnection

MAX_OUTPUT_CHARACTERS = 8_000
"""Of one task's output: a hundred of them have to fit into one Temporal payload."""


class DatabricksJobs:
    """Calls of the Jobs API, each short."""

    def __init__(self, connection: DatabricksConnection) -> None:
        self._connection = connection

    def start(self, job: DatabricksJob, token: str) -> int:
        """Start the run, or find the one that was started with this token. Returns its id.

        Args:
            token: at most 64 characters.

        Raises:
            LakehouseError: the workspace refuses it, or does not answer.
        """
        from databricks.sdk.service.jobs import SubmitTask

        from assets.lakehouse.databricks_client import databricks_errors

        api = self._connection.client.jobs
        with databricks_errors(job.name):
            if job.job_id is not None:
                waiter = api.run_now(job.job_id, idempotency_token=token, job_parameters=job.parameters or None)
            else:
                tasks = [SubmitTask.from_dict(task) for task in job.tasks]
                waiter = api.submit(
                    run_name=job.name, tasks=tasks, idempotency_token=token, timeout_seconds=job.timeout_seconds
                )
        return int(waiter.response.run_id or 0)

    def look(self, run_id: int) -> JobRunLook:
        from assets.lakehouse.databricks_client import databricks_errors

        with databricks_errors(f"run {run_id}"):
            run = self._connection.client.jobs.get_run(run_id)
        state = run.state
        return JobRunLook(
            run_id=run_id,
            life_cycle=_text(state.life_cycle_state if state else None) or "PENDING",
            result_state=_text(state.result_state if state else None),
            message=(state.state_message if state else None) or "",
            run_page_url=run.run_page_url,
        )

    def cancel(self, run_id: int) -> None:
        """Ask for the end; the run ends later."""
        from assets.lakehouse.databricks_client import databricks_errors

        with databricks_errors(f"run {run_id}"):
            self._connection.client.jobs.cancel_run(run_id)

    def result(self, run_id: int) -> DatabricksJobResult:
        """What a finished run gave back, task by task."""
        from assets.lakehouse.databricks_client import databricks_errors

        api = self._connection.client.jobs
        with databricks_errors(f"run {run_id}"):
            run = api.get_run(run_id)
            tasks = []
            for task in (run.tasks or [])[:MAX_TASKS]:
                state = _text(task.state.result_state if task.state else None) or "UNKNOWN"
                output = api.get_run_output(int(task.run_id or 0)) if state in ("SUCCESS", "FAILED") else None
                tasks.append(_task_result(task, state, output))
        seconds = ((run.end_time or 0) - (run.start_time or 0)) / 1000
        return DatabricksJobResult(
            run_id=run_id,
            result_state=_text(run.state.result_state if run.state else None) or "UNKNOWN",
            message=(run.state.state_message if run.state else None) or "",
            run_page_url=run.run_page_url,
            seconds=max(0, seconds),
            tasks=tuple(tasks),
        )


def _task_result(task: Any, state: str, output: Any) -> TaskRunResult:
    text, truncated = None, False
    if output is not None and output.notebook_output and output.notebook_output.result is not None:
        text, truncated = output.notebook_output.result, bool(output.notebook_output.truncated)
    elif output is not None and output.sql_output:
        link = output.sql_output.query_output
        text = link.output_link if link else None
    elif output is not None:
        text, truncated = output.logs, bool(output.logs_truncated)
    cut = text is not None and len(text) > MAX_OUTPUT_CHARACTERS
    return TaskRunResult(
        task_key=str(task.task_key),
        state=state,
        output=text[-MAX_OUTPUT_CHARACTERS:] if text is not None else None,
        truncated=truncated or cut,
        error=output.error[:MAX_OUTPUT_CHARACTERS] if output is not None and output.error else None,
        run_page_url=task.run_page_url,
    )


def _text(state: Any) -> str | None:
    return state.value if state is not None else None
