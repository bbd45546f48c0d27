"""A large table is counted on a connection of its own while it is read, where both have the same snapshot."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from assets.sources.concurrent_count import ConcurrentCount
from assets.sources.mysql import MysqlConnector
from assets.sources.mysql_connection import MysqlConfig
from assets.sync import WindowPlan
from tests.polling import wait_until
from tests.servers.mariadb_server import MariadbServer

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY) AS SELECT seq AS id FROM seq_1_to_1000"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the counts of other connections were, as they were asked for; any table is large."""
    found: list[int | None] = []
    counted = ConcurrentCount.rows

    def noted(self: ConcurrentCount) -> int | None:  # the real count, overheard: which connection counted shows nowhere
        found.append(counted(self))
        return found[-1]

    monkeypatch.setattr(ConcurrentCount, "rows", noted)
    monkeypatch.setattr("assets.sources.concurrent_count.COUNT_MEANWHILE_FROM_BYTES", 0)
    return found


@pytest.fixture
def shop(mariadb: MariadbServer, mariadb_database: str) -> MysqlConnector:
    mariadb.execute(mariadb_database, ORDERS)
    return MysqlConnector("shop", MysqlConfig(**mariadb.config(mariadb_database)))


def full(connector: MysqlConnector) -> WindowPlan:
    (database,) = connector.config.databases or []
    (table,) = connector.discover([f"{database}.orders"])
    return WindowPlan(table=table, mode="full", key=("id",))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "source-count"]


def waiting(mariadb: MariadbServer) -> int:
    query = "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata lock'"
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchall()[0][0])


def test_the_count_is_of_the_snapshot_that_is_read(
    shop: MysqlConnector, mariadb: MariadbServer, mariadb_database: str, counts: list[int | None]
) -> None:
    with shop.open_read(full(shop)) as read:
        mariadb.execute(mariadb_database, "DELETE FROM orders WHERE id <= 500")
        assert sum(batch.num_rows for batch in read.batches()) == 1000
        wait_until(lambda: not threads())  # nobody asked yet
        assert read.source_rows() == 1000
    assert counts == [1000]
    with shop.open_read(full(shop)) as read:
        assert (sum(batch.num_rows for batch in read.batches()), read.source_rows()) == (500, 500)


def test_where_somebody_writes_the_reading_connection_counts(
    shop: MysqlConnector, mariadb: MariadbServer, mariadb_database: str, counts: list[int | None]
) -> None:
    with mariadb.connect(mariadb_database, autocommit=False) as writer, writer.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (2000)")
        with shop.open_read(full(shop)) as read:
            writer.commit()
            assert not threads()
            assert (sum(batch.num_rows for batch in read.batches()), read.source_rows()) == (1000, 1000)
    assert counts == []


def test_where_no_other_connection_is_to_be_had_the_reading_one_counts(
    shop: MysqlConnector, mariadb: MariadbServer, mariadb_database: str, counts: list[int | None]
) -> None:
    plan, user = full(shop), f"one_{mariadb_database}"
    mariadb.execute(None, f"CREATE USER {user} IDENTIFIED BY 'of the tests' WITH MAX_USER_CONNECTIONS 1")
    mariadb.execute(None, f"GRANT SELECT ON {mariadb_database}.* TO {user}", f"GRANT PROCESS ON *.* TO {user}")
    try:
        login: dict[str, Any] = {"user": user, "password": "of the tests"}
        limited = MysqlConnector("shop", MysqlConfig(**(mariadb.config(mariadb_database) | login)))
        with limited.open_read(plan) as read:
            assert (sum(batch.num_rows for batch in read.batches()), read.source_rows()) == (1000, 1000)
    finally:
        mariadb.execute(None, f"DROP USER {user}")
    assert counts == []


def test_a_count_that_fails_is_done_again_by_the_reading_connection(
    shop: MysqlConnector, mariadb: MariadbServer, counts: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.sources.concurrent_count.HEAD_START_SECONDS", 60)
    newest = "SELECT max(id) FROM information_schema.processlist WHERE command = 'Sleep'"
    with shop.open_read(full(shop)) as read, mariadb.connect() as connection, connection.cursor() as cursor:
        assert sum(batch.num_rows for batch in read.batches()) == 1000
        cursor.execute(newest)  # the reader connected first
        cursor.execute(f"KILL {int(cursor.fetchall()[0][0])}")
        assert read.source_rows() == 1000
    assert counts == [None]


def test_a_read_that_ends_early_ends_its_count(
    shop: MysqlConnector,
    mariadb: MariadbServer,
    mariadb_database: str,
    counts: list[int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("assets.sources.concurrent_count.HEAD_START_SECONDS", 2)
    locker = mariadb.connect(mariadb_database)
    waiter = threading.Thread(target=lambda: locker.query("LOCK TABLES orders WRITE"))
    with pytest.raises(RuntimeError), shop.open_read(full(shop)) as read:
        list(read.batches())
        waiter.start()  # behind the read; and the count waits behind it
        wait_until(lambda: waiting(mariadb) == 2)
        raise RuntimeError
    assert not threads()
    waiter.join(20)
    assert not waiter.is_alive()
    locker.close()
