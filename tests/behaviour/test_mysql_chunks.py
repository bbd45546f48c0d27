"""Large MariaDB tables in ranges of their key: one snapshot in the end, whatever changed or died in between."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pymysql
import pytest

from assets.errors import SourceUnreachableError
from assets.settings import Settings
from assets.sync import ChunkedRead, TableResult, TableSync
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.behaviour.test_table_options import assert_nowhere
from tests.behaviour.worker_runs import activity_tries, missed_soon
from tests.servers.mariadb_server import MariadbServer

ROWS = 8_000
COLUMNS = ["id", "note", "price", "updated_at"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CHUNK_MB", "1")


@pytest.fixture
def big(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    """A table of about 6 MiB that is read in chunks of 1 MiB."""
    return filled(MysqlInstallation(tmp_path / "home", mariadb, mariadb_database))


def filled(shop: MysqlInstallation, key: str = "int", rows: str = f"seq FROM seq_1_to_{ROWS}") -> MysqlInstallation:
    shop.execute(
        f"CREATE OR REPLACE TABLE big (id {key}, note varchar(800), price decimal(12, 2), updated_at timestamp(6) NULL,"
        " PRIMARY KEY (id))",
        f"INSERT INTO big SELECT *, repeat('x', 650), 1.25, now(6) - INTERVAL 1 DAY FROM (SELECT {rows}) s",
        "ANALYZE TABLE big",
    )
    return shop


def begun(shop: MysqlInstallation, **options: Any) -> tuple[TableSync, ChunkedRead]:
    work = shop.work(shop.name("big"), **options)
    plan = shop.steps.open_window(work)
    assert plan.chunked
    read = shop.steps.begin_chunks(work, plan, 1)
    assert read.chunks >= 4
    return work, read


def extracted(shop: MysqlInstallation, work: TableSync, read: ChunkedRead, *numbers: int) -> None:
    for number in numbers or range(read.chunks):
        shop.steps.extract_chunk(work, read.uri, number, 1)


def finished(shop: MysqlInstallation, work: TableSync, read: ChunkedRead) -> tuple[TableResult, list[str]]:
    """The run's result, and the chunks that were read again."""
    uri = shop.steps.finish_chunks(work, read.uri, 1)
    manifest = shop.steps.lakehouse.read_manifest(uri)
    streams = {Path(part.uri).parent.name.rpartition("-a")[0] for part in manifest.parts}
    bronze = shop.steps.commit_bronze(work, uri)
    silver = shop.steps.merge_silver(work, uri)
    result = shop.steps.record(work, shop.steps.verify(work, uri, bronze, silver))
    return result, sorted(stream for stream in streams if stream.endswith("-again"))


def assert_equal(shop: MysqlInstallation) -> None:
    assert shop.verify(shop.name("big")).equal is True
    assert len(shop.silver(shop.name("big"), ["id"])) == len(shop.source_rows("SELECT id FROM big"))


def chunks_of(shop: MysqlInstallation) -> list[dict[str, Any]]:
    plan = shop.steps.open_window(shop.work(shop.name("big")))
    found = shop.steps.catalog.connector("shop").chunks(plan, 1 << 20)
    assert plan.chunked is bool(found)
    return [chunk.where for chunk in found]


@pytest.mark.parametrize("mode", ["full", "cdc"])
def test_a_table_that_nobody_changes_is_read_once_in_chunks_of_about_one_size(
    big: MysqlInstallation, mode: str
) -> None:
    work, read = begun(big, mode=mode)
    extracted(big, work, read)
    big.execute("CREATE TABLE other (a int PRIMARY KEY)", "INSERT INTO other VALUES (1)")
    result, again = finished(big, work, read)
    assert (result.equal, result.rows_read, again) == (True, ROWS, [])
    assert_equal(big)
    big.execute("UPDATE big SET note = 'later', updated_at = now(6) WHERE id = 5")
    second = big.sync(big.name("big"))
    assert (second.rows_read, second.equal) == (1, True)


def test_only_chunks_whose_keys_changed_after_their_snapshot_are_read_again(big: MysqlInstallation) -> None:
    work, read = begun(big)
    big.execute("UPDATE big SET note = 'before its chunk' WHERE id = 2")
    extracted(big, work, read, 0, 1, 2)
    big.execute(
        "UPDATE big SET note = 'after its chunk' WHERE id = 1",
        "FLUSH BINARY LOGS",
        f"DELETE FROM big WHERE id = {ROWS}",
        "UPDATE big SET note = 'after its chunk' WHERE id = 3",
    )
    extracted(big, work, read, *range(3, read.chunks))
    result, again = finished(big, work, read)
    assert (result.equal, result.rows_read, again) == (True, ROWS - 1, ["chunk-0-again"])
    told = f"1 of {read.chunks} chunks changed or were lost before the last was read: read again"
    assert str(result.reason).endswith(f"{told}, 1 of them only where they changed")
    assert_equal(big)


def test_of_a_chunk_with_few_changes_only_what_changed_is_read_again(big: MysqlInstallation) -> None:
    big.execute(
        "ALTER TABLE big ADD line int NOT NULL DEFAULT 1, DROP PRIMARY KEY, ADD PRIMARY KEY (id, line), ADD day date",
        "INSERT INTO big SELECT id, note, price, updated_at, 2, NULL FROM big WHERE id % 2 = 0",
        "SET sql_mode = ''",
        "UPDATE big SET day = '0000-00-00' WHERE id IN (3, 5, 7)",
    )
    work, read = begun(big)
    extracted(big, work, read)
    big.execute(
        "SET sql_mode = ''",
        "UPDATE big SET day = '2024-02-29' WHERE id = 3",
        "UPDATE big SET day = '2024-00-00' WHERE id = 4 AND line = 2",
        "DELETE FROM big WHERE id = 5",
        "INSERT INTO big VALUES (6, 'third line', 1, now(6), 3, NULL)",
        f"UPDATE big SET note = 'many' WHERE id > {ROWS // 2}",
    )
    result, again = finished(big, work, read)
    assert (result.equal, result.unfit_values) == (True, 2)
    assert "chunk-0-again" in again
    mended = int(str(result.reason).rpartition(", ")[2].split()[0])
    assert 1 <= mended < len(again), "chunks with more changes are read again as a whole"
    assert_equal(big)


def test_protected_values_are_in_no_chunk_and_in_none_that_is_mended(big: MysqlInstallation) -> None:
    work, read = begun(big, columns={"hash": ["note"], "mask": ["price"]})
    extracted(big, work, read)
    big.execute("UPDATE big SET note = 'xxxxxxxx new', price = 3 WHERE id IN (2, 3)", "DELETE FROM big WHERE id = 4")
    result, again = finished(big, work, read)
    assert (result.equal, result.rows_read, again) == (True, ROWS - 1, ["chunk-0-again"])
    assert str(result.reason).endswith("1 of them only where they changed")
    assert_equal(big)
    assert_nowhere(big, b"xxxxxxxx")
    hashes = [note for (note,) in big.silver(big.name("big"), ["note"])]
    assert sorted(hashes.count(note) for note in set(hashes)) == [2, ROWS - 3]


def test_a_key_that_moves_from_a_chunk_to_another_is_there_once(big: MysqlInstallation) -> None:
    work, read = begun(big)
    extracted(big, work, read, 0)
    big.execute("UPDATE big SET id = id + 1000000 WHERE id = 1", "INSERT INTO big VALUES (-5, 'new', 1, now(6))")
    extracted(big, work, read, *range(1, read.chunks))
    big.execute("UPDATE big SET id = 0 WHERE id = 1000001", f"UPDATE big SET id = 2000000 WHERE id = {ROWS}")
    result, again = finished(big, work, read)
    assert (result.equal, result.rows_read) == (True, ROWS + 1)
    assert again == ["chunk-0-again", f"chunk-{read.chunks - 1}-again"]
    assert_equal(big)


def test_transactions_open_beside_a_chunk_count_when_they_commit(big: MysqlInstallation) -> None:
    work, read = begun(big)
    late, gone = big.open(autocommit=False), big.open(autocommit=False)
    late.cursor().execute("UPDATE big SET note = 'late' WHERE id = 7")
    gone.cursor().execute(f"UPDATE big SET note = 'gone' WHERE id = {ROWS - 1}")
    extracted(big, work, read)
    late.commit()
    gone.rollback()
    late.close()
    gone.close()
    result, again = finished(big, work, read)
    assert (result.equal, again) == (True, ["chunk-0-again"])
    assert_equal(big)


@pytest.mark.parametrize(
    "statements",
    [
        ["TRUNCATE big", "INSERT INTO big VALUES (1, 'new', 1, now(6))"],
        [
            "CREATE TABLE v LIKE big",
            "INSERT INTO v SELECT * FROM big WHERE id < 100",
            "RENAME TABLE big TO o, v TO big",
        ],
        ["ALTER TABLE big CONVERT TO CHARACTER SET latin1"],
        ["SET binlog_row_image = MINIMAL", "UPDATE big SET note = 'x' WHERE id = 1"],
        ["SET binlog_format = STATEMENT", "UPDATE big SET note = 'x' WHERE id = 1"],
    ],
    ids=["truncated", "swapped", "altered", "not whole", "as a statement"],
)
def test_where_the_log_does_not_tell_which_keys_changed_the_table_is_read_as_it_is_now(
    big: MysqlInstallation, statements: list[str]
) -> None:
    work, read = begun(big)
    extracted(big, work, read, *range(read.chunks - 1))
    big.execute(*statements)
    extracted(big, work, read, read.chunks - 1)
    result, again = finished(big, work, read)
    assert result.equal is True
    assert "chunk-0-again" in again
    assert_equal(big)


def test_a_log_that_was_begun_anew_between_the_chunks_is_noticed(tmp_path: Path, server_folder: Path) -> None:
    with MariadbServer(server_folder / f"m{os.getpid()}") as server:
        begin_anew(filled(MysqlInstallation(tmp_path / "home", server, server.create_database())))


def begin_anew(big: MysqlInstallation) -> None:
    work, read = begun(big)
    extracted(big, work, read, *range(read.chunks - 1))
    big.execute("UPDATE big SET note = 'untold' WHERE id = 1", "RESET MASTER", "UPDATE big SET note = 'x' WHERE id = 2")
    extracted(big, work, read, read.chunks - 1)
    result, again = finished(big, work, read)
    assert (result.equal, len(again)) == (True, read.chunks)
    assert_equal(big)


def test_keys_that_are_skewed_composite_or_beyond_a_signed_number_make_even_chunks(big: MysqlInstallation) -> None:
    skewed = f"CASE WHEN seq % 2 THEN seq ELSE 18446744073709500000 - seq END FROM seq_1_to_{ROWS}"
    filled(big, "bigint unsigned", skewed)
    found = chunks_of(big)
    edges = [where["first"] for where in found]
    assert edges[0] is None
    counts = [
        len(big.source_rows(f"SELECT id FROM big WHERE id >= {first or 0} AND id < {past or 1 << 64}"))
        for first, past in ((where["first"], where["past"]) for where in found)
    ]
    assert sum(counts) == ROWS
    assert max(counts) < 2 * ROWS / len(found)
    work, read = begun(big)
    extracted(big, work, read)
    big.execute("UPDATE big SET note = 'far' WHERE id > 18446744073709499990", "DELETE FROM big WHERE id = 1")
    result, again = finished(big, work, read)
    assert (result.equal, again) == (True, ["chunk-0-again", f"chunk-{read.chunks - 1}-again"])
    assert_equal(big)
    big.execute("ALTER TABLE big ADD line int NOT NULL DEFAULT 1, DROP PRIMARY KEY, ADD PRIMARY KEY (id, line)")
    assert len(chunks_of(big)) >= 4


def test_tables_that_cannot_be_cut_or_shall_not_be_are_read_as_a_whole(big: MysqlInstallation) -> None:
    config = big.source.config(big.database)
    big.steps.catalog.add_connector("shop", "mysql", {**config, "read_in_chunks": False}, replace=True)
    assert chunks_of(big) == []
    big.steps.catalog.add_connector("shop", "mysql", config, replace=True)
    assert len(chunks_of(big)) >= 4
    big.execute("ALTER TABLE big DROP PRIMARY KEY, MODIFY id varchar(20) CHARACTER SET ascii, ADD PRIMARY KEY (id)")
    assert chunks_of(big) == []
    filled(big)
    big.execute("ALTER TABLE big ENGINE = Aria")
    assert chunks_of(big) == []
    filled(big)
    big.execute(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        f"INSERT INTO parent SELECT seq FROM seq_1_to_{ROWS}",
        "ALTER TABLE big ADD FOREIGN KEY (id) REFERENCES parent (id) ON DELETE CASCADE",
    )
    assert chunks_of(big) == []
    assert big.sync(big.name("big")).rows_silver == ROWS


@pytest.fixture
def reader(big: MysqlInstallation) -> Iterator[str]:
    """A login that may read the table, and the connector's."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    big.execute(f"CREATE USER {name} IDENTIFIED BY 'secret1'", f"GRANT SELECT ON {big.database}.* TO {name}")
    config = {**big.source.config(big.database), "user": name, "password": "secret1"}
    big.steps.catalog.add_connector("shop", "mysql", config, replace=True)
    yield name
    big.execute(f"DROP USER {name}")


def test_a_login_that_may_not_read_the_log_reads_the_table_as_a_whole(big: MysqlInstallation, reader: str) -> None:
    assert chunks_of(big) == []
    big.execute(f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {reader}")
    assert len(chunks_of(big)) >= 4


def test_chunks_whose_places_in_the_log_are_not_known_are_read_again(big: MysqlInstallation, reader: str) -> None:
    big.execute(f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {reader}")
    work, read = begun(big)
    extracted(big, work, read, 0, 1)
    big.execute(f"REVOKE REPLICATION SLAVE ON *.* FROM {reader}", "UPDATE big SET note = 'x' WHERE id = 1")
    extracted(big, work, read, *range(2, read.chunks))
    result, again = finished(big, work, read)
    assert (result.equal, len(again)) == (True, read.chunks)
    assert_equal(big)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_writers_that_never_pause_leave_a_destination_that_equals_the_last_snapshot(
    big: MysqlInstallation, seed: int
) -> None:
    stop = threading.Event()
    writers = [threading.Thread(target=write, args=(big, Random(seed * 10 + n), stop)) for n in range(3)]
    work, read = begun(big, mode="cdc" if seed % 2 else "full")
    for writer in writers:
        writer.start()
    try:
        extracted(big, work, read)
        result, again = finished(big, work, read)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert result.equal is True
    assert again
    second = big.sync(big.name("big"), **({} if seed % 2 else {"deletes": "keys"}))
    assert second.equal is True
    assert_equal(big)


def write(shop: MysqlInstallation, random: Random, stop: threading.Event) -> None:
    """Short transactions of all kinds, some rolled back, some of them left open for a while."""
    with shop.open(autocommit=False) as connection, connection.cursor() as cursor:
        while not stop.wait(random.random() * 0.01):
            try:
                for _ in range(random.randint(1, 3)):
                    cursor.execute(*statement(random))
                if random.random() < 0.1:
                    stop.wait(0.1)
                if random.random() < 0.15:
                    connection.rollback()
                else:
                    connection.commit()
            except pymysql.MySQLError:  # deadlocks, keys that are taken
                connection.rollback()


def statement(random: Random) -> tuple[str, tuple[Any, ...]]:
    key, other = random.randint(1, ROWS), random.randint(1, 2 * ROWS)
    return random.choice(
        [
            ("UPDATE big SET note = %s, updated_at = now(6) WHERE id = %s", (f"n{other}", key)),
            ("DELETE FROM big WHERE id = %s", (key,)),
            ("INSERT INTO big VALUES (%s, 'new', 1, now(6))", (ROWS + other,)),
            ("UPDATE big SET id = %s, updated_at = now(6) WHERE id = %s", (ROWS + other, key)),
        ]
    )


def test_a_table_that_was_emptied_when_its_chunks_were_to_be_cut_is_named(big: MysqlInstallation) -> None:
    work = big.work(big.name("big"))
    plan = big.steps.open_window(work)
    big.execute("TRUNCATE big")
    with pytest.raises(SourceUnreachableError, match="became smaller"):
        big.steps.begin_chunks(work, plan, 1)
    assert big.sync(big.name("big")).rows_silver == 0


def test_a_worker_killed_in_a_chunk_leaves_the_finished_chunks(
    tmp_path: Path, mariadb: MariadbServer, mariadb_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed_soon(monkeypatch, tmp_path)
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "after_chunk_note=kill,during_finish_chunks=error")
    shop, settings = filled(MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)), Settings()
    with LocalStack(settings).start(temporal=True, worker=True, dagster=False) as stack:
        (result,) = Headrace(settings=settings).sync("shop", [shop.name("big")]).tables
        tries = activity_tries(stack.temporal_address, str(result.workflow_id))["extract_chunk"]
    attempts = [attempt for _, attempt in tries]
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ROWS)
    assert {path.name for path in (tmp_path / "fired").iterdir()} == {"after_chunk_note"}
    assert attempts.count(2) <= 2  # two were being read
    assert_equal(shop)
