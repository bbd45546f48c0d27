"""Automatic retries that Dagster's daemon announced and then passed over.

A failing run writes its failure event first and its status after it. The daemon's EventLogConsumerDaemon that reads the
event in between takes the run for a living one, moves its cursor on, and never launches the retry that the run's tag
``dagster/will_retry`` then promises (seen with Dagster 1.13). Remove this module when
``test_dagster_passes_over_a_failure_whose_status_is_not_written_yet`` fails.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

RECALLED_TAG = "temporal-bridge/retry_recalled"
"""The run's id and how often its retry was recalled: a re-execution inherits the tags of its parent."""
_RECALLS = 3
_LOOKED_BACK_SECONDS = 600.0
_MAX_EVENTS = 200


def recall_missed_retries(instance: dg.DagsterInstance) -> list[str]:
    """Let the daemon read again the failures that it passed over.

    Only its cursor is moved back: the daemon stays the only one that launches retries, and launches one retry for a run
    however often it reads the run's failure.

    Args:
        instance: whose failures of the last ten minutes are looked at.

    Returns:
        Ids of the runs whose retry the daemon passed over; each is recalled three times at most.
    """
    import dagster as dg

    from temporal_bridge._compat import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG, daemon_cursor_key

    cursor_key = daemon_cursor_key(dg.DagsterEventType.RUN_FAILURE)
    reached = instance.daemon_cursor_storage.get_cursor_values({cursor_key}).get(cursor_key)
    if reached is None:  # the daemon has never run
        return []
    failures = dg.RunStatusChangeRecordsFilter(
        dg.DagsterEventType.RUN_FAILURE, after_timestamp=time.time() - _LOOKED_BACK_SECONDS
    )
    changes = instance.fetch_run_status_changes(failures, limit=_MAX_EVENTS).records
    passed = {change.run_id: change.storage_id for change in changes if change.storage_id <= int(reached)}
    if not passed:
        return []
    promised = dg.RunsFilter(
        run_ids=list(passed), statuses=[dg.DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}
    )
    missed: list[str] = []
    for run in instance.get_runs(promised):
        run_id, _, recalls = run.tags.get(RECALLED_TAG, "").partition(" ")
        count = int(recalls) if run_id == run.run_id else 0
        if AUTO_RETRY_RUN_ID_TAG in run.tags or count >= _RECALLS:
            continue
        instance.add_run_tags(run.run_id, {RECALLED_TAG: f"{run.run_id} {count + 1}"})
        missed.append(run.run_id)
    if missed:
        first = min(passed[run_id] for run_id in missed)
        instance.daemon_cursor_storage.set_cursor_values({cursor_key: str(first - 1)})
    return missed
