"""One snapshot holds over all connections of a read, and each row version is read in exactly one window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.errors import WatermarkError
from assets.sources import postgres_chunks as reader_module
from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import PostgresConfig
from assets.sources.postgres_fast import FastReader
from assets.sync import Watermark, WindowPlan
from orchestration.embedded_postgres import EmbeddedPostgres


@pytest.fixture(autouse=True)
def fast_reader_for_small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.sources.postgres_read.FAST_FROM_BYTES", 0)


@pytest.fixture
def shop(postgres: EmbeddedPostgres, database: Callable[[], str]) -> tuple[PostgresConnector, Any, str]:
    name = database()
    connection = postgres.connect(name, autocommit=True)
    connection.execute("CREATE TABLE orders (id int PRIMARY KEY, note text, updated_at timestamptz)")
    return PostgresConnector("shop", PostgresConfig(**postgres.config(name))), connection, name


def window(connector: PostgresConnector, previous: Watermark | None) -> tuple[list[int], Watermark]:
    (table,) = connector.discover(["public.orders"])
    mode = "incremental" if previous else "full"
    plan = WindowPlan(table=table, mode=mode, key=("id",), cursor="updated_at", previous=previous)
    with connector.open_read(plan) as read:
        ids = [i for batch in read.batches() for i in batch.column("id").to_pylist()]
        assert read.watermark is not None
        return sorted(ids), read.watermark


def fill_many_pages(connection: Any, monkeypatch: pytest.MonkeyPatch, *, pages_a_query: int) -> None:
    """50,000 rows, read side by side by queries of so many pages."""
    connection.execute(
        "INSERT INTO orders SELECT i, repeat('x', 200), now() FROM generate_series(1, 50000) i; ANALYZE orders"
    )
    monkeypatch.setattr(reader_module, "PARALLEL_BYTES", 1)
    monkeypatch.setattr(reader_module, "PAGES_A_QUERY", pages_a_query)


def test_parallel_readers_see_one_snapshot_while_rows_change(
    shop: tuple[PostgresConnector, Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, connection, _ = shop
    fill_many_pages(connection, monkeypatch, pages_a_query=100)
    (table,) = connector.discover(["public.orders"])
    with connector.open_read(WindowPlan(table=table, mode="full", key=("id",))) as read:
        ranges = reader_module.cut(read._opened, table, read._pieces, 2)  # pyright: ignore[reportAttributeAccessIssue]
        assert len(ranges.pieces) > 10
        connection.execute("UPDATE orders SET note = 'changed'; DELETE FROM orders WHERE id % 2 = 0")
        connection.execute("INSERT INTO orders VALUES (100000, 'new', now())")
        batches = list(read.batches())
        assert read.reader == "duckdb-binary"
        assert read.source_rows() == 50_000
    assert sorted(i for b in batches for i in b.column("id").to_pylist()) == list(range(1, 50_001))
    assert {n for b in batches for n in b.column("note").to_pylist()} == {"x" * 200}


def test_a_connection_that_dies_with_all_its_rows_read_takes_no_other_ones_rows(
    shop: tuple[PostgresConnector, Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, connection, _ = shop
    fill_many_pages(connection, monkeypatch, pages_a_query=1000)
    monkeypatch.setattr(reader_module, "FIRST_PAGES", 1000)
    died = threading.Event()
    read_batches = FastReader._batches

    def batches(reader: FastReader, database: Any, number: int) -> int:
        if number:
            assert died.wait(20)
            return read_batches(reader, database, number)
        found = read_batches(reader, database, number)
        (pid,) = database.execute("SELECT * FROM postgres_query('source', 'SELECT pg_backend_pid() AS pid')").fetchone()
        connection.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
        threading.Timer(0.5, died.set).start()  # by then the first reader has ended
        return found

    monkeypatch.setattr(FastReader, "_batches", batches)
    (table,) = connector.discover(["public.orders"])
    with connector.open_read(WindowPlan(table=table, mode="full", key=("id",))) as read:
        ids = [i for batch in read.batches() for i in batch.column("id").to_pylist()]
    assert sorted(ids) == list(range(1, 50_001))


def test_a_window_that_an_index_finds_is_read_in_one_go_as_text(shop: tuple[PostgresConnector, Any, str]) -> None:
    connector, connection, _ = shop
    connection.execute(
        "INSERT INTO orders SELECT i, repeat('x', 200), now() - interval '1 day' * i FROM generate_series(1, 20000) i"
    )
    connection.execute("CREATE INDEX ON orders (updated_at)")
    connection.execute("VACUUM ANALYZE orders")
    _, mark = window(connector, None)
    connection.execute("UPDATE orders SET updated_at = clock_timestamp() WHERE id % 1000 = 0")
    (table,) = connector.discover(["public.orders"])
    plan = WindowPlan(table=table, mode="incremental", key=("id",), cursor="updated_at", previous=mark)
    with connector.open_read(plan) as read:
        assert read.reader == "text (a small window)"
        assert sum(batch.num_rows for batch in read.batches()) == 20
    connection.execute("DROP INDEX orders_updated_at_idx")
    with connector.open_read(plan) as read:
        assert read.reader == "duckdb-binary"
        assert sum(batch.num_rows for batch in read.batches()) == 20


def test_late_commits_are_read_once_over_several_windows(
    shop: tuple[PostgresConnector, Any, str], postgres: EmbeddedPostgres
) -> None:
    connector, connection, name = shop
    connection.execute("INSERT INTO orders VALUES (1, '', now()), (2, '', NULL), (3, '', now() + interval '9 years')")
    with postgres.connect(name) as late, postgres.connect(name) as idle:
        late.execute("INSERT INTO orders VALUES (10, '', now() - interval '1 day')")
        late.execute("SAVEPOINT s")
        late.execute("INSERT INTO orders VALUES (11, '', now() - interval '1 day')")
        late.execute("RELEASE SAVEPOINT s")
        idle.execute("SELECT now()")  # open without a transaction id
        connection.execute("INSERT INTO orders VALUES (4, '', now())")
        first, mark = window(connector, None)
        assert first == [1, 2, 3, 4]
        late.commit()
        idle.execute("INSERT INTO orders VALUES (12, '', now())")
        idle.commit()
    second, mark = window(connector, mark)
    assert second == [10, 11, 12]
    connection.execute("INSERT INTO orders VALUES (20, '', now()), (21, '', NULL)")
    third, mark = window(connector, mark)
    assert third == [20, 21]
    assert window(connector, mark)[0] == []


def test_a_table_made_anew_is_refused_with_the_command_that_repairs_it(
    shop: tuple[PostgresConnector, Any, str],
) -> None:
    connector, connection, _ = shop
    connection.execute("INSERT INTO orders VALUES (1, '', now())")
    _, mark = window(connector, None)
    connection.execute("ALTER TABLE orders RENAME TO old; CREATE TABLE orders (LIKE old)")
    with pytest.raises(WatermarkError, match=r"headrace sync shop public\.orders --mode full"):
        window(connector, mark)


@pytest.mark.parametrize("password", ["it's", "back\\slash", "a b=c", '"double"'])
def test_a_password_with_special_characters_serves_the_fast_reader(
    shop: tuple[PostgresConnector, Any, str], postgres: EmbeddedPostgres, password: str
) -> None:
    from psycopg import sql

    _, connection, name = shop
    connection.execute("INSERT INTO orders VALUES (1, '', now())")
    role = f"odd_{name}"
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
    connection.execute(f"GRANT SELECT ON orders TO {role}")
    config = {**postgres.config(name), "user": role, "password": password}
    try:
        assert window(PostgresConnector("shop", PostgresConfig(**config)), None)[0] == [1]
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_dlt_source_runs_in_a_plain_pipeline(shop: tuple[PostgresConnector, Any, str], tmp_path: Path) -> None:
    import dlt
    import duckdb

    connector, connection, _ = shop
    connection.execute("INSERT INTO orders SELECT i, 'n', now() FROM generate_series(1, 1000) i")
    file = str(tmp_path / "out.duckdb")
    pipeline = dlt.pipeline(
        "shop", pipelines_dir=str(tmp_path), destination=dlt.destinations.duckdb(file), dataset_name="raw"
    )
    source = connector.source(["public.orders"])
    (slug,) = source.resources
    pipeline.run(source)
    with duckdb.connect(file) as database:
        assert database.execute(f"SELECT count(*), sum(id) FROM raw.{slug}").fetchone() == (1000, 500500)
