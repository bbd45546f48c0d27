"""Dagster runs whose process died with its machine's stack: nobody else tells Dagster that they ended."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "temporal-bridge/process"
"""The run's id, then its processes: a re-execution inherits the tags of its parent, whose processes it outlives."""
_MAX_RUNS = 500


def process_tag(run_id: str) -> dict[str, str]:
    return {PROCESS_TAG: f"{run_id} {own_process()}"}


def own_process() -> str:
    """This process and the one that made it, as ``host/pid/start``, so that others on this machine see if they live.

    A step of the multiprocess executor ends while its run goes on in the process that made it.
    """
    parent = multiprocessing.parent_process()
    pids = [os.getpid(), *([parent.pid] if parent is not None and parent.pid else [])]
    host = socket.gethostname()
    return " ".join(f"{host}/{pid}/{psutil.Process(pid).create_time():.2f}" for pid in pids if psutil.pid_exists(pid))


def is_gone(processes: str) -> bool:
    """Whether all of these processes have ended; false where one belongs to another machine."""
    return all(_has_ended(process) for process in processes.split(" "))


def _has_ended(process: str) -> bool:
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
        run_id, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
        if run_id != run.run_id or not is_gone(process):
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=f"Its process {process} is gone.")
        else:
            instance.report_run_failed(
                run, message=f"Its process {process} is gone. A re-execution from failure attaches to its work."
            )
        closed.append(run.run_id)
    return closed
