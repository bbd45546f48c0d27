"""The seven measured failures of stock tools on MariaDB, and random schedules of transactions: none lost or doubled."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from assets.lakehouse.interface import TableId
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

CREATE = "CREATE TABLE t (id int PRIMARY KEY, name text, updated_at datetime NULL)"


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    return MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)


def sync(shop: MysqlInstallation, **options: Any) -> Any:
    return shop.sync(shop.name("t"), **options)


def assert_equal_to_source(shop: MysqlInstallation) -> None:
    assert shop.silver(shop.name("t"), ["id", "name", "updated_at"]) == shop.source_rows("SELECT * FROM t")
    assert shop.verify(shop.name("t")).equal is True


def bronze_ids(shop: MysqlInstallation) -> list[int]:
    return [row[0] for row in shop.bronze(shop.name("t"), ["id"])]


def test_m1_a_transaction_that_commits_late_with_an_older_cursor_is_loaded_once(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now() - interval 1 hour), (2, 'b', now() - interval 1 hour)")
    sync(shop)
    late = shop.open(autocommit=False)
    late.cursor().execute("INSERT INTO t VALUES (4, 'late', now() - interval 10 minute)")
    shop.execute("INSERT INTO t VALUES (3, 'c', now())")
    assert sync(shop).rows_read == 1
    late.commit()
    late.close()
    result = sync(shop)
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 1, True)
    assert "transactions were writing" in result.reason
    assert bronze_ids(shop) == [1, 2, 3, 4]
    assert_equal_to_source(shop)
    assert sync(shop).rows_read == 0


@pytest.mark.parametrize("config", [{"late_commits": "overlap"}, {"user": "without_process"}], ids=str)
def test_m1_a_late_commit_within_the_overlap_is_loaded_once_without_comparing_all_rows(
    tmp_path: Path, mariadb: MariadbServer, mariadb_database: str, config: dict[str, Any]
) -> None:
    if "user" in config:
        mariadb.execute(None, "CREATE OR REPLACE USER without_process IDENTIFIED BY 'x'")
        mariadb.execute(None, f"GRANT SELECT ON {mariadb_database}.* TO without_process")
        config = {**config, "password": "x"}
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database, **config)
    shop.execute(CREATE, "INSERT INTO t SELECT seq, 'old', now() - interval 1 hour FROM seq_1_to_100")
    sync(shop)
    late = shop.open(autocommit=False)
    late.cursor().execute("INSERT INTO t VALUES (104, 'late', now() - interval 10 second)")
    shop.execute("INSERT INTO t VALUES (103, 'c', now())")
    assert sync(shop).rows_read == 1
    late.commit()
    late.close()
    result = sync(shop)
    assert (result.rows_read, result.equal, result.reason) == (1, True, "")
    assert_equal_to_source(shop)


def test_m2_rows_with_a_null_or_zero_cursor_are_loaded_once(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now()), (2, 'null', NULL)")
    sync(shop)
    shop.execute(
        "SET sql_mode = ''",
        "INSERT INTO t VALUES (3, 'c', now()), (4, 'null too', NULL), (5, 'zero', '0000-00-00 00:00:00')",
    )
    result = sync(shop)
    assert (result.mode, result.rows_read, result.unfit_values) == ("incremental", 3, 1)
    shop.execute("UPDATE t SET name = 'changed' WHERE id IN (2, 5)")
    assert sync(shop).rows_read == 2
    assert len(bronze_ids(shop)) == 7
    assert sync(shop).rows_read == 0
    assert shop.verify(shop.name("t")).equal is True


def test_m3_and_m4_deletes_and_changed_keys_are_found_by_keys(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT seq, concat('row ', seq), now() FROM seq_1_to_10")
    sync(shop)
    shop.execute("DELETE FROM t WHERE id > 5")
    without = sync(shop, mode="incremental")
    assert without.equal is False
    assert "--deletes keys" in without.reason
    shop.execute("UPDATE t SET id = 100, updated_at = now() WHERE id = 1")
    result = sync(shop, mode="incremental", deletes="keys")
    assert (result.rows_deleted, result.rows_silver, result.equal) == (6, 5, True)
    assert_equal_to_source(shop)
    shop.execute("INSERT INTO t VALUES (10, 'row 10', now())")
    assert sync(shop).rows_read == 1
    assert_equal_to_source(shop)


def test_m5_a_cursor_far_in_the_future_does_not_hide_later_rows(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'future', now() + interval 10 year)")
    first = sync(shop)
    assert (first.future_rows, first.watermark_after) == (1, None)
    shop.execute("INSERT INTO t SELECT seq, 'later', now() FROM seq_2_to_5")
    result = sync(shop)
    assert (result.mode, result.rows_read) == ("incremental", 4)
    assert_equal_to_source(shop)
    shop.execute("INSERT INTO t VALUES (6, 'latest', now())")
    assert sync(shop).rows_read == 1
    assert len(bronze_ids(shop)) == 6


def test_m6_a_death_after_the_commit_loads_nothing_twice(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT seq, 'row', now() FROM seq_1_to_1000")
    sync(shop)
    shop.execute("UPDATE t SET name = 'changed', updated_at = now() WHERE id <= 10")
    work = shop.work(shop.name("t"))
    manifest = shop.steps.extract(work, shop.steps.open_window(work), 1)
    shop.steps.commit_bronze(work, manifest)
    shop.execute("INSERT INTO t VALUES (1001, 'new', now())")  # the process died for good; the next run goes on
    assert sync(shop).rows_read == 1
    assert len(bronze_ids(shop)) == 1011
    assert_equal_to_source(shop)


def test_m7_ties_on_one_cursor_value_are_loaded_once_and_leave_a_small_state(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT seq, 'tie', '2026-01-01' FROM seq_1_to_100000")
    sync(shop)
    shop.execute("INSERT INTO t SELECT seq, 'tie', '2026-01-01' FROM seq_100001_to_100010")
    shop.execute("INSERT INTO t VALUES (200000, 'after', '2026-01-02')")
    assert sync(shop).rows_read == 11
    state = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=shop.name("t")))
    assert state is not None
    assert state.watermark is not None
    assert len(state.watermark.model_dump_json()) < 1000
    assert sync(shop).rows_read == 0
    assert_equal_to_source(shop)


def test_a_sync_that_finds_nothing_new_commits_nothing(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now())")
    sync(shop)
    bronze = TableId(layer="bronze", connector="shop", table=shop.name("t"))
    before = shop.steps.lakehouse.state(bronze)
    result = sync(shop)
    assert (result.rows_read, result.equal, result.watermark_after) == (0, True, result.watermark_before)
    assert shop.steps.lakehouse.state(bronze) == before


def test_an_integer_cursor_with_a_late_lower_value_loses_nothing(shop: MysqlInstallation) -> None:
    shop.execute("CREATE TABLE t (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, name text, updated_at datetime)")
    shop.execute("INSERT INTO t (name) VALUES ('a'), ('b')")
    sync(shop, cursor="id")
    late = shop.open(autocommit=False)
    late.cursor().execute("INSERT INTO t (name) VALUES ('late')")
    shop.execute("INSERT INTO t (name) VALUES ('after')")
    assert sync(shop, cursor="id").rows_read == 1
    late.commit()
    late.close()
    assert sync(shop, cursor="id").rows_read == 1
    assert sync(shop, cursor="id").rows_read == 0
    assert_equal_to_source(shop)


def test_a_table_made_anew_with_older_rows_is_compared_whole(shop: MysqlInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now()), (2, 'b', now())")
    sync(shop)
    shop.execute("DO sleep(1.1)", "DROP TABLE t", CREATE)
    shop.execute("INSERT INTO t VALUES (2, 'b2', '2001-01-01'), (3, 'c', '2001-01-01')")
    result = sync(shop, deletes="keys")
    assert (result.rows_read, result.rows_deleted, result.equal) == (2, 1, True)
    assert "made anew" in result.reason
    assert_equal_to_source(shop)


def schedule(shop: MysqlInstallation, chance: random.Random, steps: int) -> None:
    """Transactions side by side that insert, update, delete, change keys, end late or roll back; syncs in between."""
    open_ones: list[Any] = []
    for _ in range(steps):
        action = chance.random()
        if action < 0.25:
            sync(shop, mode=chance.choice(["auto", "incremental"]), deletes=chance.choice(["none", "keys"]))
        elif action < 0.45 and open_ones:
            ended = open_ones.pop(chance.randrange(len(open_ones)))
            ended.commit() if chance.random() < 0.8 else ended.rollback()
            ended.close()
        else:
            if len(open_ones) < 3 and chance.random() < 0.5:
                open_ones.append(
                    shop.open(autocommit=False, init_command="SET innodb_lock_wait_timeout = 0, time_zone = '+00:00'")
                )
            connection = chance.choice(open_ones) if open_ones and chance.random() < 0.7 else None
            write(shop, connection, chance)
    for connection in open_ones:
        connection.commit()
        connection.close()


def write(shop: MysqlInstallation, connection: Any, chance: random.Random) -> None:
    import pymysql

    # what an application stamps: its clock may step, or it forgets
    moment = chance.choice(["now()", "now()", "now() - interval 30 second", "now() + interval 5 second", "NULL"])
    key, other = chance.randrange(40), chance.randrange(40)
    statement = chance.choice(
        [
            f"INSERT INTO t VALUES ({key}, 'n{chance.random()}', {moment})",
            f"INSERT INTO t VALUES ({key}, 'n{chance.random()}', {moment})",
            f"UPDATE t SET name = 'u{chance.random()}', updated_at = {moment} WHERE id = {key}",
            f"UPDATE t SET id = {other}, updated_at = {moment} WHERE id = {key}",
            f"DELETE FROM t WHERE id = {key}",
        ]
    )
    try:
        if connection is None:
            with shop.open(init_command="SET innodb_lock_wait_timeout = 0, time_zone = '+00:00'") as once:
                once.cursor().execute(statement)
        else:
            connection.cursor().execute(statement)
    except pymysql.Error as error:
        if error.args[0] not in (1062, 1205, 1213, 1020):  # the key is taken, or its row is locked
            raise


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_random_schedules_end_equal_to_the_source(shop: MysqlInstallation, seed: int) -> None:
    run_schedule(shop, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_hundreds_of_random_schedules_end_equal_to_the_source(shop: MysqlInstallation, seed: int) -> None:
    run_schedule(shop, seed)


def run_schedule(shop: MysqlInstallation, seed: int) -> None:
    chance = random.Random(seed)
    shop.execute(CREATE, "INSERT INTO t SELECT seq, 'first', now() FROM seq_1_to_20")
    schedule(shop, chance, 40)
    assert sync(shop, deletes="keys").equal is True
    assert_equal_to_source(shop)
    rows = shop.bronze(shop.name("t"), ["id", "name", "updated_at", "_headrace_op", "_headrace_run"])
    assert len(rows) == len(set(rows))
