"""Dagster runs as processes on a real Temporal server: kill, re-execute, terminate."""

# No postponed annotations: Dagster reads those of an asset function as they stand.
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from temporal_bridge import PipesTemporalClient, TemporalResource
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.conftest import REPOSITORY, WorkerProcess
from tests.temporal_bridge.dagster_job import key, materialized_keys
from tests.temporal_bridge.greeting_workflow import GreetingWorkflow
from tests.temporal_bridge.recorded_steps import RecordedSteps


class DagsterRuns:
    """Run processes of one Dagster instance."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = {**os.environ, **environment, "DAGSTER_HOME": str(home)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, tables: list[str], parent: str | None = None, **environment: str) -> tuple[str, Any]:
        run_id = str(uuid.uuid4())
        with (self.home / f"{run_id}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.temporal_bridge.dagster_job", run_id, *([parent] if parent else [])],
                cwd=REPOSITORY,
                env={**self.environment, "BRIDGE_TABLES": ",".join(tables), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return run_id, process

    def finish(self, run_id: str, process: Any) -> str:
        process.wait(120)
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id)
        assert run is not None, self.log(run_id)
        return run.status.value

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def log(self, run_id: str) -> str:
        return (self.home / f"{run_id}.log").read_text()

    def mark_failed(self, run_id: str) -> None:
        """What Dagster's run monitoring does with a run whose process is gone."""
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_failed(run)

    def materialized(self, run_id: str) -> set[str]:
        with self.instance() as instance:
            return {k.path[-1] for k in materialized_keys(instance, run_id) if k}


@pytest.fixture
def runs(tmp_path: Path, temporal: TemporalServer, task_queue: str) -> Iterator[DagsterRuns]:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    connector = f"shop_{uuid.uuid4().hex[:8]}"
    runs = DagsterRuns(
        home,
        {
            "TEMPORAL_ADDRESS": temporal.address,
            "BRIDGE_QUEUE": task_queue,
            "BRIDGE_CONNECTOR": connector,
            "BRIDGE_EXECUTOR": "in_process",
        },
    )
    yield runs
    for process in runs.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_killed_run_process_is_followed_by_one_that_attaches_and_the_work_is_done_once(
    runs: DagsterRuns, worker: WorkerProcess, steps: RecordedSteps, executor: str
) -> None:
    runs.environment["BRIDGE_EXECUTOR"] = executor
    tables = ["public.waiting", "public.orders"]
    first, process = runs.start(tables)
    steps.wait_for("record")  # orders is done, waiting is not
    steps.wait_for("extract", 2)
    deadline = time.monotonic() + 30
    while runs.materialized(first) != {"public__orders"}:
        assert time.monotonic() < deadline, runs.log(first)
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    runs.mark_failed(first)
    second, process = runs.start(tables, parent=first)
    deadline = time.monotonic() + 60
    while "Reattached" not in runs.log(second) and "Attached to workflow" not in runs.log(second):
        assert time.monotonic() < deadline and process.poll() is None, runs.log(second)
        time.sleep(0.1)
    steps.release()
    assert runs.finish(second, process) == "SUCCESS", runs.log(second)
    assert runs.materialized(second) == {"public__waiting"}
    for step in ("extract", "commit_bronze", "record"):
        assert sorted(call["table"] for call in steps.calls(step)) == sorted(tables)


def test_one_failing_table_fails_alone_and_only_it_is_done_again(
    runs: DagsterRuns, worker: WorkerProcess, steps: RecordedSteps
) -> None:
    tables = ["public.orders", "public.forbidden", "public.events"]
    first, process = runs.start(tables)
    assert runs.finish(first, process) == "FAILURE"
    assert runs.materialized(first) == {"public__orders", "public__events"}
    assert "permission denied for table forbidden" in runs.log(first)
    second, process = runs.start(tables, parent=first)
    assert runs.finish(second, process) == "FAILURE"
    assert runs.materialized(second) == set()
    attempts = sorted(call["table"] for call in steps.calls("open_window"))
    assert attempts == ["public.events", "public.forbidden", "public.forbidden", "public.orders"]


def test_terminating_the_run_cancels_the_workflow_and_waits_for_its_clean_up(
    runs: DagsterRuns, worker: WorkerProcess, steps: RecordedSteps
) -> None:
    run_id, process = runs.start(["public.waiting"])
    steps.wait_for("extract")
    with runs.instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    runs.finish(run_id, process)
    assert "is cancelled" in runs.log(run_id)
    row = steps.run_row("public.waiting")
    assert (row.status, row.error) == ("failed", "cancelled")


def test_an_evicted_run_process_leaves_the_work_running(
    runs: DagsterRuns, worker: WorkerProcess, steps: RecordedSteps
) -> None:
    run_id, process = runs.start(["public.waiting"])
    steps.wait_for("extract")
    process.send_signal(signal.SIGTERM)
    runs.finish(run_id, process)
    assert "goes on" in runs.log(run_id)
    steps.release()
    steps.wait_for("record")
    assert steps.run_row("public.waiting").status == "succeeded"


def greeting_asset(task_queue: str, address: str, name: str) -> dg.AssetsDefinition:
    @dg.asset(name="greeting")
    def greeting(context: dg.AssetExecutionContext, temporal: TemporalResource) -> Any:
        invocation = PipesTemporalClient(temporal, poll_interval_seconds=0.1).run(
            context=context, workflow=GreetingWorkflow, input=name, task_queue=task_queue
        )
        context.log.info(invocation.result)
        return invocation.get_materialize_result()

    return greeting


def test_any_workflow_runs_as_an_asset_with_a_link_and_its_metadata(
    temporal_address: str, worker: WorkerProcess, task_queue: str
) -> None:
    temporal = TemporalResource(address=temporal_address, ui_url="http://127.0.0.1:8233/")
    result = dg.materialize([greeting_asset(task_queue, temporal_address, "Ada")], resources={"temporal": temporal})
    (materialization,) = result.asset_materializations_for_node("greeting")
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    expected_id = f"dagster/-/greeting/-/{result.run_id}"
    assert metadata["dagster-temporal/workflow_id"] == expected_id
    assert metadata["dagster-temporal/workflow_type"] == "GreetingWorkflow"
    assert metadata["dagster-temporal/task_queue"] == task_queue
    assert metadata["dagster-temporal/workflow_url"] == (
        f"http://127.0.0.1:8233/namespaces/default/workflows/{expected_id.replace('/', '%2F')}/"
        f"{metadata['dagster-temporal/run_id']}/history"
    )


def test_a_failed_workflow_is_a_dagster_failure_with_its_cause(
    temporal_address: str, worker: WorkerProcess, task_queue: str
) -> None:
    temporal = TemporalResource(address=temporal_address)
    result = dg.materialize(
        [greeting_asset(task_queue, temporal_address, "nobody")],
        resources={"temporal": temporal},
        raise_on_error=False,
    )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    user_failure = failure.step_failure_data.user_failure_data
    assert user_failure is not None
    assert user_failure.description == "GreetingWorkflow failed: nobody is there"
    assert user_failure.metadata["error type"].value == "NobodyError"


def test_the_run_group_follows_retries_from_failure_only(tmp_path: Path) -> None:
    from temporal_bridge.pipes import dagster_workflow_id, run_group

    seen: list[tuple[str, str]] = []

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a/b"]))
    def probe(context: dg.AssetExecutionContext) -> None:
        seen.append((run_group(context), dagster_workflow_id(context)))

    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        job = dg.Definitions(
            assets=[probe], jobs=[dg.define_asset_job("probes", [probe], executor_def=dg.in_process_executor)]
        ).resolve_job_def("probes")

        def execute(parent: str | None = None, **tags: str) -> str:
            run = instance.create_run_for_job(
                job,
                tags={"dagster/partition": "a/b", **tags},
                parent_run_id=parent,
                root_run_id=parent,
            )
            from dagster._core.definitions.job_base import InMemoryJob
            from dagster._core.execution.api import execute_run

            assert execute_run(InMemoryJob(job), run, instance).success
            return run.run_id

        first = execute()
        retried = execute(first, **{"dagster/is_resume_retry": "true"})
        again = execute(retried, **{"dagster/is_asset_resume_retry": "true"})
        all_steps = execute(first)
    assert [group for group, _ in seen] == [first, first, first, all_steps]
    assert again not in (first, all_steps)
    assert seen[0][1] == f"dagster/-/probe/a%2Fb/{first}"


def test_keys_of_the_job_are_those_of_its_tables() -> None:
    assert key("public.orders").path == ["bronze", "public__orders"]
