"""Which activities a worker of each kind of work registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assets.settings import Settings
from temporal_bridge.activities.table_sync import Steps
from temporal_bridge.workflows.task_queues import WorkerRole


def activities_of(role: WorkerRole, steps: Steps, settings: Settings) -> list[Callable[..., Any]]:
    """The activities of one role.

    Args:
        role: kind of work.
        steps: ``assets.steps.SyncSteps``; anything else in its place has no kits.
        settings: of the installation.
    """
    from assets.kits.steps import KitSteps
    from assets.steps import SyncSteps
    from temporal_bridge.activities.databricks_job import DatabricksJobActivities
    from temporal_bridge.activities.kit_run import KitActivities
    from temporal_bridge.activities.knowledge import KnowledgeActivities
    from temporal_bridge.activities.table_sync import TableSyncActivities

    if role == "databricks":
        return list(DatabricksJobActivities(settings).all)
    if role == "knowledge":
        found = list(KnowledgeActivities(settings).all())
    else:
        found = list(TableSyncActivities(steps, settings).of_role(role))
    if isinstance(steps, SyncSteps):
        found += KitActivities(KitSteps(settings, steps.catalog, steps.lakehouse)).of_role(role)
    return found
