"""Write the histories that `test_replay` replays: ``python -m tests.temporal_bridge.record_histories [WORKFLOW]``."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assets.databricks_job import DatabricksJob
from assets.naming import workflow_id
from assets.settings import Settings
from assets.sync import TableSync
from temporal_bridge.client import TemporalClient, WorkflowFailedError, WorkflowRun
from temporal_bridge.worker import workers_of
from temporal_bridge.workflows.data_source_sync import DataSourceSyncWorkflow
from temporal_bridge.workflows.databricks_job import DatabricksJobInput, DatabricksJobWorkflow
from temporal_bridge.workflows.dataset_sync import DatasetSync, DatasetSyncWorkflow
from tests.polling import wait_until
from tests.servers.databricks_server import DatabricksServer
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.recorded_steps import RecordedSteps

FOLDER = Path(__file__).parent / "histories"
QUEUE = "histories"


def without_machine(history: Any) -> Any:
    """Take out what tells of the machine: stack traces and process names. A replay needs neither."""
    if isinstance(history, dict):
        return {k: without_machine(v) for k, v in history.items() if k not in ("stackTrace", "identity")}
    return [without_machine(member) for member in history] if isinstance(history, list) else history


def save(client: TemporalClient, run: WorkflowRun, name: str) -> None:
    try:
        client.wait(run)
    except WorkflowFailedError as error:
        print(f"{name}: {error}")
    history = without_machine(json.loads(client.history_json(run)))
    (FOLDER / f"{run.workflow_type}-{name}.json").write_text(json.dumps(history, indent=1) + "\n")


def dataset_of(connector: str, tables: Sequence[str]) -> DatasetSync:
    works = tuple(TableSync(connector=connector, table=table, run_group="run-1") for table in tables)
    return DatasetSync(connector=connector, tables=works, run_group="run-1", max_parallel=2)


def record_syncs(client: TemporalClient, steps: RecordedSteps) -> None:
    def start(table: str, name: str) -> WorkflowRun:
        work = TableSync(connector=name, table=table, run_group="run-1")
        id = workflow_id(name, table)
        return client.start_workflow(DataSourceSyncWorkflow, work, id=id, task_queue=QUEUE)

    save(client, start("public.orders", "succeeded"), "succeeded")
    save(client, start("public.forbidden", "failed"), "failed")
    save(client, start("public.large", "chunked"), "chunked")
    save(client, start("public.large_forbidden", "chunk-failed"), "chunk-failed")
    cancelled = start("public.waiting", "cancelled")
    steps.wait_for("extract", 2)
    client.cancel(cancelled)
    save(client, cancelled, "cancelled")
    tables = ("public.orders", "public.forbidden", "public.events")
    dataset = dataset_of("shop", tables)
    save(client, client.start_workflow(DatasetSyncWorkflow, dataset, id="dataset/shop", task_queue=QUEUE), "partial")


def record_many(client: TemporalClient, steps: RecordedSteps) -> None:
    tables = [f"public.{kind}_{number}" for kind in ("unchanged", "small", "small_odd") for number in range(3)]
    dataset = dataset_of("many", [*tables, "public.forbidden"])
    save(client, client.start_workflow(DatasetSyncWorkflow, dataset, id="dataset/many", task_queue=QUEUE), "together")


def record_cancelled(client: TemporalClient, steps: RecordedSteps) -> None:
    tables = ("public.waiting", "public.waiting_longer", "public.waiting_too")
    dataset = dataset_of("stopped", tables)
    before = len(steps.calls("extract"))
    run = client.start_workflow(DatasetSyncWorkflow, dataset, id="dataset/stopped", task_queue=QUEUE)
    steps.wait_for("extract", before + 2)
    client.cancel(run)
    save(client, run, "cancelled")


def record_jobs(client: TemporalClient, workspace: DatabricksServer) -> None:
    def start(name: str, source: str) -> WorkflowRun:
        workspace.import_notebook(f"/{name}", source)
        task = {"task_key": "only", "notebook_task": {"notebook_path": f"/{name}"}}
        work = DatabricksJobInput(job=DatabricksJob(name=name, tasks=(task,), poll_seconds=1))
        return client.start_workflow(DatabricksJobWorkflow, work, id=f"job/{name}", task_queue=QUEUE)

    save(client, start("succeeded", "dbutils.notebook.exit('42')"), "succeeded")
    save(client, start("failed", "1 / 0"), "failed")
    cancelled = start("cancelled", "import time; time.sleep(600)")
    wait_until(lambda: any(workspace.client().jobs.list_runs(active_only=True)))
    client.cancel(cancelled)
    save(client, cancelled, "cancelled")


async def main(only: str | None) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        TemporalServer(Path(folder)) as server,
        DatabricksServer(Path(folder) / "databricks") as workspace,
    ):
        steps = RecordedSteps(Path(folder) / "steps")
        settings = Settings(
            task_queue=QUEUE, heartbeat_timeout_seconds=5, heartbeat_throttle_seconds=0.3, **workspace.settings()
        )
        with TemporalClient(server.address) as client:
            connected = await client.connect()
            async with workers_of(connected, settings, steps, grace_seconds=1, identity="recorder"):
                done = asyncio.Event()
                loop = asyncio.get_running_loop()

                def work() -> None:
                    try:
                        if only in (None, "DataSourceSyncWorkflow", "DatasetSyncWorkflow"):
                            record_syncs(client, steps)
                        if only in (None, "together"):
                            record_many(client, steps)
                        if only in (None, "cancelled"):
                            record_cancelled(client, steps)
                        if only in (None, "DatabricksJobWorkflow"):
                            record_jobs(client, workspace)
                    finally:
                        loop.call_soon_threadsafe(done.set)

                threading.Thread(target=work).start()
                await done.wait()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
