"""Jobs 2.2: runs of one or several tasks, each a process of its own, with idempotency tokens and a real cancel.

Shapes: docs.databricks.com/api/workspace/jobs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.standins.databricks.errors import ApiError, SqlError
from tests.standins.databricks.sql_engine import SqlEngine

ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
TOKEN_CHARACTERS = 64
LOG_CHARACTERS = 5_000_000
KINDS = ("notebook_task", "sql_task", "python_wheel_task", "spark_python_task")
SOURCE = Path(__file__).resolve().parents[3]


@dataclass
class TaskRun:
    run_id: int
    spec: dict[str, Any]
    life_cycle: str = "PENDING"
    result: str | None = None
    message: str = ""
    output: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    end: int = 0

    @property
    def key(self) -> str:
        return self.spec["task_key"]


@dataclass
class Run:
    run_id: int
    job_id: int | None
    name: str
    tasks: list[TaskRun]
    token: str | None
    parameters: dict[str, str]
    start: int
    end: int = 0
    cancelling: threading.Event = field(default_factory=threading.Event)

    @property
    def life_cycle(self) -> str:
        if all(task.life_cycle in ENDED for task in self.tasks):
            return "TERMINATED"
        if self.cancelling.is_set():
            return "TERMINATING"
        return "RUNNING" if any(task.life_cycle != "PENDING" for task in self.tasks) else "PENDING"

    @property
    def result(self) -> str | None:
        if self.life_cycle != "TERMINATED":
            return None
        if self.cancelling.is_set():
            return "CANCELED"
        return "SUCCESS" if all(task.result == "SUCCESS" for task in self.tasks) else "FAILED"


class Jobs:
    """The jobs and runs of one workspace."""

    def __init__(self, folder: Path, workspace: Path, engine: SqlEngine) -> None:
        self._folder, self._workspace, self._engine = folder, workspace, engine
        self._lock = threading.RLock()
        self._numbers = itertools.count(int(time.time() * 1000))
        self._jobs: dict[int, dict[str, Any]] = {}
        self._runs: dict[int, Run] = {}
        self._task_runs: dict[int, TaskRun] = {}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            job_id = next(self._numbers)
            self._jobs[job_id] = body | {"tasks": _checked(body.get("tasks") or [])}
            return {"job_id": job_id}

    def run_now(self, body: dict[str, Any], url: str) -> dict[str, Any]:
        job = self._jobs.get(int(body.get("job_id") or 0))
        if job is None:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Job {body.get('job_id')} does not exist.")
        parameters = {p["name"]: p.get("default", "") for p in job.get("parameters") or []}
        parameters |= body.get("job_parameters") or {}
        return self._start(body, int(body["job_id"]), job.get("name") or "Untitled", job["tasks"], parameters)

    def submit(self, body: dict[str, Any], url: str) -> dict[str, Any]:
        return self._start(body, None, body.get("run_name") or "Untitled", _checked(body.get("tasks") or []), {})

    def _start(
        self,
        body: dict[str, Any],
        job_id: int | None,
        name: str,
        tasks: list[dict[str, Any]],
        parameters: dict[str, str],
    ) -> dict[str, Any]:
        token = body.get("idempotency_token")
        if token and len(token) > TOKEN_CHARACTERS:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "idempotency_token must have at most 64 characters")
        with self._lock:
            for run in self._runs.values():
                if token and run.token == token and run.job_id == job_id:
                    return {"run_id": run.run_id}
            task_runs = [TaskRun(next(self._numbers), spec) for spec in tasks]
            run = Run(next(self._numbers), job_id, name, task_runs, token, parameters, _now())
            self._runs[run.run_id] = run
            self._task_runs |= {task.run_id: task for task in task_runs}
        threading.Thread(target=self._run, args=(run,), daemon=True).start()
        return {"run_id": run.run_id}

    def _run(self, run: Run) -> None:
        """Start each task when those it depends on have succeeded."""
        threads: dict[str, threading.Thread] = {}
        by_key = {task.key: task for task in run.tasks}
        while any(task.life_cycle not in ENDED for task in run.tasks):
            for task in run.tasks:
                if task.life_cycle != "PENDING" or task.key in threads:
                    continue
                needed = [by_key[d["task_key"]] for d in task.spec.get("depends_on") or []]
                if run.cancelling.is_set():
                    self._end(task, "CANCELED", "Run cancelled.")
                elif any(other.life_cycle in ENDED and other.result != "SUCCESS" for other in needed):
                    task.life_cycle, task.result, task.end = "TERMINATED", "UPSTREAM_FAILED", _now()
                elif all(other.result == "SUCCESS" for other in needed):
                    threads[task.key] = threading.Thread(target=self._run_task, args=(run, task), daemon=True)
                    threads[task.key].start()
            time.sleep(0.02)
        run.end = _now()

    def _run_task(self, run: Run, task: TaskRun) -> None:
        task.start, task.life_cycle = _now(), "RUNNING"
        try:
            if "sql_task" in task.spec:
                self._run_sql(task, run)
            else:
                self._run_process(task, run)
        except (ApiError, SqlError, OSError) as error:
            task.output["error"] = str(error)
            self._end(task, "FAILED", str(error))

    @staticmethod
    def _end(task: TaskRun, result: str, message: str = "") -> None:
        task.result, task.message, task.end = result, message, _now()
        task.life_cycle = "TERMINATED"

    def _source(self, path: str) -> str:
        file = self._workspace / path.strip("/")
        for candidate in (file, file.with_name(f"{file.name}.py")):
            if candidate.is_file():
                return candidate.read_text()
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Unable to access the notebook {path}. It does not exist.")

    def _run_sql(self, task: TaskRun, run: Run) -> None:
        sql = task.spec["sql_task"]
        if "file" not in sql:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "the stand-in runs SQL files only (sql_task.file)")
        text = self._source(sql["file"]["path"])
        given = run.parameters | (sql.get("parameters") or {})
        parameters = [{"name": name, "value": value} for name, value in given.items()]
        for statement in filter(None, (part.strip() for part in text.split(";"))):
            self._engine.execute(statement, ("main", "default"), parameters, lambda: None)
        link = f"/sql/queries/{task.run_id}"
        task.output["sql_output"] = {"query_output": {"warehouse_id": sql.get("warehouse_id"), "output_link": link}}
        self._end(task, "SUCCESS")

    def _spec(self, task: TaskRun, run: Run) -> dict[str, Any]:
        if notebook := task.spec.get("notebook_task"):
            parameters = run.parameters | (notebook.get("base_parameters") or {})
            return {"notebook": self._source(notebook["notebook_path"]), "parameters": parameters}
        if wheel := task.spec.get("python_wheel_task"):
            return {"package": wheel["package_name"], "entry_point": wheel["entry_point"],
                    "parameters": wheel.get("parameters") or []}  # fmt: skip
        python = task.spec["spark_python_task"]
        return {"python": self._source(python["python_file"]), "parameters": python.get("parameters") or []}

    def _run_process(self, task: TaskRun, run: Run) -> None:
        folder = self._folder / str(task.run_id)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(self._spec(task, run)))
        environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{self._workspace}", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "tests.standins.databricks.task_runner"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(folder / "spec.json"), str(folder / "output.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
            limit = task.spec.get("timeout_seconds")
            while process.poll() is None:
                expired = limit and _now() - task.start > limit * 1000
                if run.cancelling.is_set() or expired:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    self._end(task, "TIMEDOUT" if expired else "CANCELED", "Run cancelled.")
                    return
                time.sleep(0.02)
        logs = (folder / "log").read_text(errors="replace")[-LOG_CHARACTERS:]
        task.output["logs"] = logs
        if process.returncode == 0:
            result = json.loads((folder / "output.json").read_text())["result"]
            if result is not None:
                task.output["notebook_output"] = {"result": result, "truncated": False}
            self._end(task, "SUCCESS")
        else:
            task.output["error"] = (logs.strip().splitlines() or ["the task ended with an error"])[-1]
            task.output["error_trace"] = logs[-10_000:]
            self._end(task, "FAILED", "Workload failed, see run output for details")

    # what the API tells

    def get(self, run_id: int, url: str) -> dict[str, Any]:
        run = self._runs.get(run_id)
        if run is None:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        answer = {
            "run_id": run.run_id,
            "job_id": run.job_id or run.run_id,
            "run_name": run.name,
            "run_type": "JOB_RUN" if run.job_id else "SUBMIT_RUN",
            "state": _state(run.life_cycle, run.result, next((t.message for t in run.tasks if t.message), "")),
            "start_time": run.start,
            "end_time": run.end,
            "run_page_url": f"{url}/?o=1#job/{run.job_id or run.run_id}/run/{run.run_id}",
            "tasks": [
                {
                    "run_id": task.run_id,
                    "task_key": task.key,
                    "state": _state(task.life_cycle, task.result, task.message),
                    "start_time": task.start,
                    "end_time": task.end,
                    "run_page_url": f"{url}/?o=1#job/{run.job_id or run.run_id}/run/{task.run_id}",
                    "depends_on": task.spec.get("depends_on") or [],
                }
                for task in run.tasks
            ],
        }
        return answer

    def output(self, run_id: int, url: str) -> dict[str, Any]:
        if run_id in self._runs:
            run = self._runs[run_id]
            if len(run.tasks) > 1:
                raise ApiError(
                    400,
                    "INVALID_PARAMETER_VALUE",
                    "Retrieving the output of runs with multiple tasks is not supported. "
                    "Please retrieve the output of each individual task run instead.",
                )
            task = run.tasks[0]
        elif run_id in self._task_runs:
            task = self._task_runs[run_id]
        else:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        parent = next(run for run in self._runs.values() if task in run.tasks)
        return task.output | {"metadata": self.get(parent.run_id, url)}

    def cancel(self, run_id: int) -> dict[str, Any]:
        run = self._runs.get(run_id)
        if run is None:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        if run.life_cycle != "TERMINATED":
            run.cancelling.set()
        return {}

    def list(self, url: str, job_id: int | None, active_only: bool) -> dict[str, Any]:
        found = [
            self.get(run.run_id, url)
            for run in sorted(self._runs.values(), key=lambda run: -run.run_id)
            if (job_id is None or run.job_id == job_id) and (not active_only or run.life_cycle not in ENDED)
        ]
        return {"runs": found[:25], "has_more": len(found) > 25}

    def stop(self) -> None:
        for run in self._runs.values():
            run.cancelling.set()


def _checked(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = [task.get("task_key") for task in tasks]
    if not tasks or None in keys or len(set(keys)) < len(keys):
        raise ApiError(400, "INVALID_PARAMETER_VALUE", "a run needs tasks with task keys of their own")
    for task in tasks:
        if sum(kind in task for kind in KINDS) != 1:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"task {task['task_key']} needs one of {', '.join(KINDS)}")
        unknown = {d["task_key"] for d in task.get("depends_on") or []} - set(keys)
        if unknown:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"task {task['task_key']} depends on unknown {unknown}")
    return tasks


def _state(life_cycle: str, result: str | None, message: str) -> dict[str, Any]:
    state: dict[str, Any] = {"life_cycle_state": life_cycle, "state_message": message}
    return state | ({"result_state": result} if result else {})


def _now() -> int:
    return int(time.time() * 1000)
