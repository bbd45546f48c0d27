"""Named failpoints for the crash tests: ``HEADRACE_FAILPOINTS=after_bronze_commit=kill`` dies there, once.

The list below is closed, so that a test can walk all of them. A failpoint fires once per marker folder
(``HEADRACE_FAILPOINTS_FIRED``); without the variable set the call costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

WORKER_FAILPOINTS = (
    "before_open_window",
    "after_open_window",
    "during_extract",
    "after_parts_before_manifest",
    "after_manifest",
    "before_bronze_commit",
    "during_bronze_commit",
    "after_bronze_commit",
    "before_silver_commit",
    "during_silver_commit",
    "after_silver_commit",
    "after_verify",
    "before_record",
    "after_record_before_cleanup",
    "after_cleanup",
)
CHUNK_FAILPOINTS = (
    "after_begin_chunks",
    "during_chunk",
    "before_chunk_note",
    "after_chunk_note",
    "during_finish_chunks",
)
DAGSTER_FAILPOINTS = ("dagster_before_start", "dagster_after_start", "dagster_after_first_table", "dagster_before_end")
KNOWLEDGE_FAILPOINTS = (
    "knowledge_before_plan",
    "knowledge_after_plan",
    "knowledge_before_call",
    "knowledge_after_call_before_store",
    "knowledge_after_store",
    "knowledge_before_extract",
    "knowledge_after_extract",
    "knowledge_before_fold",
    "knowledge_during_fold",
    "knowledge_after_fold",
    "knowledge_before_record",
    "knowledge_after_record",
)
KIT_FAILPOINTS = ("kit_before_tool", "kit_after_tool_before_store", "kit_after_store", "kit_before_end")
ROTATION_FAILPOINTS = ("rotate_after_new_key", "rotate_before_commit", "rotate_after_commit")
COPY_FAILPOINTS = ("during_copy", "before_copy_commit", "after_copy_commit")
FAILPOINTS = (
    WORKER_FAILPOINTS
    + CHUNK_FAILPOINTS
    + DAGSTER_FAILPOINTS
    + KNOWLEDGE_FAILPOINTS
    + KIT_FAILPOINTS
    + ROTATION_FAILPOINTS
    + COPY_FAILPOINTS
)


class FailpointError(RuntimeError):
    """Raised by a failpoint set to ``error``."""


def failpoint(name: str) -> None:
    """Die or raise here if the environment asks for it: ``name=kill`` (SIGKILL), ``name=error``, ``name=exit``,
    ``name=freeze`` (SIGSTOP)."""
    wanted = os.environ.get("HEADRACE_FAILPOINTS")
    if not wanted:
        return
    if name not in FAILPOINTS:
        raise ValueError(f"unknown failpoint {name}")
    actions = dict(item.split("=", 1) for item in wanted.split(",") if "=" in item)
    action = actions.get(name)
    if action is None:
        return
    fired = os.environ.get("HEADRACE_FAILPOINTS_FIRED")
    if fired:
        marker = Path(fired) / name
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch(exist_ok=False)
        except FileExistsError:
            return
    if action == "error":
        raise FailpointError(f"failpoint {name}")
    sys.stderr.write(f"failpoint {name}: {action}\n")
    sys.stderr.flush()
    signals = {"kill": signal.SIGKILL, "exit": signal.SIGTERM, "freeze": signal.SIGSTOP}
    os.kill(os.getpid(), signals[action])
    if action == "freeze":
        time.sleep(0.5)  # a stop takes hold of this thread a moment later
