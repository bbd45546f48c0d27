"""Failures reach a webhook, Slack and a mailbox; runs whose process died are closed."""

from __future__ import annotations

import asyncio
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.catalog.models import now
from assets.errors import ConfigurationError
from assets.settings import Settings
from orchestration import notification
from orchestration.notification import Failure, NotificationError, notify
from temporal_bridge.orphaned_runs import PROCESS_TAG, close_orphaned_runs, own_process

FAILURE = Failure(title="Headrace: nightly failed", text="shop/public.t: permission denied", link="http://h/runs/1")


class Webhook(http.server.BaseHTTPRequestHandler):
    refusals = 0
    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if type(self).refusals:
            type(self).refusals -= 1
            self.send_error(503)
            return
        self.received.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def webhook() -> Iterator[tuple[str, type[Webhook]]]:
    handler = type("Handler", (Webhook,), {"received": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook?token=canary-secret", handler
    server.shutdown()
    server.server_close()


def test_a_webhook_hears_of_a_failure_also_when_it_was_busy_at_first(webhook: tuple[str, type[Webhook]]) -> None:
    url, server = webhook
    server.refusals = 1
    notify(url, FAILURE)
    assert server.received == [FAILURE.model_dump()]


def test_slack_gets_one_text(webhook: tuple[str, type[Webhook]], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Answer:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(
        notification.urllib.request, "urlopen", lambda request, timeout: sent.append(request.data) or Answer()
    )
    notify("https://hooks.slack.com/services/T/B/canary", FAILURE)
    assert json.loads(sent[0]) == {
        "text": "Headrace: nightly failed\nshop/public.t: permission denied\nhttp://h/runs/1"
    }


def test_a_notification_that_nobody_takes_is_an_error_without_the_urls_secret(
    webhook: tuple[str, type[Webhook]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = webhook
    server.refusals = 10
    monkeypatch.setattr(notification.time, "sleep", lambda seconds: None)
    with pytest.raises(NotificationError) as caught:
        notify(url, FAILURE)
    assert "canary" not in str(caught.value)
    assert server.refusals == 10 - notification.TRIES
    with pytest.raises(ConfigurationError, match="no notification URL"):
        notify("file:///etc/passwd", FAILURE)


def test_a_mail_is_delivered_over_smtp() -> None:
    lines: list[str] = []

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        data = False
        while line := (await reader.readline()).decode():
            lines.append(line.rstrip())
            command = line[:4].upper().strip()
            if data and line == ".\r\n":
                data = False
                writer.write(b"250 taken\r\n")
            elif not data:
                data = command == "DATA"
                writer.write({"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}.get(command, b"250 ok\r\n"))
            if command == "QUIT" and not data:
                break
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(session, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            url = f"smtp://127.0.0.1:{port}?from=headrace@example.com&to=ada@example.com"
            await asyncio.to_thread(notify, url, FAILURE)

    asyncio.run(main())
    assert "rcpt TO:<ada@example.com>" in lines
    assert "Subject: Headrace: nightly failed" in lines
    assert "shop/public.t: permission denied" in lines


def test_a_run_whose_process_is_gone_is_closed_and_a_living_one_is_not() -> None:
    died = subprocess.run(
        [sys.executable, "-c", "from temporal_bridge.orphaned_runs import own_process; print(own_process())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with dg.instance_for_test() as instance:
        processes = {
            "dead": died,
            "living": own_process(),
            "elsewhere": died.replace(died.split("/")[0], "other-host"),
            "step ended": f"{died} {own_process()}",
        }
        runs = {}
        for name, process in processes.items():
            run = instance.create_run_for_job(_job(), status=dg.DagsterRunStatus.STARTED)
            instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{run.run_id} {process}"})
            runs[name] = run.run_id
        inherited = instance.get_run_by_id(runs["dead"]).tags  # type: ignore[union-attr]
        runs["just re-executed"] = instance.create_run_for_job(
            _job(), tags=inherited, status=dg.DagsterRunStatus.STARTED
        ).run_id
        assert close_orphaned_runs(instance) == [runs["dead"]]
        statuses = {name: instance.get_run_by_id(run_id).status.value for name, run_id in runs.items()}  # type: ignore[union-attr]
    assert statuses == dict.fromkeys(runs, "STARTED") | {"dead": "FAILURE"}


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_a_failed_dagster_run_is_told_to_the_notification_url(
    webhook: tuple[str, type[Webhook]], headrace_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.defs.run_care import run_failure_notification

    url, server = webhook

    @dg.op
    def broken() -> None:
        raise dg.Failure("permission denied for table t")

    @dg.job
    def nightly() -> None:
        broken()

    with dg.instance_for_test() as instance:
        result = nightly.execute_in_process(instance=instance, raise_on_error=False)

        def evaluate() -> None:
            context = dg.build_run_status_sensor_context(
                sensor_name="run_failure_notification",
                dagster_instance=instance,
                dagster_run=result.dagster_run,
                dagster_event=result.get_run_failure_event(),
            ).for_run_failure()
            run_failure_notification(context)

        evaluate()
        assert server.received == []
        monkeypatch.setenv("HEADRACE_NOTIFY_URL", url)
        monkeypatch.setenv("HEADRACE_DAGSTER_URL", "http://127.0.0.1:3000/")
        evaluate()
    (told,) = server.received
    assert told["title"] == "Headrace: nightly failed"
    assert "permission denied for table t" in told["text"]
    assert told["link"] == f"http://127.0.0.1:3000/runs/{result.run_id}"


def test_a_failed_table_of_a_deferred_run_is_told_once_though_its_dagster_run_succeeded(
    webhook: tuple[str, type[Webhook]], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets.catalog.store import Catalog
    from assets.sync import TableResult, TableSync
    from orchestration.defs.run_care import deferred_failure_notification

    url, server = webhook
    monkeypatch.setenv("HEADRACE_NOTIFY_URL", url)
    monkeypatch.setenv("HEADRACE_DAGSTER_URL", "http://127.0.0.1:3000")
    catalog = Catalog.from_settings(settings)

    def look(cursor: str | None) -> str | None:
        told = deferred_failure_notification(dg.build_sensor_context(cursor=cursor))
        assert isinstance(told, dg.SensorResult)
        return told.cursor

    def run(group: str, *failing: str, deferred: bool = True) -> None:
        tables = ["public.a", "public.b"]
        catalog.begin_run(group, "shop", "nightly", "schedule", tables, dagster_run_id=group, deferred=deferred)
        for table in tables:
            work = TableSync(connector="shop", table=table, run_group=group)
            status, error = ("failed", "permission denied") if table in failing else ("succeeded", None)
            catalog.begin_table_run(work, f"sync/shop/{table}")
            ended = TableResult(connector="shop", table=table, status=status, error=error, completed_at=now())
            catalog.end_table_run(ended, work)

    cursor = look(None)
    run("good")
    run("bad", "public.b")
    run("watched", "public.b", deferred=False)
    cursor = look(cursor)
    look(cursor)
    (told,) = server.received
    assert told == {
        "title": "Headrace: nightly failed",
        "text": "public.b: permission denied",
        "link": "http://127.0.0.1:3000/runs/bad",
    }
