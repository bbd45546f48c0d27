"""Write the histories that `test_replay` replays: ``python -m tests.temporal_bridge.record_histories``."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from assets.naming import workflow_id
from assets.settings import Settings
from assets.sync import TableSync
from temporal_bridge.client import TemporalClient, WorkflowFailedError, WorkflowRun
from temporal_bridge.worker import workers_of
from temporal_bridge.workflows.data_source_sync import DataSourceSyncWorkflow
from temporal_bridge.workflows.dataset_sync import DatasetSync, DatasetSyncWorkflow
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.recorded_steps import RecordedSteps

FOLDER = Path(__file__).parent / "histories"
QUEUE = "histories"


def without_machine(history: Any) -> Any:
    """Take out what tells of the machine: stack traces and process names. A replay needs neither."""
    if isinstance(history, dict):
        return {k: without_machine(v) for k, v in history.items() if k not in ("stackTrace", "identity")}
    return [without_machine(member) for member in history] if isinstance(history, list) else history


def record(client: TemporalClient, steps: RecordedSteps) -> None:
    def start(table: str, name: str) -> WorkflowRun:
        work = TableSync(connector=name, table=table, run_group="run-1")
        id = workflow_id(name, table)
        return client.start_workflow(DataSourceSyncWorkflow, work, id=id, task_queue=QUEUE)

    def save(run: WorkflowRun, name: str) -> None:
        try:
            client.wait(run)
        except WorkflowFailedError as error:
            print(f"{name}: {error}")
        history = without_machine(json.loads(client.history_json(run)))
        (FOLDER / f"{run.workflow_type}-{name}.json").write_text(json.dumps(history, indent=1) + "\n")

    save(start("public.orders", "succeeded"), "succeeded")
    save(start("public.forbidden", "failed"), "failed")
    save(start("public.large", "chunked"), "chunked")
    save(start("public.large_forbidden", "chunk-failed"), "chunk-failed")
    cancelled = start("public.waiting", "cancelled")
    steps.wait_for("extract", 2)
    client.cancel(cancelled)
    save(cancelled, "cancelled")
    tables = ("public.orders", "public.forbidden", "public.events")
    dataset = DatasetSync(
        connector="shop",
        tables=tuple(TableSync(connector="shop", table=table, run_group="run-1") for table in tables),
        run_group="run-1",
        max_parallel=2,
    )
    save(client.start_workflow(DatasetSyncWorkflow, dataset, id="dataset/shop", task_queue=QUEUE), "partial")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, TemporalServer(Path(folder)) as server:
        steps = RecordedSteps(Path(folder) / "steps")
        settings = Settings(task_queue=QUEUE, heartbeat_timeout_seconds=5, heartbeat_throttle_seconds=0.3)
        with TemporalClient(server.address) as client:
            connected = await client.connect()
            async with workers_of(connected, settings, steps, grace_seconds=1, identity="recorder"):
                done = asyncio.Event()
                loop = asyncio.get_running_loop()

                def work() -> None:
                    try:
                        record(client, steps)
                    finally:
                        loop.call_soon_threadsafe(done.set)

                threading.Thread(target=work).start()
                await done.wait()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(main())
