"""Calls of the Databricks Jobs API as Temporal activities: each short, each may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from temporalio import activity

from assets.databricks_job import DatabricksJobResult, JobRunLook
from assets.databricks_job_runs import DatabricksJobs
from assets.lakehouse.databricks_client import DatabricksConnection
from assets.settings import Settings
from temporal_bridge.activities.error_classification import classified
from temporal_bridge.activities.progress_heartbeat import ProgressHeartbeat
from temporal_bridge.workflows.databricks_job import JobRun, StartJobRun


class DatabricksJobActivities:
    """The activities of one worker, on one workspace."""

    def __init__(self, settings: Settings) -> None:
        self._jobs = DatabricksJobs(DatabricksConnection(settings))

    @property
    def all(self) -> Sequence[Callable[..., Any]]:
        return [self.start, self.look, self.cancel, self.result]

    @activity.defn(name="start_databricks_run")
    @classified
    def start(self, start: StartJobRun) -> JobRun:
        with ProgressHeartbeat("start_databricks_run"):
            return JobRun(run_id=self._jobs.start(start.job, start.token))

    @activity.defn(name="look_at_databricks_run")
    @classified
    def look(self, run: JobRun) -> JobRunLook:
        with ProgressHeartbeat("look_at_databricks_run"):
            return self._jobs.look(run.run_id)

    @activity.defn(name="cancel_databricks_run")
    @classified
    def cancel(self, run: JobRun) -> JobRunLook:
        with ProgressHeartbeat("cancel_databricks_run"):
            self._jobs.cancel(run.run_id)
            return self._jobs.look(run.run_id)

    @activity.defn(name="databricks_run_result")
    @classified
    def result(self, run: JobRun) -> DatabricksJobResult:
        with ProgressHeartbeat("databricks_run_result"):
            return self._jobs.result(run.run_id)
