"""SIGKILL at every named failpoint: after the restart the tables equal the source, and nothing is left behind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from assets.failpoints import WORKER_FAILPOINTS
from assets.lakehouse.interface import TableId
from assets.sync import TableResult
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation
from tests.child_processes import children_with

TABLE = "public.t"


def assert_clean_and_equal(shop: Installation) -> None:
    columns = ["id", "name", "price", "updated_at"]
    assert shop.silver(TABLE, columns) == shop.source_rows("SELECT * FROM t")
    assert shop.verify(TABLE).equal is True
    assert shop.staged_files() == []


def change_source(shop: Installation) -> None:
    shop.execute(
        "UPDATE t SET name = 'changed', updated_at = now() WHERE id <= 300",
        "DELETE FROM t WHERE id > 4900",
        "INSERT INTO t SELECT i, 'new', NULL, now() FROM generate_series(6001, 6100) i",
    )


def synced(shop: Installation, **options: Any) -> TableResult:
    """Sync the table on a stack of its own, which starts killed workers again."""
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
        (result,) = Headrace(home=shop.settings.home_path).sync("shop", [TABLE], **options).tables
    return result


def assert_first(result: TableResult) -> None:
    assert (result.status, result.mode, result.equal, result.rows_bronze) == ("succeeded", "full", True, 5000)


def assert_second(shop: Installation, result: TableResult) -> None:
    assert (result.status, result.mode, result.equal) == ("succeeded", "incremental", True)
    assert (result.rows_read, result.rows_deleted) == (400, 100)
    bronze = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=TABLE))
    assert bronze is not None
    assert bronze.rows == 5000 + 400 + 100
    assert [run.status for run in shop.steps.catalog.table_runs("shop", TABLE)] == ["succeeded", "succeeded"]


def died_at(folder: Path) -> set[str]:
    return {path.name for path in (folder / "fired").iterdir()}


HALVES = (WORKER_FAILPOINTS[::2], WORKER_FAILPOINTS[1::2])


@pytest.mark.parametrize(("at_first", "then"), [HALVES, pytest.param(*reversed(HALVES), marks=pytest.mark.slow)])
def test_a_full_and_an_incremental_sync_that_die_at_failpoints_in_turn_are_exact(
    crashing: Installation,
    at_first: tuple[str, ...],
    then: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in at_first))
    assert_first(synced(crashing))
    assert died_at(tmp_path) == set(at_first)
    assert_clean_and_equal(crashing)
    change_source(crashing)
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in then))
    assert_second(crashing, synced(crashing, deletes="keys"))
    assert died_at(tmp_path) == {*at_first, *then}
    assert_clean_and_equal(crashing)


def test_a_merge_that_marks_rows_as_gone_and_dies_around_its_commit_is_exact(
    engine: str, crashing: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a large table, whose files are not rewritten."""
    if engine != "local":
        pytest.skip("Databricks marks rows or rewrites files as it likes")
    points = [name for name in WORKER_FAILPOINTS if "silver" in name]
    crashing.settings = crashing.settings.model_copy(update={"rewrite_mb": 0})
    assert_first(synced(crashing))
    change_source(crashing)
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in points))
    assert_second(crashing, synced(crashing, deletes="keys"))
    assert died_at(tmp_path) == set(points)
    silver = TableId(layer="silver", connector="shop", table=TABLE)
    features = DeltaTable(crashing.steps.lakehouse.uri(silver)).protocol().reader_features or []
    assert "deletionVectors" in features
    assert_clean_and_equal(crashing)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKER_FAILPOINTS)
def test_a_worker_killed_at_one_failpoint_leaves_both_tables_equal_to_the_source(
    crashing: Installation, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS", f"{name}=kill")
    assert_first(synced(crashing))
    assert died_at(tmp_path) == {name}
    assert_clean_and_equal(crashing)
    (tmp_path / "fired" / name).unlink()
    change_source(crashing)
    assert_second(crashing, synced(crashing, deletes="keys"))
    assert died_at(tmp_path) == {name}
    assert_clean_and_equal(crashing)


def test_a_killed_temporal_server_comes_back_with_its_file_and_the_sync_ends_exact(crashing: Installation) -> None:
    crashing.execute("INSERT INTO t SELECT i, 'more', i, now() FROM generate_series(10001, 200000) i")
    hr = Headrace(home=crashing.settings.home_path)
    others = children_with("start-dev")
    stack = LocalStack(crashing.settings).start(temporal=True, worker=True, dagster=False)
    with stack, ThreadPoolExecutor(1) as background:
        running = background.submit(hr.sync, "shop", [TABLE])
        while not crashing.steps.catalog.table_runs("shop", TABLE):
            assert not running.done()
            time.sleep(0.02)
        (server,) = children_with("start-dev") - others
        server.kill()
        (result,) = running.result().tables
    assert (result.status, result.equal, result.rows_silver) == ("succeeded", True, 195_000)
    assert_clean_and_equal(crashing)
    assert [run.status for run in crashing.steps.catalog.table_runs("shop", TABLE)] == ["succeeded"]
    assert_nothing_told(crashing)


def assert_nothing_told(shop: Installation) -> None:
    """The password stands in no file in clear; no row stands in Temporal's database or in a log."""
    home = shop.settings.home_path
    files = [path for path in home.rglob("*") if path.is_file()]
    assert home / "temporal.db" in files
    for path in files:
        content = path.read_bytes()
        assert shop.server.password.encode() not in content, path
        if path.suffix in (".db", ".log", ".json") and "lakehouse" not in path.parts:
            assert b"row 4999" not in content, path


AROUND_COMMITS = ("during_extract", "after_manifest", "after_bronze_commit", "before_silver_commit", "before_record")
UNCHUNKED = tuple(name for name in WORKER_FAILPOINTS if "chunk" not in name)


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (False, AROUND_COMMITS),
        pytest.param(False, UNCHUNKED, marks=pytest.mark.slow),
        pytest.param(True, UNCHUNKED, marks=pytest.mark.slow),
    ],
)
def test_a_followed_table_whose_worker_dies_at_failpoints_in_turn_is_exact(
    crashing: Installation, first: bool, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = ",".join(f"{name}=kill" for name in names)
    if first:
        monkeypatch.setenv("HEADRACE_FAILPOINTS", kill)
    assert_first(synced(crashing, mode="cdc"))
    if not first:
        change_source(crashing)
        monkeypatch.setenv("HEADRACE_FAILPOINTS", kill)
        result = synced(crashing, mode="cdc")
        assert (result.status, result.mode, result.equal) == ("succeeded", "cdc", True)
        assert (result.rows_read, result.rows_deleted) == (400, 100)
        bronze = crashing.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=TABLE))
        assert bronze is not None and bronze.rows == 5000 + 400 + 100
    assert died_at(tmp_path) == set(names)
    assert_clean_and_equal(crashing)
    slots = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
    assert crashing.source_rows(slots) == [("headrace_shop",)]
