"""One sync is one trace, from the request that launched it to the activities; figures of workers for Prometheus."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from orchestration.child_process import free_port
from orchestration.demo_dagster_run import launch_assets
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.stack_credential import credential_headers
from tests.behaviour.installation import Installation
from tests.polling import wait_until
from tests.servers.otlp_collector import OtlpCollector

ROW = "canary-of-a-row"
EXPECTED = {
    "POST /graphql",
    "StartWorkflow:DatasetSyncWorkflow",
    "RunWorkflow:DatasetSyncWorkflow",
    "StartChildWorkflow:DataSourceSyncWorkflow",
    "RunWorkflow:DataSourceSyncWorkflow",
    "StartActivity:extract",
    "RunActivity:extract",
    "RunActivity:commit_bronze",
    "RunActivity:merge_silver",
    "RunActivity:record",
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpCollector]:
    with OtlpCollector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        yield running


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_a_sync_that_a_request_launched_is_one_trace_without_secrets_or_rows(
    crashing: Installation, collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = crashing
    figures = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("HEADRACE_WORKER_METRICS_ADDRESS", figures)
    shop.execute(
        f"UPDATE t SET name = '{ROW}' || id",
        "CREATE TABLE broken (id int PRIMARY KEY, name text)",
        f"INSERT INTO broken VALUES (1, '{ROW}')",
        "CREATE VIEW failing AS SELECT id, name::int AS number FROM t",
    )
    Headrace(home=shop.settings.home_path).pipelines.add("nightly", "shop", ["public.t", "public.failing"])
    with LocalStack(shop.settings).start(dagster=True) as stack:
        assert stack.dagster_url is not None
        url = stack.dagster_url
        launch_assets(url, "shop", 90)

        def launched() -> str | None:
            return next((span.trace for span in list(collector.spans) if span.name == "RunActivity:record"), None)

        wait_until(lambda: launched() is not None, 240)
        trace = launched()
        assert trace is not None

        def whole() -> bool:
            """The Dagster step's span comes last, when the step ends."""
            names = {span.name for span in collector.trace(trace)}
            return names >= EXPECTED and any(name.startswith("dagster ") for name in names)

        wait_until(whole, 120)
        spans = collector.trace(trace)
        ids = {span.id for span in spans}
        assert len([span for span in spans if span.parent not in ids]) == 1, "one root: nothing hangs loose"

        headers = credential_headers(shop.settings, url)
        begun = httpx.post(f"{url}/api/v1/pipelines/nightly/execute", headers=headers, timeout=60)
        assert begun.status_code == 202, begun.text
        by_api = "POST /api/v1/pipelines/{name}/execute"

        def of_api() -> set[str]:
            found = next((span.trace for span in list(collector.spans) if span.name == by_api), "")
            return {span.name for span in collector.trace(found)}

        wait_until(lambda: of_api() >= (EXPECTED - {"POST /graphql"}) | {"RunActivity:fail"}, 240)
        text = httpx.get(f"http://{figures}/metrics", timeout=10).text
        assert re.search(r'^headrace_rows_read_total\{[^}]*connector="shop"[^}]*\} [1-9]', text, re.MULTILINE), text
        assert re.search(r'^headrace_table_syncs_total\{[^}]*status="failed"[^}]*\} [1-9]', text, re.MULTILINE), text
        assert "headrace_sync_seconds_bucket" in text and "temporal_" in text
    errors = {span.error for span in collector.spans if span.error}
    assert errors and all(error.isidentifier() for error in errors), errors
    sent = b"".join(collector.bodies)
    assert ROW.encode() not in sent and shop.server.password.encode() not in sent
    assert b"invalid input syntax" not in sent, "nor what an exception says"


def test_without_the_environment_nothing_of_it_is_imported() -> None:
    program = """
import sys
from assets import tracing
import orchestration.cli, orchestration.headrace, temporal_bridge.worker, temporal_bridge.client
from temporal_bridge.tracing import interceptors
with tracing.span("x"), tracing.attached(tracing.traceparent()), tracing.span_apart("y") as handed_on:
    assert handed_on is None
assert interceptors() == []
loaded = [name for name in sys.modules if name.startswith(("opentelemetry", "temporalio.contrib.opentelemetry"))]
assert loaded == [], loaded
"""
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_traces_are_on_by_the_standard_environment_alone(
    environment: dict[str, str], on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets.tracing import tracing_on

    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing_on() is on


def test_a_span_keeps_the_kind_of_an_error_and_not_its_text(
    collector: OtlpCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets import tracing

    with pytest.raises(ValueError), tracing.span("outer", connector="shop"):
        raise ValueError("canary")
    with tracing.tracer().start_as_current_span("inner") as span:
        span.record_exception(RuntimeError("canary"))
    tracing.flush()
    deadline = time.monotonic() + 10
    while len(collector.spans) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {(span.name, span.error) for span in collector.spans} == {("outer", "ValueError"), ("inner", "")}
    assert b"canary" not in b"".join(collector.bodies)
