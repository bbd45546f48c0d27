"""The only place of the webserver for private Dagster imports; ``tests/orchestration/web`` holds their shape."""

from __future__ import annotations

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

__all__ = ["WorkspaceProcessContext", "open_workspace"]


def open_workspace(instance: dg.DagsterInstance, workspace_file: str) -> WorkspaceProcessContext:
    """The code locations that a ``workspace.yaml`` names, as a context manager."""
    return WorkspaceProcessContext(
        instance, version=dg.__version__, workspace_load_target=WorkspaceFileTarget([workspace_file])
    )
