"""Mode cdc on MariaDB: every kind of change arrives once, values exact, and what is lost is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.errors import HeadraceError, SchemaChangedError, SourceAccessError, StreamLostError, UnsupportedTableError
from assets.lakehouse.interface import TableId
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.polling import wait_until
from tests.servers.mariadb_server import MariadbServer

ROWS = 2_000
COLUMNS = ["id", "name", "price", "updated_at", "big"]


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    return MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)


@pytest.fixture
def followed(shop: MysqlInstallation) -> MysqlInstallation:
    """``t`` is followed: two thousand rows are there."""
    create(shop)
    result = shop.sync(shop.name("t"), mode="cdc")
    assert (result.status, result.mode, result.equal, result.rows_read) == ("succeeded", "full", True, ROWS)
    return shop


def create(shop: MysqlInstallation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(50), price decimal(12, 2), updated_at timestamp(6) NULL, "
        "big longtext)",
        f"INSERT INTO t SELECT seq, concat('row ', seq), seq / 7, now(6), 'small' FROM seq_1_to_{ROWS}",
    )


def synced(shop: MysqlInstallation, table: str = "t", **options: Any) -> tuple[int, int]:
    """Sync by the log, and see that Silver equals the source by every value. Returns upserts and deletes."""
    result = shop.sync(shop.name(table), **{"mode": "cdc"} | options)
    assert (result.mode, result.equal) == ("cdc", True)
    found = shop.verify(shop.name(table))
    assert found.equal is True, found
    return result.rows_read, result.rows_deleted


def state(shop: MysqlInstallation, table: str = "t") -> Any:
    found = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=shop.name(table)))
    assert found is not None
    return found


def test_inserts_updates_and_deletes_arrive_and_a_quiet_table_costs_no_commit(followed: MysqlInstallation) -> None:
    followed.execute(
        "INSERT INTO t VALUES (6001, 'new', 1, now(), NULL)",
        "UPDATE t SET name = 'changed' WHERE id <= 10",
        "UPDATE t SET name = 'changed again' WHERE id <= 10",
        f"DELETE FROM t WHERE id > {ROWS - 10} AND id <= {ROWS}",
    )
    assert synced(followed) == (21, 10)
    changes = followed.bronze(followed.name("t"), ["id", "name", "_headrace_op", "_headrace_position"])
    assert [row[1:3] for row in sorted(changes, key=lambda r: r[3]) if row[0] == 3] == [
        ("row 3", "u"),
        ("changed", "u"),
        ("changed again", "u"),
    ]
    first = min(row[3] for row in changes)
    positions = [row[3] for row in changes if row[3] > first]
    assert len(set(positions)) == len(positions) == 31, "each change has a position of its own"
    version = state(followed).version
    assert synced(followed) == (0, 0)
    assert state(followed).version == version
    assert synced(followed, mode="auto") == (0, 0), "a followed table stays followed"


def test_a_changed_key_is_a_delete_and_an_upsert_and_keys_may_swap(followed: MysqlInstallation) -> None:
    followed.execute(
        "UPDATE t SET id = id + 100000 WHERE id <= 20",
        "UPDATE t SET id = -1 WHERE id = 30",
        "UPDATE t SET id = 30 WHERE id = 31",
        "UPDATE t SET id = 31 WHERE id = -1",
    )
    assert synced(followed) == (23, 23)


def test_a_truncate_removes_what_was_live_then_and_nothing_that_came_after(followed: MysqlInstallation) -> None:
    followed.execute(
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (9001, 'before', 1, now(), NULL)",
        "TRUNCATE /* all of */ t",
        "INSERT INTO t VALUES (1, 'after', 1, now(), NULL), (2, 'after', 1, now(), NULL)",
        f"truncate table `{followed.database}` . `t`",
        "INSERT INTO t VALUES (2, 'last', 1, now(), NULL)",
    )
    assert synced(followed) == (4, 1 + ROWS + 2)
    gone = [r for r in followed.silver(followed.name("t"), ["id", "name", "_headrace_deleted_at"], live=False) if r[2]]
    assert len(gone) == ROWS - 1
    assert (5, "row 5") in [row[:2] for row in gone], "last values are kept"


def test_rolled_back_work_and_open_transactions_do_not_count_until_they_commit(followed: MysqlInstallation) -> None:
    late, other = followed.open(autocommit=False), followed.open(autocommit=False)
    run = late.cursor().execute
    run("UPDATE t SET name = 'late' WHERE id = 1")
    run("SAVEPOINT s")
    run("DELETE FROM t WHERE id = 2")
    run("ROLLBACK TO s")
    run("INSERT INTO t VALUES (7001, 'late', 1, now(), NULL)")
    other.cursor().execute("DELETE FROM t WHERE id = 4")
    other.rollback()
    followed.execute("UPDATE t SET name = 'early' WHERE id = 3")
    assert synced(followed) == (1, 0)
    late.commit()
    assert synced(followed) == (2, 0)
    late.close()
    other.close()


def test_a_first_load_beside_open_transactions_misses_no_change(shop: MysqlInstallation) -> None:
    create(shop)
    writer = shop.open(autocommit=False)
    writer.cursor().execute("INSERT INTO t VALUES (9001, 'open', 1, NULL, NULL)")
    assert shop.sync(shop.name("t"), mode="cdc").rows_read == ROWS
    writer.commit()
    writer.close()
    assert synced(shop) == (1, 0)


def test_tables_of_one_server_have_each_their_own_place_in_the_log(followed: MysqlInstallation) -> None:
    followed.execute("CREATE TABLE u (a int, b varchar(9), PRIMARY KEY (b, a))", "INSERT INTO u VALUES (1, 'x')")
    assert followed.sync(followed.name("u"), mode="cdc").equal
    followed.execute("UPDATE u SET a = 2", "UPDATE t SET name = 'x' WHERE id = 1")
    assert synced(followed) == (1, 0)
    assert synced(followed, "u") == (1, 1)


LOST = {
    "the table was dropped": ["CREATE TABLE v LIKE t", "INSERT INTO v SELECT * FROM t", "DROP TABLE t"]
    + ["RENAME TABLE v TO t"],
    "another one took its name": ["CREATE TABLE v LIKE t", "RENAME TABLE t TO old, v TO t"],
    "created again": ["CREATE OR REPLACE TABLE t (id int PRIMARY KEY, name varchar(50))"],
    "logged as a statement": ["SET binlog_format = STATEMENT", "UPDATE t SET name = 'x' WHERE id = 1"],
    "without all columns": ["SET binlog_row_image = MINIMAL", "UPDATE t SET name = 'x' WHERE id = 1"],
}


@pytest.mark.parametrize("told", LOST)
def test_changes_that_no_row_tells_are_named_and_one_command_reads_the_table_anew(
    followed: MysqlInstallation, told: str
) -> None:
    followed.execute("SET foreign_key_checks = 1", *LOST[told])
    with pytest.raises(StreamLostError, match=told) as refused:
        followed.sync(followed.name("t"), mode="cdc")
    assert refused.value.remedy == f"Run: headrace sync shop {followed.name('t')} --mode cdc --reset"
    assert followed.sync(followed.name("t"), mode="cdc", reset=True).mode == "full"
    followed.execute("INSERT INTO t (id, name) VALUES (6001, 'new')")
    assert synced(followed) == (1, 0)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("ALTER TABLE t ADD COLUMN extra int DEFAULT 5", "added with a default"),
        ("ALTER TABLE t ADD COLUMN extra int NOT NULL", "added with a default"),
        ("ALTER TABLE t RENAME COLUMN name TO title", "now named title"),
        ("ALTER TABLE t CHANGE name title varchar(50)", "now named title"),
        ("ALTER TABLE t MODIFY name varchar(20)", "type of column name changed"),
    ],
)
def test_a_change_of_schema_that_no_log_tells_is_refused(
    followed: MysqlInstallation, statement: str, error: str
) -> None:
    followed.execute(statement)
    with pytest.raises(SchemaChangedError, match=error):
        followed.sync(followed.name("t"), mode="cdc")
    assert followed.sync(followed.name("t"), mode="cdc", reset=True).equal


def test_columns_come_and_go_and_grow_between_changes(followed: MysqlInstallation) -> None:
    followed.execute(
        "UPDATE t SET name = 'before' WHERE id = 1",
        "ALTER TABLE t ADD COLUMN extra int FIRST, ADD INDEX (name)",
        "UPDATE t SET extra = 5 WHERE id IN (1, 2)",
        "ALTER TABLE t DROP COLUMN updated_at, MODIFY name varchar(80) COMMENT 'longer', ALGORITHM = COPY",
        "UPDATE t SET extra = 6, name = repeat('n', 80) WHERE id = 3",
        "OPTIMIZE TABLE t",
        "ALTER TABLE t FORCE",
    )
    assert synced(followed) == (4, 0)


def test_partitions_are_one_table_and_a_truncated_partition_is_refused(shop: MysqlInstallation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id) "
        "(PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS THAN MAXVALUE)",
        "INSERT INTO t SELECT seq, 'row' FROM seq_1_to_150",
    )
    shop.sync(shop.name("t"), mode="cdc")
    shop.execute("UPDATE t SET id = 160 WHERE id = 1", "DELETE FROM t WHERE id = 120")
    assert synced(shop) == (1, 2)
    shop.execute("ALTER TABLE t TRUNCATE PARTITION p1")
    with pytest.raises(StreamLostError, match="truncated"):
        shop.sync(shop.name("t"), mode="cdc")


def test_what_the_log_does_not_tell_is_refused_with_what_mends_it(shop: MysqlInstallation) -> None:
    shop.execute(
        "CREATE TABLE nokey (a int, b text)",
        "CREATE VIEW v AS SELECT 1 AS id",
        "CREATE TABLE mem (id int PRIMARY KEY) ENGINE = MyISAM",
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY, p int, "
        "CONSTRAINT fk_c FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
        "CREATE TABLE history (id int PRIMARY KEY) WITH SYSTEM VERSIONING",
    )
    for table, why in (
        ("nokey", "no key"),
        ("v", "view"),
        ("mem", "ENGINE = InnoDB"),
        ("c", "fk_c changes rows by ON DELETE CASCADE"),
        ("history", "system-versioned"),
    ):
        with pytest.raises(UnsupportedTableError, match=why):
            shop.sync(shop.name(table), mode="cdc", **({"key": ("id",)} if table == "v" else {}))


def test_xa_transactions_that_write_to_the_table_are_refused_and_others_are_not(followed: MysqlInstallation) -> None:
    followed.execute("CREATE TABLE u (id int PRIMARY KEY)")

    def prepare(number: int, table: str) -> None:
        followed.execute(
            f"XA START 'x{number}'",
            f"INSERT INTO {table} (id) VALUES ({7000 + number})",
            f"XA END 'x{number}'",
            f"XA PREPARE 'x{number}'",
        )

    prepare(1, "u")
    prepare(2, "u")
    followed.execute("XA COMMIT 'x1'", "UPDATE t SET name = 'x' WHERE id = 1")
    assert synced(followed) == (1, 0)
    followed.execute("XA COMMIT 'x2'", "UPDATE t SET name = 'y' WHERE id = 1")
    assert synced(followed) == (1, 0)
    prepare(3, "t")
    followed.execute("XA COMMIT 'x3'")
    with pytest.raises(UnsupportedTableError, match="XA"):
        followed.sync(followed.name("t"), mode="cdc")


def test_a_login_without_the_rights_is_told_the_statements(shop: MysqlInstallation) -> None:
    create(shop)
    user = f"cdc_{uuid.uuid4().hex[:8]}"
    account = f"'{user}'@'127.0.0.1'"
    shop.execute(
        f"CREATE USER {account} IDENTIFIED BY 'secret-of-cdc'",
        f"GRANT SELECT ON {shop.database}.* TO {account}",
        f"GRANT PROCESS ON *.* TO {account}",
    )
    config = shop.source.config(shop.database) | {"user": user, "password": "secret-of-cdc", "cdc": True}
    shop.steps.catalog.add_connector("shop", "mysql", config, replace=True)

    def missing() -> dict[str, str]:
        return {c.name: c.fix for c in shop.steps.catalog.connector("shop").check() if not c.ok}

    assert missing() == {"replication grants": f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {account};"}
    for right in ("BINLOG MONITOR", "REPLICATION SLAVE"):
        with pytest.raises(SourceAccessError) as refused:
            shop.sync(shop.name("t"), mode="cdc")
        assert isinstance(refused.value, HeadraceError)
        assert refused.value.remedy == f"GRANT {right} ON *.* TO {account};"
        shop.execute(refused.value.remedy)
    assert missing() == {}
    assert shop.sync(shop.name("t"), mode="cdc").equal
    shop.execute("DELETE FROM t WHERE id = 1")
    assert synced(shop) == (0, 1)
    shop.execute(f"DROP USER {account}")


@pytest.fixture
def own_server(tmp_path: Path, server_folder: Path) -> Iterator[MysqlInstallation]:
    """A server of the test's own, whose log may be spoiled."""
    with MariadbServer(server_folder / f"log-{uuid.uuid4().hex[:6]}") as server:
        shop = MysqlInstallation(tmp_path / "home", server, server.create_database())
        create(shop)
        shop.sync(shop.name("t"), mode="cdc")
        yield shop


def test_a_log_that_was_purged_begun_anew_or_misconfigured_is_named(own_server: MysqlInstallation) -> None:
    shop = own_server
    table = shop.name("t")
    shop.execute("UPDATE t SET name = 'lost' WHERE id = 1", "FLUSH BINARY LOGS", "UPDATE t SET name = 'x' WHERE id = 2")
    shop.execute(
        "FLUSH BINARY LOGS", "SET GLOBAL binlog_row_image = MINIMAL", "SET GLOBAL binlog_row_metadata = NO_LOG"
    )
    with pytest.raises(SourceAccessError, match="binlog_row_image is MINIMAL") as refused:
        shop.sync(table, mode="cdc")
    shop.execute(*refused.value.remedy.splitlines())
    purge = shop.source_rows("SHOW BINARY LOGS")[-1][0]

    def purged() -> bool:
        """MariaDB keeps a log, and says nothing, until InnoDB has flushed what it holds: each second here."""
        shop.execute(f"PURGE BINARY LOGS TO '{purge}'")
        return shop.source_rows("SHOW BINARY LOGS")[0][0] == purge

    wait_until(purged, 20)
    with pytest.raises(StreamLostError, match=f"headrace sync shop {table} --mode cdc --reset"):
        shop.sync(table, mode="cdc")
    shop.sync(table, mode="cdc", reset=True)
    shop.execute("UPDATE t SET name = 'followed' WHERE id = 1", "FLUSH BINARY LOGS")
    assert synced(shop) == (1, 0)
    shop.execute("UPDATE t SET name = 'y' WHERE id = 1", "RESET MASTER")
    with pytest.raises(StreamLostError, match="restored or reset"):
        shop.sync(table, mode="cdc")
    shop.execute(*(f"UPDATE t SET name = 'z{i}' WHERE id = 1" for i in range(200)))
    with pytest.raises(StreamLostError, match="begun anew"):
        shop.sync(table, mode="cdc")
    shop.sync(table, mode="cdc", reset=True)
    shop.execute("DELETE FROM t WHERE id = 5")
    assert synced(shop) == (0, 1)


def test_a_row_larger_than_a_packet_ends_no_table_s_capture(own_server: MysqlInstallation) -> None:
    shop = own_server
    shop.execute(
        "CREATE TABLE large (id int PRIMARY KEY, b longblob)",
        "INSERT INTO large SELECT 1, repeat('b', 9000000)",
        "UPDATE large SET b = concat(b, 'c')",  # both images: more than max_allowed_packet
        "INSERT INTO t (id, name) VALUES (900001, 'after')",
    )
    assert synced(shop) == (1, 0)
    table = shop.name("large")
    assert shop.sync(table, mode="cdc").equal
    shop.execute("UPDATE large SET b = concat(b, 'd')")
    assert shop.sync(table, mode="cdc").rows_read == 1
    assert shop.verify(table).equal


def test_compressed_events_restarts_and_a_killed_server_lose_nothing(own_server: MysqlInstallation) -> None:
    shop = own_server
    shop.execute("SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10")
    shop.execute(
        "UPDATE t SET big = repeat('big ', 1000) WHERE id < 100", "ALTER TABLE t ADD note text NULL, ADD KEY (name)"
    )
    shop.source.stop()
    shop.source.start()
    shop.execute("UPDATE t SET note = 'after a restart' WHERE id < 10")
    shop.source.kill()
    shop.source.start()
    shop.execute("DELETE FROM t WHERE id = 1")
    assert synced(shop) == (99 + 9, 1)
