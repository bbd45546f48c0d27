"""A client, worker processes and recorded steps on the session's Temporal dev server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assets.sync import TableSync
from temporal_bridge.client import TemporalClient
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.recorded_steps import RecordedSteps

REPOSITORY = Path(__file__).parents[2]


class WorkerProcess:
    """One worker process with its own process group."""

    def __init__(self, folder: Path, address: str, task_queue: str, environment: dict[str, str]) -> None:
        ready = folder / "worker-ready"
        ready.unlink(missing_ok=True)
        with (folder / "worker.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.temporal_bridge.bridge_worker", str(folder), task_queue],
                cwd=REPOSITORY,
                env={**os.environ, "TEMPORAL_ADDRESS": address, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, (folder / "worker.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture
def steps(tmp_path: Path) -> RecordedSteps:
    return RecordedSteps(tmp_path / "steps")


@pytest.fixture
def task_queue() -> str:
    return f"q-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def client(temporal: TemporalServer) -> Iterator[TemporalClient]:
    with TemporalClient(temporal.address, connect_seconds=10, outage_seconds=30, worker_wait_seconds=30) as client:
        yield client


@pytest.fixture
def temporal_address(temporal: TemporalServer) -> str:
    return temporal.address


@pytest.fixture
def start_worker(
    temporal: TemporalServer, steps: RecordedSteps, task_queue: str
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker whose death is noticed in 2 seconds."""
    workers: list[WorkerProcess] = []

    def start(address: str = temporal.address, **environment: str) -> WorkerProcess:
        quick = {"HEADRACE_HEARTBEAT_TIMEOUT_SECONDS": "2", "HEADRACE_HEARTBEAT_THROTTLE_SECONDS": "0.3"}
        workers.append(WorkerProcess(steps.folder, address, task_queue, {**quick, **environment}))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def worker(start_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    return start_worker()


def table_work(table: str = "public.orders", connector: str | None = None) -> TableSync:
    """The work for one table of a connector of its own, so that no other test holds its lock."""
    return TableSync(
        connector=connector or f"shop_{uuid.uuid4().hex[:8]}", table=table, run_group=f"run-{uuid.uuid4().hex[:8]}"
    )
