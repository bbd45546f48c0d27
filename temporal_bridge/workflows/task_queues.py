"""Task queues by kind of work, so that each kind can have machines of its own."""

from __future__ import annotations

from typing import Literal, get_args

WorkerRole = Literal["orchestration", "extract", "knowledge", "databricks"]
WORKER_ROLES: tuple[WorkerRole, ...] = get_args(WorkerRole)


def role_queue(task_queue: str, role: WorkerRole) -> str:
    """The queue of one kind of work.

    Args:
        task_queue: the installation's queue (``HEADRACE_TASK_QUEUE``). Workflows and short activities that write only
            the catalog run there; ``extract`` is what moves data: reading, committing, merging, comparing;
            ``knowledge`` is what reads sessions and asks models; ``databricks`` is short calls that start jobs there
            and look at them.
        role: kind of work.
    """
    return task_queue if role == "orchestration" else f"{task_queue}-{role}"


def start_command(queue: str) -> str:
    """The command that starts a worker for a queue."""
    for role in WORKER_ROLES[1:]:
        base = queue.removesuffix(f"-{role}")
        if base != queue:
            return f"headrace worker --queue {role} --task-queue {base}"
    return f"headrace worker --task-queue {queue}"
