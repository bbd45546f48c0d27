"""The only place for private Dagster imports. ``tests/temporal_bridge/test_dagster_contract.py`` holds their shape."""

from __future__ import annotations

from dagster._core.definitions.resource_annotation import TreatAsResourceParam  # noqa: TID253
from dagster._core.errors import DagsterExecutionInterruptedError  # noqa: TID253
from dagster._core.pipes.reattach import (  # noqa: TID253
    PipesLaunchHandle,
    find_latest_launch_handle,
    record_external_launch,
    record_external_reattach,
)
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG  # noqa: TID253

__all__ = [
    "ASSET_RESUME_RETRY_TAG",
    "RESUME_RETRY_TAG",
    "DagsterExecutionInterruptedError",
    "PipesLaunchHandle",
    "TreatAsResourceParam",
    "find_latest_launch_handle",
    "record_external_launch",
    "record_external_reattach",
]
