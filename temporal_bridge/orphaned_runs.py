"""Dagster runs whose process died with its machine's stack: nobody else tells Dagster that they ended."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "temporal-bridge/process"
_MAX_RUNS = 500


def own_process() -> str:
    """This process, so that another one on this machine can tell whether it lives: ``host/pid/start``."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; false for one of another machine."""
    host, pid, started = process.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True


def close_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose bridge process is gone. Dagster's automatic retries then attach to their workflows.

    Args:
        instance: of the runs; those that `PipesTemporalClient` has tagged are looked at.

    Returns:
        Ids of the runs that were closed.
    """
    import dagster as dg

    active = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    closed = []
    for run in instance.get_runs(active, limit=_MAX_RUNS):
        process = run.tags.get(PROCESS_TAG)
        if process is None or not is_gone(process):
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=f"Its process {process} is gone.")
        else:
            instance.report_run_failed(
                run, message=f"Its process {process} is gone. A re-execution from failure attaches to its work."
            )
        closed.append(run.run_id)
    return closed
