"""The models of a Databricks job's run. Standard library and pydantic only: workflow files import this module."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from assets.sync import Model

MAX_TASKS = 100


class DatabricksJob(Model):
    """What is to run: a job of the workspace (``job_id``), or ``tasks`` as ``jobs/runs/submit`` takes them.

    Several tasks name what they depend on by ``depends_on``. Secrets belong into the workspace's secret scopes.
    """

    name: str
    job_id: int | None = None
    parameters: dict[str, str] = Field(default_factory=dict, description="job parameters, with job_id")
    tasks: tuple[dict[str, Any], ...] = Field(default=(), max_length=MAX_TASKS)
    timeout_seconds: int | None = Field(default=None, gt=0, description="the workspace ends the run after this time")
    poll_seconds: float = Field(default=10, gt=0, le=600, description="longest pause between two looks at the run")

    @model_validator(mode="after")
    def _one_of_both(self) -> DatabricksJob:
        if (self.job_id is None) == (not self.tasks):
            raise ValueError("give either job_id or tasks")
        return self


class TaskRunResult(Model):
    """One task: its end state, what it returned (``dbutils.notebook.exit``, or its log), its error."""

    task_key: str
    state: str
    output: str | None = None
    truncated: bool = False
    error: str | None = None
    run_page_url: str | None = None


class JobRunLook(Model):
    """A run as it is now. ``ended`` runs have a result state."""

    run_id: int
    life_cycle: str
    result_state: str | None = None
    message: str = ""
    run_page_url: str | None = None

    @property
    def ended(self) -> bool:
        return self.life_cycle in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")


class DatabricksJobResult(Model):
    """A finished run."""

    run_id: int
    result_state: str
    message: str = ""
    run_page_url: str | None = None
    seconds: float = 0
    tasks: tuple[TaskRunResult, ...] = ()
