"""Worker processes that a test starts, and what each of them did according to a workflow's history."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from orchestration.local import LocalStack
from temporal_bridge.client import TemporalClient
from temporal_bridge.workflow_run import WorkflowRun
from tests.polling import wait_until


def start_worker(stack: LocalStack, log: Path, *, grace_seconds: int = 1, **environment: str) -> psutil.Popen:
    """A worker of the stack's server, in a process of its own that the caller ends."""
    with log.open("w") as output:
        return psutil.Popen(
            [sys.executable, "-m", "temporal_bridge.worker", "--grace-seconds", str(grace_seconds)],
            env={**os.environ, "TEMPORAL_ADDRESS": stack.temporal_address, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until_frozen(worker: psutil.Popen, home: Path) -> None:
    """Wait until a failpoint stopped the process, and see that it stands outside of any write to the catalog.

    A process that is stopped within one locks SQLite for everybody. While the failpoint's own thread sleeps, others of
    the process may end theirs.
    """
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
    for _ in range(50):
        catalog = sqlite3.connect(home / "catalog.db", timeout=0.05, isolation_level=None)
        with closing(catalog), suppress(sqlite3.OperationalError):
            catalog.execute("BEGIN IMMEDIATE")
            return
        worker.resume()
        time.sleep(0.01)
        worker.suspend()
    raise AssertionError("the frozen process keeps the catalog locked")


def missed_soon(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The environment of an installation in ``folder/home`` whose workers are found dead soon; what fired lies in
    ``folder/fired``."""
    monkeypatch.setenv("HEADRACE_HOME", str(folder / "home"))
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    monkeypatch.setenv("HEADRACE_FAILPOINTS_FIRED", str(folder / "fired"))


def activity_tries(address: str, workflow_id: str) -> dict[str, list[tuple[str, int]]]:
    """The worker and the number of each try of a table sync's activities, by the activity's type."""
    with TemporalClient(address) as client:
        run = WorkflowRun(workflow_id, "", "DataSourceSyncWorkflow", "", "default")
        events = json.loads(client.history_json(run))["events"]
    kinds = {
        event["eventId"]: event["activityTaskScheduledEventAttributes"]["activityType"]["name"]
        for event in events
        if "activityTaskScheduledEventAttributes" in event
    }
    found: dict[str, list[tuple[str, int]]] = {}
    for event in events:
        if one := event.get("activityTaskStartedEventAttributes"):
            found.setdefault(kinds[one["scheduledEventId"]], []).append((one["identity"], one.get("attempt", 1)))
    return found
