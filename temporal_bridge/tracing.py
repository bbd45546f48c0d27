"""Traces over the bridge: a Dagster step, the workflow it starts, and that workflow's activities are one trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets import tracing

if TYPE_CHECKING:
    from temporalio.client import Interceptor

TRACEPARENT_TAG = "headrace/traceparent"
"""Of a Dagster run: the context of the request that launched it."""


def interceptors() -> list[Interceptor]:
    """Of every client and worker: none where traces are off."""
    if not tracing.tracing_on():
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor(tracing.tracer())]


@contextmanager
def step_span(context: Any) -> Iterator[str | None]:
    """A span of a Dagster step; yields its context, sent off at the end, as the step's process just ends."""
    run = context.run
    parent = run.tags.get(TRACEPARENT_TAG)
    name = f"dagster {context.op_execution_context.op.name if context.has_assets_def else run.job_name}"
    try:
        with tracing.span_apart(name, parent=parent, dagster_run=run.run_id, dagster_job=run.job_name) as handed_on:
            yield handed_on
    finally:
        tracing.flush()
