"""Large Snowflake tables: one statement, whose result many activities read in parts, in sessions of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.errors import SourceUnreachableError
from assets.steps import SyncSteps
from assets.sync import ChunkedRead, TableResult, TableSync
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.assets.sources.test_snowflake_changes import TRACKED
from tests.behaviour.snowflake_installation import SnowflakeInstallation
from tests.behaviour.worker_runs import activity_tries, missed_soon
from tests.servers.snowflake_server import SnowflakeServer

TABLE = "public.t"
ROWS = 12_000
LARGE = {"match": "row_count, bytes", "replace": "row_count, 4194304 AS bytes"}


@pytest.fixture
def big(
    tmp_path: Path, snowflake_server: SnowflakeServer, snowflake_database: str, monkeypatch: pytest.MonkeyPatch
) -> SnowflakeInstallation:
    """A table that the account says takes 4 MiB, read in four chunks, whose result has many batches."""
    missed_soon(monkeypatch, tmp_path)
    monkeypatch.setenv("HEADRACE_CHUNK_MB", "1")
    shop = SnowflakeInstallation(tmp_path / "home", snowflake_server, snowflake_database)
    shop.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR, day DATE, updated_at TIMESTAMP_NTZ)",
        "INSERT INTO t SELECT i, 'row ' || i, '2026-01-01'::DATE, '2026-01-01 00:00:00'::TIMESTAMP_NTZ "
        f"FROM (SELECT UNNEST(RANGE(1, {ROWS + 1})) AS i)",
        "INSERT INTO t VALUES (0, 'none', NULL, NULL)",
    )
    snowflake_server.set_rules(LARGE, TRACKED)
    snowflake_server.cut_results(700)
    return shop


def begun(shop: SnowflakeInstallation, **options: Any) -> tuple[TableSync, ChunkedRead]:
    work = shop.work(TABLE, **options)
    plan = shop.steps.open_window(work)
    assert plan.chunked
    read = shop.steps.begin_chunks(work, plan, 1)
    assert read.chunks == 4
    return work, read


def finished(shop: SnowflakeInstallation, work: TableSync, manifest: str) -> TableResult:
    bronze = shop.steps.commit_bronze(work, manifest)
    silver = shop.steps.merge_silver(work, manifest)
    return shop.steps.record(work, shop.steps.verify(work, manifest, bronze, silver))


def stored(shop: SnowflakeInstallation) -> set[tuple[Any, ...]]:
    rows = shop.silver(TABLE, ["id", "name", "day", "updated_at"])
    assert len(rows) == ROWS + 1
    return {(int(id), name, day, moment is None) for id, name, day, moment in rows}


def test_chunks_are_parts_of_one_result_whatever_changes_meanwhile(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    before = set(big.source_rows("SELECT id, name, day, updated_at IS NULL FROM t"))
    snowflake_server.forget_statements()
    work, read = begun(big)
    rows = []
    for number in range(read.chunks):
        big.execute(f"DELETE FROM t WHERE id = {5000 + number}", f"UPDATE t SET name = 'later' WHERE id = {number}")
        rows.append(SyncSteps.from_settings(big.settings).extract_chunk(work, read.uri, number, 1))
    assert sum(rows) == ROWS + 1 and min(rows) > ROWS // 8
    result = finished(big, work, big.steps.finish_chunks(work, read.uri, 1))
    assert (result.mode, result.equal, result.rows_read) == ("full", True, ROWS + 1)
    assert result.watermark_after == "2026-01-01 00:00:00.000000000"
    assert stored(big) == before
    read_rows = [text for text in snowflake_server.statements() if text.startswith('SELECT "ID", ')]
    assert len(read_rows) == 1
    big.execute("UPDATE t SET updated_at = '2026-01-02' WHERE name = 'later'")
    assert big.sync(TABLE, deletes="keys").equal is True
    assert big.verify(TABLE).equal is True


def test_a_result_of_fewer_batches_than_chunks_is_read_whole(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.cut_results(ROWS // 2)
    result = big.sync(TABLE)
    assert (result.equal, result.rows_read) == (True, ROWS + 1)
    assert big.verify(TABLE).equal is True


@pytest.mark.parametrize(("text", "helped"), [("id <= 3000", True), ("name > 'row 5'", False)])
def test_a_filtered_table_is_read_in_chunks(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer, text: str, helped: bool
) -> None:
    wanted = len(big.source_rows(f"SELECT id FROM t WHERE {text}"))
    snowflake_server.forget_statements()
    work, read = begun(big, row_filter=text)
    for number in range(read.chunks):
        big.steps.extract_chunk(work, read.uri, number, 1)
    result = finished(big, work, big.steps.finish_chunks(work, read.uri, 1))
    assert (result.equal, result.rows_read, result.rows_silver) == (True, wanted, wanted)
    (statement,) = [text for text in snowflake_server.statements() if text.startswith('SELECT "ID", ')]
    assert ("<= 3000" in statement) is helped
    assert big.verify(TABLE).equal is True


def test_the_first_load_of_a_followed_table_is_read_in_chunks(big: SnowflakeInstallation) -> None:
    work, read = begun(big, mode="cdc")
    for number in range(read.chunks):
        big.execute(f"DELETE FROM t WHERE id = {number}")
        big.steps.extract_chunk(work, read.uri, number, 1)
    result = finished(big, work, big.steps.finish_chunks(work, read.uri, 1))
    assert (result.mode, result.equal, result.rows_silver) == ("full", True, ROWS + 1)
    snapshot = result.watermark_after
    assert snapshot is not None
    table = f"{big.database}.public.t AT (STATEMENT => '{snapshot}')"
    assert big.source_rows(f"SELECT count(*) FROM {table}") == [(ROWS + 1,)]


def test_a_table_without_time_travel_is_read_in_chunks(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    text = "Time travel data is not available for table T. The requested time is beyond the allowed period."
    snowflake_server.set_rules(LARGE, {"match": r" AT \(STATEMENT", "error": [707, text]})
    result = big.sync(TABLE)
    assert (result.rows_read, result.status) == (ROWS + 1, "succeeded")
    assert big.verify(TABLE).equal is True


@pytest.mark.parametrize("asked", [(0, 1, 2, 3), (0, 1), ()], ids=str)
def test_where_the_account_does_not_keep_the_result_all_rows_of_the_same_moment_are_read_once_more(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer, asked: tuple[int, ...]
) -> None:
    before = set(big.source_rows("SELECT id, name, day, updated_at IS NULL FROM t"))
    snowflake_server.forget_statements()
    work, read = begun(big)
    big.steps.extract_chunk(work, read.uri, 0, 1)
    snowflake_server.forget_results()
    big.execute("DELETE FROM t WHERE id = 5", "UPDATE t SET name = 'later' WHERE id = 6")
    for number in asked:
        big.steps.extract_chunk(work, read.uri, number, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    assert big.steps.lakehouse.read_manifest(uri).reader == "arrow (its first result was lost)"
    result = finished(big, work, uri)
    assert (result.equal, result.rows_read) == (True, ROWS + 1)
    assert stored(big) == before
    read_rows = [text for text in snowflake_server.statements() if text.startswith('SELECT "ID", ')]
    assert len(read_rows) == 2


def test_a_batch_that_comes_short_fails_the_chunk(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.cut_results(700, missing=1)
    work, read = begun(big)
    with pytest.raises(SourceUnreachableError, match="came with 699 of 700 rows"):
        big.steps.extract_chunk(work, read.uri, 1, 1)


def test_neither_addresses_nor_keys_of_batches_are_written_down(big: SnowflakeInstallation) -> None:
    _, read = begun(big)
    assert "statement" in Path(read.uri).read_text()
    files = [path for path in big.settings.home_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"/results/" in (text := path.read_bytes()) or b"standin-key" in text]


def test_a_worker_killed_in_a_chunk_leaves_the_statement_and_the_finished_chunks(
    big: SnowflakeInstallation, snowflake_server: SnowflakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "after_chunk_note=kill")
    snowflake_server.forget_statements()
    with LocalStack(big.settings).start(temporal=True, worker=True, dagster=False) as stack:
        (result,) = Headrace(home=big.settings.home_path).sync("shop", [TABLE]).tables
        tries = activity_tries(stack.temporal_address, str(result.workflow_id))
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ROWS + 1)
    assert [path.name for path in (tmp_path / "fired").iterdir()] == ["after_chunk_note"]
    assert max(attempt for _, attempt in tries["extract_chunk"]) == 2
    assert [attempt for _, attempt in tries["begin_chunks"]] == [1]
    read_rows = [text for text in snowflake_server.statements() if text.startswith('SELECT "ID", ')]
    assert len(read_rows) == 1
    assert big.sync(TABLE, mode="full").equal is True
    assert big.verify(TABLE).equal is True
