"""Whatever happens at the n-th call to Databricks, for every n: loaded once, and nothing is left in staging."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation
from tests.servers.databricks_server import DatabricksServer

ACTIONS = ("drop_before", "drop_after", "kill_before", "kill_after")
MOST_CALLS = 150
"""Of one sync; more would be a loop."""
TRIES = 4
CALLS = "^(?!GET /standin)"


def cases() -> list[object]:
    """Kind, action, step and first call: a few calls, and every call."""
    few = [("first load", "drop_after", 45, 20), ("increment", "kill_after", 45, 25)]
    every = [(kind, action, 1, 0) for kind in ("first load", "increment") for action in ACTIONS]
    return [
        *(pytest.param(*case, id=f"{case[0]}, {case[1]}") for case in few),
        *(pytest.param(*case, id=f"{case[0]}, {case[1]}, all") for case in every),
    ]


@pytest.fixture
def shop(
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database: Callable[[], str],
    databricks: DatabricksServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Installation:
    settings = databricks.settings() | {"databricks_retry_seconds": 20}
    for name, value in settings.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", text)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return Installation(tmp_path / "home", postgres, database())


def synced(table: str, run_group: str) -> None:
    """As often as it takes: a process that was killed, or gave up on a lost reply, is started again."""
    command = [sys.executable, "-m", "tests.behaviour.one_sync", table, run_group]
    for _ in range(TRIES):
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            return
    pytest.fail(f"{table} did not sync in {TRIES} tries: {done.stderr[-2000:]}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind, action, step, first", cases())
def test_at_every_call(
    shop: Installation, databricks: DatabricksServer, kind: str, action: str, step: int, first: int
) -> None:
    columns = "(id int PRIMARY KEY, name text, updated_at timestamptz DEFAULT clock_timestamp())"
    for number in count(first, step):
        table = f"t{number}" if kind == "first load" else "t"
        if kind == "first load" or number == first:
            shop.execute(f"CREATE TABLE {table} {columns}", f"INSERT INTO {table} SELECT generate_series(1, 20), 'a'")
        if kind == "increment":
            if number == first:
                synced("public.t", "before")
            shop.execute(
                f"UPDATE t SET name = 'n{number}', updated_at = clock_timestamp() WHERE id IN (1, 2)",
                f"INSERT INTO t VALUES ({1000 + number}, 'new')",
                f"DELETE FROM t WHERE id = {1000 + number - step}",
            )
        databricks.fail({"call": CALLS, "action": action, "skip": number})
        try:
            synced(f"public.{table}", f"run-{number}")
            fired = databricks.fired()[0]
        finally:
            databricks.fail()
        deleted = kind == "increment" and number > first
        expected = 20 if kind == "first load" else 3 + deleted
        runs = [run for (run,) in shop.bronze(f"public.{table}", ["_headrace_run"])]
        assert sum(run.split("~")[0] == f"run-{number}" for run in runs) == expected, number
        assert shop.silver(f"public.{table}", ["id", "name"]) == shop.source_rows(f"SELECT id, name FROM {table}")
        assert databricks.volume_files(shop.settings.databricks_catalog) == [], number
        assert number < MOST_CALLS
        if not fired:
            return
