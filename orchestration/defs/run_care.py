"""Runs that nobody would close, and failures that somebody should hear of."""

from __future__ import annotations

import dagster as dg

from assets.settings import Settings


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Close runs whose process is gone; Dagster's automatic retries then attach to the work that went on."""
    from temporal_bridge.orphaned_runs import close_orphaned_runs

    closed = close_orphaned_runs(context.instance)
    for run_id in closed:
        context.log.warning(f"run {run_id}: its process is gone; it was closed")
    return dg.SkipReason(f"{len(closed)} orphaned runs closed")


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING)
def run_failure_notification(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell ``HEADRACE_NOTIFY_URL`` of every run that failed."""
    from orchestration.notification import Failure, notify
    from orchestration.stack_record import running_stack

    settings = Settings()
    if settings.notify_url is None:
        return dg.SkipReason("HEADRACE_NOTIFY_URL is not set")
    run, stack = context.dagster_run, running_stack(settings)
    base = settings.dagster_url or (stack.dagster_url if stack else None)
    steps = [event.step_failure_data.error for event in context.get_step_failure_events()]
    told = [error.message.strip() for error in steps if error is not None] or [context.failure_event.message or ""]
    link = f"{base.rstrip('/')}/runs/{run.run_id}" if base else None
    notify(
        settings.notify_url.get_secret_value(),
        Failure(title=f"Headrace: {run.job_name} failed", text="\n".join(told), link=link),
    )
    return None
