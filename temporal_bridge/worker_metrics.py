"""Figures of a worker for Prometheus: the SDK's own endpoint, with what the syncs moved beside what Temporal counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from assets.errors import ConfigurationError

if TYPE_CHECKING:
    from temporalio.runtime import Runtime

    from assets.sync import TableResult


def runtime(address: str | None) -> Runtime | None:
    """The SDK's runtime that serves ``http://address/metrics``; None: the default one, which serves nothing.

    Raises:
        ConfigurationError: the address is none, or taken.
    """
    if not address:
        return None
    from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

    served = PrometheusConfig(bind_address=address, counters_total_suffix=True, durations_as_seconds=True)
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=served))
    except (RuntimeError, ValueError):
        raise ConfigurationError(
            "the worker's figures cannot be served there.",
            where=address[:100],
            remedy="Set HEADRACE_WORKER_METRICS_ADDRESS to a free HOST:PORT, one a worker.",
        ) from None


def count(result: TableResult) -> None:
    """Count a table that ended; called in its last activity. Labels are few: connector, mode and status."""
    labels = {"connector": result.connector, "status": result.status, "mode": result.mode or ""}
    meter = activity.metric_meter().with_additional_attributes(labels)
    meter.create_counter("headrace_table_syncs", "Tables that ended.").add(1)
    meter.create_counter("headrace_rows_read", "Rows read from sources.", "rows").add(max(0, result.rows_read))
    meter.create_counter("headrace_bytes_staged", "Bytes staged.", "bytes").add(max(0, result.bytes))
    if result.started_at and result.completed_at:
        seconds = (result.completed_at - result.started_at).total_seconds()
        meter.create_histogram_float("headrace_sync_seconds", "Time of one table's sync.", "s").record(
            max(0.0, seconds)
        )
