"""Databricks jobs on the bridge: real workers, a real Temporal server, runs in the workspace stand-in."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from databricks.sdk.service.jobs import Task

from assets.databricks_job import DatabricksJob, DatabricksJobResult
from temporal_bridge import PipesTemporalClient, TemporalResource
from temporal_bridge.client import TemporalClient, WorkflowFailedError, WorkflowRun
from temporal_bridge.workflows.databricks_job import DatabricksJobInput, DatabricksJobWorkflow
from tests.polling import wait_until
from tests.servers.databricks_server import DatabricksServer
from tests.temporal_bridge.conftest import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture(autouse=True)
def workspace(databricks: DatabricksServer, monkeypatch: pytest.MonkeyPatch) -> DatabricksServer:
    """The settings of a workspace in the environment, which worker processes read."""
    for name, value in databricks.settings().items():
        text = value if isinstance(value, str) else value.get_secret_value()
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", text)
    return databricks


def notebook(workspace: DatabricksServer, source: str, key: str = "only", **facts: Any) -> dict[str, Any]:
    path = f"/{uuid.uuid4().hex}"
    workspace.import_notebook(path, source)
    return {"task_key": key, "notebook_task": {"notebook_path": path}} | facts


def start(client: TemporalClient, queue: str, *tasks: dict[str, Any], name: str = "") -> WorkflowRun:
    name = name or f"job-{uuid.uuid4().hex[:8]}"
    work = DatabricksJobInput(job=DatabricksJob(name=name, tasks=tasks, poll_seconds=0.5))
    return client.start_workflow(DatabricksJobWorkflow.run, work, id=f"job/{name}", task_queue=queue)


def runs_of(workspace: DatabricksServer, run: WorkflowRun) -> list[Any]:
    name = run.workflow_id.removeprefix("job/")
    return [found for found in workspace.client().jobs.list_runs() if found.run_name == name]


def waiting_for(file: Path) -> str:
    return f"import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.05)\n"


def test_tasks_run_in_their_order_and_their_outputs_come_back(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, workspace: DatabricksServer, tmp_path: Path
) -> None:
    first = notebook(workspace, f"open({str(tmp_path / 'made')!r}, 'w').write('7')\nprint('told')", "first")
    second = notebook(
        workspace,
        f"dbutils.notebook.exit(open({str(tmp_path / 'made')!r}).read())",
        "second",
        depends_on=[{"task_key": "first"}],
    )
    run = start(client, task_queue, second, first)
    result: DatabricksJobResult = client.wait(run)
    outputs = {task.task_key: (task.state, task.output) for task in result.tasks}
    assert outputs == {"first": ("SUCCESS", "told\n"), "second": ("SUCCESS", "7")}
    assert result.run_page_url and str(result.run_id) in result.run_page_url


def test_a_failed_task_fails_the_work_with_its_error_and_the_page(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, workspace: DatabricksServer
) -> None:
    run = start(client, task_queue, notebook(workspace, "raise ValueError('no such day')", "broken"))
    with pytest.raises(WorkflowFailedError, match=r"broken: ValueError: no such day .*run/") as failed:
        client.wait(run)
    assert failed.value.error_type == "DatabricksJobFailed"
    assert failed.value.non_retryable


def test_a_run_goes_on_when_its_worker_is_killed_and_is_started_once(
    client: TemporalClient, start_worker: StartWorker, task_queue: str, workspace: DatabricksServer, tmp_path: Path
) -> None:
    """The reply to the submit gets lost, then the worker is killed while the run is under way."""
    worker = start_worker()
    workspace.fail({"call": "POST .*runs/submit", "action": "kill_after"})
    run = start(client, task_queue, notebook(workspace, waiting_for(tmp_path / "go") + "dbutils.notebook.exit('done')"))
    worker.process.wait(30)
    assert workspace.fired() == [1]
    workspace.fail({"call": "POST .*runs/submit", "action": "drop_after"})
    second = start_worker()
    wait_until(lambda: workspace.fired() == [1])
    second.kill()
    (tmp_path / "go").touch()
    start_worker()
    result: DatabricksJobResult = client.wait(run)
    assert result.tasks[0].output == "done"
    assert len(runs_of(workspace, run)) == 1


def test_a_cancel_ends_the_run_in_the_workspace(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, workspace: DatabricksServer
) -> None:
    run = start(client, task_queue, notebook(workspace, "import time; time.sleep(600)"))
    wait_until(lambda: any(r.state.life_cycle_state.value == "RUNNING" for r in runs_of(workspace, run)))
    client.cancel(run)
    with pytest.raises(WorkflowFailedError, match="cancel"):
        client.wait(run)
    (found,) = runs_of(workspace, run)
    assert found.state.result_state.value == "CANCELED"


def test_a_job_of_the_workspace_is_an_asset_with_its_output_and_page(
    worker: WorkerProcess, task_queue: str, workspace: DatabricksServer, temporal_address: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    from orchestration.components.databricks_job import DatabricksJobComponent
    from orchestration.databricks_job_asset import databricks_job_asset

    monkeypatch.setenv("HEADRACE_TASK_QUEUE", task_queue)
    task = Task.from_dict(notebook(workspace, "dbutils.notebook.exit('9')"))
    job = workspace.client().jobs.create(name="stored", tasks=[task])
    pipes = PipesTemporalClient(TemporalResource(address=temporal_address), poll_interval_seconds=0.2)
    asset = databricks_job_asset("gold/revenue", DatabricksJob(name="stored", job_id=job.job_id), pipes=pipes)
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([asset], instance=instance)
        (made,) = done.asset_materializations_for_node("gold__revenue")
    assert made.metadata["databricks/output/only"].value == "9"
    assert str(made.metadata["databricks/run_page"].value).startswith(workspace.url)

    attributes = {"asset_key": "gold/revenue", "deps": ["silver/shop/orders"], "job": {"name": "n", "job_id": 1}}
    component = DatabricksJobComponent.resolve_from_dict(attributes)
    definitions = component.build_defs(dg.ComponentTree.for_test().load_context)
    assert dg.AssetKey(["gold", "revenue"]) in {spec.key for spec in definitions.resolve_all_asset_specs()}
