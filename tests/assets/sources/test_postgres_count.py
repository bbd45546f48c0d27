"""A large table is counted on a connection of its own while a window of it is read, in the window's snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import PostgresConfig
from assets.sync import WindowPlan
from orchestration.embedded_postgres import EmbeddedPostgres
from tests.polling import wait_until


@pytest.fixture
def shop(
    postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> tuple[PostgresConnector, Any, str]:
    monkeypatch.setattr("assets.sources.concurrent_count.COUNT_MEANWHILE_FROM_BYTES", 0)
    name = database()
    connection: Any = postgres.connect(name, autocommit=True)
    connection.execute("CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz)")
    connection.execute("INSERT INTO orders SELECT i, now() FROM generate_series(1, 1000) i; ANALYZE orders")
    return PostgresConnector("shop", PostgresConfig(**postgres.config(name))), connection, name


def second_window(connector: PostgresConnector) -> WindowPlan:
    (table,) = connector.discover(["public.orders"])
    plan = WindowPlan(table=table, mode="full", key=("id",), cursor="updated_at")
    with connector.open_read(plan) as read:
        list(read.batches())
        return plan.model_copy(update={"mode": "incremental", "previous": read.watermark})


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "source-count"]


def test_the_count_is_of_the_snapshot_that_is_read(shop: tuple[PostgresConnector, Any, str]) -> None:
    connector, connection, _ = shop
    plan = second_window(connector)
    connection.execute("INSERT INTO orders VALUES (2000, now())")
    with connector.open_read(plan) as read:
        connection.execute("DELETE FROM orders WHERE id <= 500")
        assert [b.column("id").to_pylist() for b in read.batches()] == [[2000]]
        wait_until(lambda: not threads())  # nobody asked yet
        assert read.source_rows() == 1001
    assert not threads()


def test_where_no_other_connection_is_to_be_had_the_reading_one_counts(
    shop: tuple[PostgresConnector, Any, str], postgres: EmbeddedPostgres
) -> None:
    connector, connection, name = shop
    plan = second_window(connector)
    connection.execute("CREATE ROLE one_at_a_time LOGIN PASSWORD 'a password of the tests' CONNECTION LIMIT 1")
    connection.execute("GRANT SELECT ON orders TO one_at_a_time")
    try:
        login: dict[str, Any] = {"user": "one_at_a_time", "password": "a password of the tests"}
        limited = PostgresConnector("shop", PostgresConfig(**(postgres.config(name) | login)))
        with limited.open_read(plan) as read:
            list(read.batches())
            wait_until(lambda: not threads())
            assert read.source_rows() == 1000
    finally:
        connection.execute("DROP OWNED BY one_at_a_time; DROP ROLE one_at_a_time")


def test_a_read_that_ends_early_ends_its_count(
    shop: tuple[PostgresConnector, Any, str], postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, connection, name = shop
    plan = second_window(connector)
    monkeypatch.setattr("assets.sources.concurrent_count.COUNT_MEANWHILE_FROM_BYTES", 1 << 40)
    locker: Any = postgres.connect(name)
    with pytest.raises(RuntimeError), connector.open_read(plan) as read:
        list(read.batches())
        waiter = threading.Thread(target=lambda: locker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        waiter.start()  # behind the read; and the count waits behind it
        wait_until(lambda: connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0] == 1)
        monkeypatch.setattr("assets.sources.concurrent_count.COUNT_MEANWHILE_FROM_BYTES", 0)
        read.count_meanwhile()  # pyright: ignore[reportAttributeAccessIssue]
        wait_until(lambda: connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0] == 2)
        raise RuntimeError
    assert not threads()
    waiter.join(20)
    assert not waiter.is_alive()
    locker.close()
