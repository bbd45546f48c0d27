"""Runs as objects, on the real stack: a read that blocks in the driver is cancelled, then done again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assets.settings import Settings
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.polling import wait_until


def sleeping_backends(postgres: EmbeddedPostgres, database: str) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    with postgres.connect(database, autocommit=True) as connection:
        row = connection.execute(query, [database]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def slow(postgres: EmbeddedPostgres, database: Callable[[], str], settings: Settings) -> tuple[Headrace, str]:
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("INSERT INTO t SELECT generate_series(1, 20)")
        connection.execute("CREATE TABLE pause (seconds float8)")
        connection.execute("INSERT INTO pause VALUES (600)")
        connection.execute(
            "CREATE VIEW slow AS SELECT id FROM t WHERE pg_sleep((SELECT seconds FROM pause)) IS NOT NULL"
        )
    hr = Headrace(settings=settings)
    hr.connectors.add("shop", "postgres", postgres.config(name))
    return hr, name


def test_a_read_that_blocks_in_the_driver_is_cancelled_in_seconds_and_leaves_nothing(
    slow: tuple[Headrace, str], postgres: EmbeddedPostgres, settings: Settings
) -> None:
    hr, database = slow
    with LocalStack(settings).start():
        hr.sync("shop", ["public.slow"], mode="full", key=["id"], verify="values", wait=False)
        (run,) = hr.runs(open_only=True)
        wait_until(lambda: sleeping_backends(postgres, database) > 0, 30)
        run.cancel()
        assert run.status == "failed"
        assert [row.error_type for row in run.record.table_runs] == ["Cancelled"]
        wait_until(lambda: sleeping_backends(postgres, database) == 0, 5)
        assert [path for path in (settings.home_path / "staging").rglob("*") if path.is_file()] == []
        happened = [event.event for event in run.events()]
        assert {"started", "extract canceled", "failed"} <= set(happened)

        with postgres.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE pause SET seconds = 0")
        report = run.rerun(from_failure=True)  # the worker's thread is free again
        assert [(table.table, table.status, table.rows_silver) for table in report.tables] == [
            ("public.slow", "succeeded", 20)
        ]
        latest = hr.runs(connector="shop", limit=1)[0].wait(5)
        (row,) = latest.record.table_runs
        assert row.options == {"mode": "full", "key": ["id"], "verify": "values"}
        assert row.result is not None and row.result.key == ("id",)
        assert (latest.status, latest.record.trigger) == ("succeeded", "rerun")
