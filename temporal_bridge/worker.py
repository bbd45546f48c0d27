"""The worker process: ``headrace worker``, or ``python -m temporal_bridge.worker``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from assets import tracing
from assets.errors import HeadraceError
from assets.process_memory import limit_arenas
from assets.settings import Settings
from temporal_bridge.workflows.task_queues import WORKER_ROLES, WorkerRole, role_queue

if TYPE_CHECKING:
    from temporalio.client import Client
    from temporalio.worker import Worker

    from temporal_bridge.activities.table_sync import Steps

logger = logging.getLogger("temporal_bridge.worker")
GRACE_SECONDS = 30
CANCEL_SECONDS = 10
CONNECT_SECONDS = 60
RECORD_THREADS = 8
WATCH_THREADS = 16
WORKFLOW_TASKS = 8
CACHED_WORKFLOWS = 500


def workflow_types() -> list[type]:
    """Every workflow of the worker; tests replay and construct each."""
    from temporal_bridge.workflows.agent_kit import AgentKitExecutionWorkflow
    from temporal_bridge.workflows.data_source_sync import DataSourceSyncWorkflow
    from temporal_bridge.workflows.databricks_job import DatabricksJobWorkflow
    from temporal_bridge.workflows.dataset_sync import DatasetSyncWorkflow
    from temporal_bridge.workflows.knowledge_extraction import KnowledgeExtractionWorkflow, KnowledgeSourceWorkflow

    return [
        AgentKitExecutionWorkflow,
        DataSourceSyncWorkflow,
        DatasetSyncWorkflow,
        DatabricksJobWorkflow,
        KnowledgeExtractionWorkflow,
        KnowledgeSourceWorkflow,
    ]


def build_worker(
    client: Client,
    settings: Settings,
    steps: Steps,
    role: WorkerRole = "orchestration",
    *,
    task_queue: str | None = None,
    grace_seconds: float = GRACE_SECONDS,
    workflows: list[type] | None = None,
    **options: Any,
) -> Worker:
    """Construct the worker of one kind of work; constructing imports its workflows in the sandbox.

    Args:
        client: a connected client with ``temporal_bridge.codec.data_converter``.
        settings: concurrency and heartbeats.
        steps: ``assets.steps.SyncSteps``, or anything with its methods.
        role: ``orchestration`` runs the workflows and the activities that write only the catalog; ``extract`` the
            activities that move data; ``knowledge`` those that read sessions and ask models; ``databricks`` those that
            start and watch jobs there.
        task_queue: the installation's queue, `role_queue` makes the worker's of it; default: the settings' one.
        grace_seconds: how long running activities may go on after a shutdown was asked for.
        workflows: default: `workflow_types`.
        options: further arguments of ``temporalio.worker.Worker``.
    """
    from temporalio.worker import Worker

    from temporal_bridge.activities.by_role import activities_of

    threads = {"extract": settings.sync_concurrency, "databricks": WATCH_THREADS}.get(role, RECORD_THREADS)
    return Worker(
        client,
        task_queue=role_queue(task_queue or settings.task_queue, role),
        workflows=(workflows or workflow_types()) if role == "orchestration" else [],
        activities=activities_of(role, steps, settings),
        # As many threads as activities: in a smaller pool a started activity starves until it times out.
        activity_executor=ThreadPoolExecutor(max_workers=threads, thread_name_prefix=role),
        max_concurrent_activities=threads,
        max_heartbeat_throttle_interval=timedelta(seconds=settings.heartbeat_throttle_seconds),
        # Workflow code shares one GIL: of a hundred new workflows activated side by side (default) each takes longer
        # than the two seconds after which Temporal's SDK takes a workflow for deadlocked, and fails over and over.
        max_concurrent_workflow_tasks=WORKFLOW_TASKS,
        max_cached_workflows=CACHED_WORKFLOWS,
        default_heartbeat_throttle_interval=timedelta(seconds=settings.heartbeat_throttle_seconds),
        graceful_shutdown_timeout=timedelta(seconds=grace_seconds),
        # Workflow tasks wait this long for a dead worker's cache before another worker gets them; the default is 10 s.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        **options,
    )


@contextlib.asynccontextmanager
async def workers_of(
    client: Client, settings: Settings, steps: Steps, roles: Sequence[WorkerRole] = WORKER_ROLES, **options: Any
) -> AsyncIterator[None]:
    """Poll for all ``roles`` in this process while the block runs, then drain. Options: those of `build_worker`."""
    async with contextlib.AsyncExitStack() as stack:
        # The workflows' worker goes last when they drain: activities that end report to it.
        for role in sorted(roles, key=WORKER_ROLES.index):
            await stack.enter_async_context(build_worker(client, settings, steps, role, **options))
        yield


async def run_worker(
    settings: Settings, task_queue: str | None, grace_seconds: float, roles: Sequence[WorkerRole] = WORKER_ROLES
) -> None:
    """Connect, poll until SIGTERM or SIGINT, drain.

    Raises:
        BridgeError: Temporal is unreachable for a minute.
    """
    from assets.steps import SyncSteps
    from temporal_bridge.client import TemporalClient
    from temporal_bridge.worker_metrics import runtime

    steps = SyncSteps.from_settings(settings)
    client = await TemporalClient(connect_seconds=CONNECT_SECONDS).connect(runtime(settings.worker_metrics_address))
    stop = asyncio.Event()

    def drain() -> None:
        if stop.is_set():
            return
        logger.info("draining: running activities have %.0f s", grace_seconds)
        # `shutdown` never returns while an activity ignores its cancel, inside a driver for instance.
        deadline = threading.Timer(grace_seconds + CANCEL_SECONDS, _give_up)
        deadline.daemon = True
        deadline.start()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    base = task_queue or settings.task_queue
    async with workers_of(client, settings, steps, roles, task_queue=base, grace_seconds=grace_seconds):
        queues = ", ".join(role_queue(base, role) for role in roles)
        logger.info("polling %s at %s", queues, client.service_client.config.target_host)
        await stop.wait()
    logger.info("stopped")


def _give_up() -> None:
    logger.error("an activity ignores its cancel: ending the process; another worker will take it over")
    logging.shutdown()
    os._exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run until stopped. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="headrace worker", description=__doc__)
    parser.add_argument("--task-queue", help="default: HEADRACE_TASK_QUEUE, else `headrace`")
    parser.add_argument(
        "--queue", action="append", choices=WORKER_ROLES, help="kind of work, once or more; default: every kind"
    )
    parser.add_argument("--grace-seconds", type=float, default=GRACE_SECONDS, help="drain time after SIGTERM")
    options = parser.parse_args(arguments)
    limit_arenas()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        roles = tuple(dict.fromkeys(options.queue or WORKER_ROLES))
        asyncio.run(run_worker(Settings(), options.task_queue, options.grace_seconds, roles))
    except HeadraceError as error:
        logger.error("%s", error)
        return 1
    return 0


def run(arguments: list[str] | None = None) -> None:
    """`main`, then the end of the process: threads that a cancelled activity left behind would keep it."""
    code = main(arguments)
    tracing.flush()
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    run()
