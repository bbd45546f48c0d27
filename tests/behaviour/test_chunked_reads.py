"""Large tables in chunks: one snapshot, whatever died and whatever the source changed in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from assets.failpoints import CHUNK_FAILPOINTS
from assets.sync import ChunkedRead, Manifest, RequestedMode, TableResult, TableSync, WindowPlan
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation
from tests.behaviour.test_table_options import assert_nowhere
from tests.behaviour.worker_runs import activity_tries, missed_soon

TABLE = "public.big"
ROWS = 40_000
COLUMNS = ["id", "note", "price", "updated_at"]


@pytest.fixture
def big(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """A table of about 6 MiB that is read in chunks of 1 MiB, each in batches first and in whole row groups then."""
    monkeypatch.setattr("assets.sources.postgres_read.FAST_FROM_BYTES", 0)
    monkeypatch.setattr("assets.sources.postgres_chunks.FIRST_PAGES", 8)
    monkeypatch.setattr("assets.sources.postgres_chunks.PAGES_A_QUERY", 32)
    monkeypatch.setattr("assets.sources.postgres_fast.LEAST_BYTES", 1)
    return filled(Installation(tmp_path / "home", postgres, database(), chunk_mb=1))


def filled(shop: Installation) -> Installation:
    shop.execute(
        "CREATE TABLE big (id int PRIMARY KEY, note text, price numeric(12, 2), updated_at timestamptz)",
        "INSERT INTO big SELECT i, repeat('x', 80) || i, i / 7.0, now() - interval '1 day' "
        f"FROM generate_series(1, {ROWS}) i",
        "ANALYZE big",
    )
    return shop


def begun(shop: Installation, **options: Any) -> tuple[TableSync, WindowPlan, ChunkedRead]:
    work = shop.work(TABLE, **options)
    plan = shop.steps.open_window(work)
    assert plan.chunked
    read = shop.steps.begin_chunks(work, plan, 1)
    assert read.chunks >= 4
    return work, plan, read


def finished(shop: Installation, work: TableSync, manifest: str) -> TableResult:
    bronze = shop.steps.commit_bronze(work, manifest)
    silver = shop.steps.merge_silver(work, manifest)
    return shop.steps.record(work, shop.steps.verify(work, manifest, bronze, silver))


def manifest_of(shop: Installation, uri: str) -> Manifest:
    return shop.steps.lakehouse.read_manifest(uri)


def lose_the_snapshot(shop: Installation, *, again: bool = False) -> None:
    """What happens to it when the worker that holds it dies."""
    with shop.connect() as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'headrace' AND state = 'idle in transaction'"
        ).fetchall()
    assert again or ended == [(True,)]


def assert_equal(shop: Installation) -> None:
    assert shop.verify(TABLE).equal is True
    assert shop.silver(TABLE, COLUMNS) == shop.source_rows("SELECT * FROM big")


def test_chunks_of_one_snapshot_leave_out_what_changes_while_they_are_read(big: Installation) -> None:
    work, _, read = begun(big)
    before = big.source_rows("SELECT * FROM big")
    for number in range(read.chunks):
        big.execute(
            f"UPDATE big SET note = 'moved {number}', updated_at = clock_timestamp() WHERE id % 1000 = {number}",
            f"DELETE FROM big WHERE id % 1000 = {500 + number}",
            f"INSERT INTO big VALUES ({100_000 + number}, 'new', 1, clock_timestamp())",
        )
        big.steps.extract_chunk(work, read.uri, number, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    manifest = manifest_of(big, uri)
    assert {part.uri.split("/")[-2].rpartition("-a")[0] for part in manifest.parts} == {
        f"chunk-{number}" for number in range(read.chunks)
    }
    written_by = {pq.read_metadata(part.uri).created_by.split(" ")[0] for part in manifest.parts}
    assert written_by == {"parquet-cpp-arrow", "DuckDB"}
    result = finished(big, work, uri)
    assert (result.equal, result.rows_read) == (True, ROWS)
    assert big.silver(TABLE, COLUMNS) == before
    result = big.sync(TABLE, deletes="keys")
    assert (result.mode, result.equal, result.rows_read) == ("incremental", True, 41 * read.chunks)
    assert_equal(big)


def test_when_the_snapshot_is_lost_finished_chunks_stay_if_nothing_changed(big: Installation) -> None:
    work, _, read = begun(big)
    for number in range(2):
        big.steps.extract_chunk(work, read.uri, number, 1)
    lose_the_snapshot(big)
    for number in range(2, read.chunks):
        big.steps.extract_chunk(work, read.uri, number, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    assert not [part.uri for part in manifest_of(big, uri).parts if "again" in part.uri]
    assert finished(big, work, uri).equal is True
    assert_equal(big)
    assert big.sync(TABLE).rows_read == 0


def test_when_the_snapshot_is_lost_only_the_chunks_that_the_source_changed_are_read_again(big: Installation) -> None:
    work, _, read = begun(big)
    for number in range(read.chunks - 1):
        big.steps.extract_chunk(work, read.uri, number, 1)
    lose_the_snapshot(big)
    big.execute("DELETE FROM big WHERE id = 1", "UPDATE big SET price = 0, updated_at = now() WHERE id = 2")
    big.steps.extract_chunk(work, read.uri, read.chunks - 1, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    again = {Path(part.uri).parent.name for part in manifest_of(big, uri).parts if "again" in part.uri}
    assert again == {"chunk-0-again-a1"}
    assert finished(big, work, uri).equal is True
    assert_equal(big)
    assert big.sync(TABLE, deletes="keys").rows_read == 0


def test_rows_that_moved_between_chunks_of_different_snapshots_are_there_once(big: Installation) -> None:
    big.execute(f"DELETE FROM big WHERE id > {ROWS - 500}", "VACUUM big")
    work, _, read = begun(big)
    for number in range(3):
        big.steps.extract_chunk(work, read.uri, number, 1)
    lose_the_snapshot(big)
    big.execute(f"UPDATE big SET note = 'moved' || id, updated_at = now() WHERE id % 3 = 0 AND id < {ROWS // 2}")
    for number in range(3, read.chunks):
        big.steps.extract_chunk(work, read.uri, number, 1)
    big.execute("UPDATE big SET note = 'again' || id, updated_at = now() WHERE id % 5 = 0")
    result = finished(big, work, big.steps.finish_chunks(work, read.uri, 1))
    assert (result.equal, result.rows_silver) == (True, ROWS - 500)
    assert_equal(big)


@pytest.mark.parametrize(
    "rewrite",
    [
        "VACUUM FULL big",
        pytest.param("TRUNCATE big", marks=pytest.mark.slow),
        pytest.param("ALTER TABLE big ALTER COLUMN id TYPE int8", marks=pytest.mark.slow),
    ],
)
def test_a_table_that_was_rewritten_after_the_snapshot_was_lost_is_read_as_it_is_now(
    big: Installation, rewrite: str
) -> None:
    big.execute("DELETE FROM big WHERE id % 2 = 0")
    work, _, read = begun(big)
    for number in range(read.chunks - 1):
        big.steps.extract_chunk(work, read.uri, number, 1)
    lose_the_snapshot(big)
    big.execute(rewrite, "INSERT INTO big VALUES (100000, 'new', 1, now())")
    big.steps.extract_chunk(work, read.uri, read.chunks - 1, 1)
    assert finished(big, work, big.steps.finish_chunks(work, read.uri, 1)).equal is True
    assert big.silver(TABLE, ["id"]) == big.source_rows("SELECT id FROM big")


@pytest.mark.parametrize("lost", [False, True], ids=["one-snapshot", "lost-snapshot"])
def test_changes_are_told_from_the_snapshot_of_the_chunks_on_where_the_log_is_followed(
    big: Installation, lost: bool
) -> None:
    def change(number: int) -> None:
        big.execute(
            f"UPDATE big SET note = 'moved {number}' WHERE id % 1000 = {number}",
            f"UPDATE big SET id = id + 200000 WHERE id % 1000 = {250 + number}",
            f"DELETE FROM big WHERE id % 1000 = {500 + number}",
            f"INSERT INTO big VALUES ({100_000 + number}, 'new', 1, clock_timestamp())",
        )

    work, plan, read = begun(big, mode="cdc")
    assert plan.captures
    before = big.source_rows("SELECT * FROM big")
    for number in range(read.chunks):
        change(number)
        if lost and number == read.chunks // 2:
            lose_the_snapshot(big)
        big.steps.extract_chunk(work, read.uri, number, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    again = [part.uri for part in manifest_of(big, uri).parts if "again" in part.uri]
    assert bool(again) is lost
    loaded = big.source_rows("SELECT * FROM big") if lost else before
    change(900)
    result = finished(big, work, uri)
    assert (result.equal, result.mode) == (True, "full")
    assert big.silver(TABLE, COLUMNS) == loaded
    changes = big.sync(TABLE, mode="cdc")
    assert (changes.mode, changes.equal) == ("cdc", True)
    assert_equal(big)
    assert big.sync(TABLE, mode="cdc").rows_read == 0


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))])
def test_writers_that_never_pause_leave_a_destination_that_equals_the_source(big: Installation, seed: int) -> None:
    random, stop = Random(seed), threading.Event()
    writers = [threading.Thread(target=write, args=(big, Random(seed * 10 + n), stop)) for n in range(3)]
    options = {"mode": "cdc"} if seed % 2 else {"deletes": "keys"}
    for writer in writers:
        writer.start()
    try:
        work, _, read = begun(big, mode="cdc" if seed % 2 else "auto")
        for number in range(read.chunks):
            if random.random() < 0.15:
                lose_the_snapshot(big, again=True)
            big.steps.extract_chunk(work, read.uri, number, 1)
        result = finished(big, work, big.steps.finish_chunks(work, read.uri, 1))
        second = big.sync(TABLE, **options)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert (result.equal, second.equal) == (True, True)
    assert big.sync(TABLE, **options).equal is True
    assert_equal(big)


def write(shop: Installation, random: Random, stop: threading.Event) -> None:
    """Short transactions of all kinds, some rolled back, some of them left open for a while."""
    with shop.connect() as connection:
        connection.autocommit = False
        while not stop.wait(random.random() * 0.01):
            with suppress(psycopg.Error):  # deadlocks, keys that are taken
                for _ in range(random.randint(1, 3)):
                    connection.execute(*statement(random))
                if random.random() < 0.1:
                    stop.wait(0.1)
                if random.random() >= 0.15:
                    connection.commit()
            connection.rollback()


def statement(random: Random) -> tuple[bytes, tuple[Any, ...]]:
    key, other = random.randint(1, ROWS), random.randint(1, 2 * ROWS)
    return random.choice(
        [
            (b"UPDATE big SET note = %s, updated_at = clock_timestamp() WHERE id = %s", (f"n{other}", key)),
            (b"DELETE FROM big WHERE id = %s", (key,)),
            (b"INSERT INTO big VALUES (%s, 'new', 1, clock_timestamp())", (ROWS + other,)),
            (b"UPDATE big SET id = %s, updated_at = clock_timestamp() WHERE id = %s", (ROWS + other, key)),
        ]
    )


def test_a_value_that_needs_the_careful_reader_costs_its_own_chunk_only(big: Installation) -> None:
    big.execute("UPDATE big SET price = 'NaN' WHERE id = 20000", "UPDATE big SET updated_at = 'infinity' WHERE id = 7")
    result = big.sync(TABLE)
    assert (result.equal, result.unfit_values) == (True, 2)
    assert big.verify(TABLE).equal is True


def test_protected_values_of_a_large_table_are_in_no_chunk(big: Installation) -> None:
    work, _, read = begun(big, columns={"hash": ["note"], "mask": ["price"]})
    for number in range(read.chunks - 1):
        big.steps.extract_chunk(work, read.uri, number, 1)
    lose_the_snapshot(big)
    big.execute("UPDATE big SET note = 'xxxxxxxx new', price = 'NaN' WHERE id = 7")
    big.steps.extract_chunk(work, read.uri, read.chunks - 1, 1)
    uri = big.steps.finish_chunks(work, read.uri, 1)
    assert [part.uri for part in manifest_of(big, uri).parts if "again" in part.uri]
    assert_nowhere(big, b"xxxxxxxx")
    assert finished(big, work, uri).equal is True
    assert big.verify(TABLE).equal is True
    rows = big.silver(TABLE, ["note", "price"])
    assert len({note for note, _ in rows}) == ROWS
    assert all(len(note) == 64 and price == "***" for note, price in rows)
    assert big.steps.open_window(big.work(TABLE, columns={"hash": ["id"]}, mode="full", reset=True)).chunked is False


@pytest.mark.parametrize("mode", ["auto", "cdc"])
def test_a_partitioned_table_is_read_partition_by_partition(big: Installation, mode: RequestedMode) -> None:
    big.execute(
        "CREATE TABLE parts (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_small PARTITION OF parts FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE parts_empty PARTITION OF parts FOR VALUES FROM (100) TO (101)",
        "CREATE TABLE parts_rest (note text, id int NOT NULL)",
        "ALTER TABLE parts ATTACH PARTITION parts_rest DEFAULT",
        "INSERT INTO parts SELECT i, repeat('y', 90) FROM generate_series(1, 30000) i WHERE i <> 100",
    )
    assert big.steps.open_window(big.work("public.parts", mode=mode)).chunked is True
    result = big.sync("public.parts", mode=mode)
    assert (result.equal, result.rows_read) == (True, 29_999)
    assert big.verify("public.parts").equal is True
    if mode == "cdc":
        big.execute(
            "UPDATE parts SET id = 100 WHERE id = 50",  # to another partition
            "UPDATE parts SET note = 'new' WHERE id > 29990",
            "DELETE FROM parts WHERE id < 10",
            "INSERT INTO parts VALUES (50000, 'new')",
        )
        changes = big.sync("public.parts", mode=mode)
        assert (changes.mode, changes.equal, changes.rows_silver) == ("cdc", True, 29_991)
        assert big.verify("public.parts").equal is True


def test_a_table_with_children_by_inheritance_or_few_rows_is_read_as_a_whole(big: Installation) -> None:
    big.execute("CREATE TABLE child () INHERITS (big)", "INSERT INTO child VALUES (500000, 'child', 1, now())")
    assert big.steps.open_window(big.work(TABLE)).chunked is False
    big.execute("CREATE TABLE little (id int)")
    assert big.steps.open_window(big.work("public.little")).chunked is False
    assert big.sync(TABLE).rows_silver == ROWS + 1


@pytest.fixture
def crashing_big(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Installation:
    missed_soon(monkeypatch, tmp_path)
    monkeypatch.setenv("HEADRACE_CHUNK_MB", "1")
    return filled(Installation(tmp_path / "home", postgres, database(), chunk_mb=1))


def fired(folder: Path) -> set[str]:
    return {path.name for path in (folder / "fired").iterdir()}


def test_a_worker_killed_in_a_chunk_leaves_the_finished_chunks_and_at_most_the_running_ones_are_redone(
    crashing_big: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = crashing_big
    # a chunk read again in the end would fire the last one
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "after_chunk_note=kill,during_finish_chunks=error")
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False) as stack:
        (result,) = Headrace(home=shop.settings.home_path).sync("shop", [TABLE]).tables
        tries = activity_tries(stack.temporal_address, str(result.workflow_id))["extract_chunk"]
    attempts = [attempt for _, attempt in tries]
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ROWS)
    assert fired(tmp_path) == {"after_chunk_note"}
    assert max(attempts) == 2
    assert attempts.count(2) <= 2  # two were being read
    assert_equal(shop)


@pytest.mark.parametrize("mode", ["auto", pytest.param("cdc", marks=pytest.mark.slow)])
def test_a_chunked_sync_that_dies_at_every_failpoint_in_turn_while_the_source_changes_is_exact(
    crashing_big: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: RequestedMode
) -> None:
    shop = crashing_big
    points = [name for name in CHUNK_FAILPOINTS if name != "during_finish_chunks"]
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in points))
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
        headrace = Headrace(home=shop.settings.home_path)
        headrace.sync("shop", [TABLE], mode=mode, wait=False)
        (running,) = headrace.runs()
        number = 0
        while running.refresh().status == "running" and number < 2000:
            number += 1
            shop.execute(
                f"UPDATE big SET note = 'n{number}', updated_at = clock_timestamp() WHERE id % 5000 = {number}",
                f"DELETE FROM big WHERE id = {ROWS - number}",
            )
            time.sleep(0.01)
        assert running.wait(120).status == "succeeded"
        (result,) = headrace.sync("shop", [TABLE], mode=mode, deletes="none" if mode == "cdc" else "keys").tables
    assert set(points) <= fired(tmp_path)
    followed = "cdc" if mode == "cdc" else "incremental"
    assert (result.status, result.mode, result.equal) == ("succeeded", followed, True)
    assert_equal(shop)
