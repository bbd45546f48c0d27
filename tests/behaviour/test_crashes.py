"""SIGKILL at every named failpoint: after the restart the tables equal the source, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assets.failpoints import WORKER_FAILPOINTS
from assets.lakehouse.interface import TableId
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation

TABLE = "public.t"


@pytest.fixture
def crashing(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """An installation whose workers are found dead soon."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    monkeypatch.setenv("HEADRACE_FAILPOINTS_FIRED", str(tmp_path / "fired"))
    shop = Installation(tmp_path / "home", postgres, database())
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, price numeric(12, 2), updated_at timestamptz)",
        "INSERT INTO t SELECT i, 'row ' || i, i / 7.0, now() - interval '1 day' FROM generate_series(1, 5000) i",
    )
    return shop


def assert_clean_and_equal(shop: Installation) -> None:
    columns = ["id", "name", "price", "updated_at"]
    assert shop.silver(TABLE, columns) == shop.source_rows("SELECT * FROM t")
    assert shop.verify(TABLE).equal is True
    staging = shop.settings.home_path / "staging"
    assert [path for path in staging.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", WORKER_FAILPOINTS)
def test_a_worker_killed_at_a_failpoint_leaves_both_tables_equal_to_the_source(
    crashing: Installation, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS", f"{name}=kill")
    hr = Headrace(home=crashing.settings.home_path)
    with LocalStack(crashing.settings).start(temporal=True, worker=True, dagster=False):
        (first,) = hr.sync("shop", [TABLE]).tables
        assert (first.status, first.mode, first.equal, first.rows_bronze) == ("succeeded", "full", True, 5000)
        assert (tmp_path / "fired" / name).exists()
        assert_clean_and_equal(crashing)
        (tmp_path / "fired" / name).unlink()
        crashing.execute(
            "UPDATE t SET name = 'changed', updated_at = now() WHERE id <= 300",
            "DELETE FROM t WHERE id > 4900",
            "INSERT INTO t SELECT i, 'new', NULL, now() FROM generate_series(6001, 6100) i",
        )
        (second,) = hr.sync("shop", [TABLE], deletes="keys").tables
        assert (second.status, second.mode, second.equal) == ("succeeded", "incremental", True)
        assert (second.rows_read, second.rows_deleted) == (400, 100)
        assert (tmp_path / "fired" / name).exists()
    assert_clean_and_equal(crashing)
    bronze = crashing.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=TABLE))
    assert bronze is not None
    assert bronze.rows == 5000 + 400 + 100
    runs = crashing.steps.catalog.table_runs("shop", TABLE)
    assert [run.status for run in runs] == ["succeeded", "succeeded"]
