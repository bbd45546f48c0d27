"""Runs that nobody would close, and failures that somebody should hear of."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from assets.settings import Settings
from orchestration.code_locations import CodeLocation

NOTIFIED_AT_ONCE = 50


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Close runs whose process is gone; Dagster's automatic retries then attach to the work that went on."""
    from temporal_bridge.orphaned_runs import close_orphaned_runs

    closed = close_orphaned_runs(context.instance)
    for run_id in closed:
        context.log.warning(f"run {run_id}: its process is gone; it was closed")
    return dg.SkipReason(f"{len(closed)} orphaned runs closed")


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def missed_retries(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Have the daemon launch the automatic retries that it promised and passed over."""
    from temporal_bridge.missed_retries import recall_missed_retries

    recalled = recall_missed_retries(context.instance)
    for run_id in recalled:
        context.log.warning(f"run {run_id}: the daemon passed its retry over; it reads the failure again")
    return dg.SkipReason(f"{len(recalled)} retries recalled")


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def deferred_failure_notification(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Tell ``HEADRACE_NOTIFY_URL`` of deferred runs whose tables failed: their Dagster runs had ended well before."""
    from assets.catalog.store import Catalog
    from orchestration.notification import Failure, notify

    settings = Settings()
    if settings.notify_url is None:
        return dg.SkipReason("HEADRACE_NOTIFY_URL is not set")
    # what failed before the URL was set is history
    since = datetime.fromisoformat(context.cursor) if context.cursor else datetime.now(UTC)
    failed = Catalog.from_settings(settings).failed_deferred_runs(since, limit=NOTIFIED_AT_ONCE)
    for run in failed:
        text = "\n".join(f"{row.table}: {row.error}" for row in run.table_runs if row.status == "failed")
        title = f"Headrace: {run.pipeline or run.connector} failed"
        link = _run_link(settings, run.dagster_run_id) if run.dagster_run_id else None
        notify(settings.notify_url.get_secret_value(), Failure(title=title, text=text or run.error or "", link=link))
    told = max((run.completed_at for run in failed if run.completed_at), default=since)
    return dg.SensorResult(cursor=told.isoformat())


def _run_link(settings: Settings, run_id: str) -> str | None:
    from orchestration.stack_record import running_stack

    stack = running_stack(settings)
    base = settings.dagster_url or (stack.dagster_url if stack else None)
    return f"{base.rstrip('/')}/runs/{run_id}" if base else None


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, monitor_all_code_locations=True)
def run_failure_notification(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell ``HEADRACE_NOTIFY_URL`` of every run that failed."""
    from orchestration.notification import Failure, notify

    settings = Settings()
    if settings.notify_url is None:
        return dg.SkipReason("HEADRACE_NOTIFY_URL is not set")
    run = context.dagster_run
    steps = [event.step_failure_data.error for event in context.get_step_failure_events()]
    told = [error.message.strip() for error in steps if error is not None] or [context.failure_event.message or ""]
    notify(
        settings.notify_url.get_secret_value(),
        Failure(title=f"Headrace: {run.job_name} failed", text="\n".join(told), link=_run_link(settings, run.run_id)),
    )
    return None


@dg.definitions
def run_care() -> dg.Definitions:
    """Once an installation: the sensors look at all runs."""
    if not CodeLocation.of_process(Settings()).is_first:
        return dg.Definitions()
    return dg.Definitions(
        sensors=[orphaned_runs, missed_retries, deferred_failure_notification, run_failure_notification]
    )
