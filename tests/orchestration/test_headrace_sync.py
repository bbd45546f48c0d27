"""The main job by the Python API and the command line, on a real source, server and worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assets.settings import Settings
from assets.sync import TableSync
from orchestration import Headrace
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack
from tests.orchestration.test_cli import document, headrace


@pytest.fixture
def shop(
    postgres: EmbeddedPostgres, database: Callable[[], str], headrace_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Headrace]:
    """A source with a plain table, one without a key and a view."""
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, price numeric(12, 2), updated_at timestamptz)")
        connection.execute("INSERT INTO orders SELECT i, i / 7.0, now() FROM generate_series(1, 500) i")
        connection.execute("CREATE TABLE nokey AS SELECT 1 AS a FROM generate_series(1, 3)")
        connection.execute("CREATE VIEW cheap AS SELECT * FROM orders WHERE price < 10")
    hr = Headrace(home=headrace_home)
    hr.connectors.add("shop", "postgres", postgres.config(name))
    yield hr
    hr.catalog.close()


def test_sync_and_verify_on_a_running_stack(shop: Headrace) -> None:
    home = shop.settings.home_path
    assert shop.connectors.test("shop").ok
    assert [table.name for table in shop.connectors.discover("shop")] == [
        "public.cheap",
        "public.nokey",
        "public.orders",
    ]
    with LocalStack(shop.settings) as stack:
        stack.start()
        report = shop.sync("shop")
        first = {table.table: table for table in report}
        assert report.ok and set(first) == {"public.nokey", "public.orders"}
        orders, nokey = first["public.orders"], first["public.nokey"]
        assert (orders.status, orders.mode, orders.rows_silver, orders.equal) == ("succeeded", "full", 500, True)
        assert (nokey.rows_bronze, nokey.equal) == (3, True)
        assert [run.status for run in shop.catalog.runs()] == ["succeeded"]

        synced = document(headrace(home, "sync", "shop", "--mode", "incremental", "--json"))
        tables = {table["table"]: table for table in synced["tables"]}
        assert (tables["public.orders"]["mode"], tables["public.orders"]["rows_read"]) == ("incremental", 0)
        assert tables["public.orders"]["window"]["low"] == orders.watermark_after
        assert tables["public.nokey"]["mode"] == "full" and "no key" in tables["public.nokey"]["reason"]

        missing = document(headrace(home, "sync", "shop", "public.missing", "public.orders", "--json"), code=1)
        outcome = {table["table"]: (table["status"], table["error"] is None) for table in missing["tables"]}
        assert outcome == {"public.missing": ("failed", False), "public.orders": ("succeeded", True)}

        shop.pipelines.add("everything", "shop", all_tables=True)
        ran = document(headrace(home, "pipelines", "run", "everything", "--json"))
        assert (ran["pipeline"], len(ran["tables"])) == ("everything", 2)
        (run,) = shop.pipelines.runs("everything")
        assert (run.status, run.run_group) == ("succeeded", ran["run_group"])

        started = document(headrace(home, "sync", "shop", "public.orders", "--no-wait", "--json"))
        assert (started["waited"], started["tables"]) == (False, [])
        assert document(headrace(home, "status", "--json"))["running"] is True

    verified = document(headrace(home, "verify", "shop", "public.orders", "--level", "values", "--json"))
    assert (verified["equal"], verified["tables"][0]["source_rows"]) == (True, 500)
    assert document(headrace(home, "verify", "shop", "--json"), code=1)["equal"] is False  # one was never there
    info = {table.table: table for table in shop.tables("shop")}
    assert (info["public.orders"].rows, info["public.orders"].watermark) == (500, orders.watermark_after)
    assert info["public.orders"].silver_uri == orders.silver_uri


def test_a_sync_without_a_stack_starts_one_for_its_own_duration(shop: Headrace) -> None:
    seen = []
    report = shop.sync("shop", ["public.orders"], progress=seen.append)
    (table,) = report.tables
    assert (table.status, table.equal) == ("succeeded", True)
    assert all(progress.total == 1 for progress in seen)
    status = shop.status()
    assert (status.running, status.open_runs) == (False, ())


def test_a_run_whose_workflow_is_gone_is_closed_by_the_next_look(shop: Headrace) -> None:
    shop.catalog.begin_run("lost", "shop", tables=["public.orders"], workflow_id="dataset/shop/lost")
    shop.catalog.begin_table_run(TableSync(connector="shop", table="public.orders", run_group="lost"), "sync/lost")
    with LocalStack(Settings(home=shop.settings.home)) as stack:
        stack.start(worker=False)
        assert shop.status().open_runs == ()
    run = shop.catalog.run("lost")
    assert (run.status, run.table_runs[0].error_type) == ("failed", "Abandoned")


def test_a_sync_killed_in_the_middle_is_finished_by_the_next_one(
    shop: Headrace, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shop.settings.home_path
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    database = shop.connectors.show("shop").config["database"]
    with postgres.connect(database) as lock:
        lock.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")  # the extraction waits for it
        killed = subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "sync", "shop", "public.orders"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 90
        while not shop.catalog.table_runs("shop", "public.orders"):
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        killed.kill()
        killed.wait()
        lock.rollback()
    assert [run.status for run in shop.catalog.runs()] == ["running"]
    heartbeats = {name: value for name, value in os.environ.items() if name.startswith("HEADRACE_HEARTBEAT")}
    synced = document(headrace(home, "sync", "shop", "public.orders", "--json", **heartbeats))
    (table,) = synced["tables"]
    assert (table["status"], table["equal"], table["mode"]) == ("succeeded", True, "incremental")
    runs = shop.catalog.runs()
    assert [(run.status, run.table_runs[0].rows_silver) for run in runs] == [("succeeded", 500)] * 2
