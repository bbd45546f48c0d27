"""OpenTelemetry traces, by the standard ``OTEL_*`` environment; off, and not even imported, without it.

On where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) or ``OTEL_TRACES_EXPORTER=otlp`` is set. A context
is handed on as a W3C ``traceparent``. Spans hold names and identities only: what an exception says is left out, as it
may say anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.trace import Tracer

FLUSH_MILLISECONDS = 5_000
_HEADER = "traceparent"
_KEPT_OF_EXCEPTIONS = ("exception.type",)
_lock = threading.Lock()
_made: tuple[int, TracerProvider] | None = None


def tracing_on() -> bool:
    """Whether the environment asks for traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER")
    if exporters:
        return "otlp" in exporters.split(",")
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def tracer() -> Tracer:
    """The tracer of this process; a forked child makes its own."""
    global _made
    with _lock:
        if _made is None or _made[0] != os.getpid():
            _made = os.getpid(), _provider()
        return _made[1].get_tracer("headrace")


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(
        resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "headrace"})
    )
    provider.add_span_processor(_processor(OTLPSpanExporter()))
    return provider


def _processor(exporter: Any) -> SpanProcessor:
    # All imports happen here: spans of a workflow end inside its sandbox, which lets no module be loaded.
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Status

    def redacted(span: ReadableSpan) -> ReadableSpan:
        """The span without messages and stack traces of exceptions."""
        events = [
            Event(e.name, {k: v for k, v in (e.attributes or {}).items() if k in _KEPT_OF_EXCEPTIONS}, e.timestamp)
            for e in span.events
        ]
        kind = (span.status.description or "").partition(":")[0]
        failed = not span.status.is_ok and not span.status.is_unset
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=span.attributes,
            events=events,
            links=span.links,
            kind=span.kind,
            status=Status(span.status.status_code, kind if failed and kind.isidentifier() else None),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    class Redacting(BatchSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            super().on_end(redacted(span))

    return Redacting(exporter)


def traceparent() -> str | None:
    """The current context, for handing on; None without one."""
    if not tracing_on():
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_HEADER)


@contextmanager
def attached(parent: str | None) -> Iterator[None]:
    """Spans of the block belong to that context."""
    if parent is None or not tracing_on():
        yield
        return
    from opentelemetry import context

    token = context.attach(_context_of(parent))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: Any) -> Iterator[Any]:
    """A span around the block, current within it; yields it, or None where traces are off."""
    if not tracing_on():
        yield None
        return
    with (
        tracer().start_as_current_span(
            name,
            context=_context_of(parent) if parent else None,
            attributes=_named(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as current,
        _failing(current),
    ):
        yield current


@contextmanager
def span_apart(name: str, *, parent: str | None = None, **attributes: Any) -> Iterator[str | None]:
    """A span around the block that is not current in it, for generators; yields its ``traceparent``."""
    if not tracing_on():
        yield None
        return
    from opentelemetry import trace

    context = _context_of(parent) if parent else None
    current = tracer().start_span(name, context=context, attributes=_named(attributes))
    with trace.use_span(current, end_on_exit=False):
        handed_on = traceparent()
    try:
        with _failing(current):
            yield handed_on
    finally:
        current.end()


@contextmanager
def _failing(current: Any) -> Iterator[None]:
    from opentelemetry.trace import Status, StatusCode

    try:
        yield
    except Exception as error:
        current.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"headrace.{name}": value for name, value in attributes.items() if value is not None}


def _context_of(parent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({_HEADER: parent})


def flush() -> None:
    """Send what waits; for a process that may end without its exit handlers."""
    if _made is not None and _made[0] == os.getpid():
        _made[1].force_flush(FLUSH_MILLISECONDS)
