"""The only place for private Dagster imports. ``tests/temporal_bridge/test_dagster_contract.py`` holds their shape."""

from __future__ import annotations

import dagster as dg  # noqa: TID253
from dagster._core.definitions.resource_annotation import TreatAsResourceParam  # noqa: TID253
from dagster._core.errors import DagsterExecutionInterruptedError  # noqa: TID253
from dagster._core.pipes.reattach import (  # noqa: TID253
    PipesLaunchHandle,
    find_latest_launch_handle,
    record_external_launch,
    record_external_reattach,
)
from dagster._core.storage.tags import (  # noqa: TID253
    ASSET_RESUME_RETRY_TAG,
    AUTO_RETRY_RUN_ID_TAG,
    RESUME_RETRY_TAG,
    WILL_RETRY_TAG,
)

__all__ = [
    "ASSET_RESUME_RETRY_TAG",
    "AUTO_RETRY_RUN_ID_TAG",
    "RESUME_RETRY_TAG",
    "WILL_RETRY_TAG",
    "DagsterExecutionInterruptedError",
    "PipesLaunchHandle",
    "TreatAsResourceParam",
    "daemon_cursor_key",
    "find_latest_launch_handle",
    "record_external_launch",
    "record_external_reattach",
]


def daemon_cursor_key(event_type: dg.DagsterEventType) -> str:
    """Where the daemon that launches automatic retries keeps the last event of this type that it has handled."""
    return f"EVENT_LOG_CONSUMER_CURSOR-{event_type.value}"
