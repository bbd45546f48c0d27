"""A worker process for the bridge's tests: the real worker, its steps from `recorded_steps`.

``python -m tests.temporal_bridge.bridge_worker FOLDER QUEUE``; everything else from the environment.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from assets.settings import Settings
from temporal_bridge.client import TemporalClient
from temporal_bridge.worker import workers_of, workflow_types
from tests.temporal_bridge.greeting_workflow import GreetingWorkflow
from tests.temporal_bridge.recorded_steps import RecordedSteps


async def main(folder: Path, task_queue: str) -> None:
    client = await TemporalClient().connect()
    workflows = [*workflow_types(), GreetingWorkflow]
    settings = Settings(task_queue=task_queue)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with workers_of(client, settings, RecordedSteps(folder), grace_seconds=5, workflows=workflows):
        (folder / "worker-ready").touch()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
