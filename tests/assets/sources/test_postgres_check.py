"""Each missing prerequisite is its own failed check, with the fix to apply, and never the password."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from assets.errors import HeadraceError, NotFoundError, SourceAccessError, SourceUnreachableError
from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import PostgresConfig
from orchestration.embedded_postgres import EmbeddedPostgres

CANARY = "canary-9f3b-password"


@pytest.fixture
def reader(postgres: EmbeddedPostgres, database: Callable[[], str]) -> Iterator[dict[str, Any]]:
    """The config of a role without any grant, on a database with one table in two schemas."""
    name = database()
    role = f"reader_{name}"
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{CANARY}'".encode())
        connection.execute("CREATE TABLE secret (id int PRIMARY KEY)")
        connection.execute("CREATE SCHEMA sales")
        connection.execute("CREATE TABLE sales.orders (id int PRIMARY KEY)")
    yield {**postgres.config(name), "user": role, "password": CANARY}
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def failed(config: dict[str, Any]) -> tuple[str, str, str]:
    results = PostgresConnector("shop", PostgresConfig(**config)).check()
    assert CANARY not in repr(results)
    first = next(result for result in results if not result.ok)
    assert all(not later.ok for later in results[results.index(first) :])
    assert "Traceback" not in first.detail
    assert first.fix
    return first.name, first.detail, first.fix


def test_a_wrong_host_fails_the_network_check(reader: dict[str, Any]) -> None:
    assert failed({**reader, "host": "no-such-host.invalid"})[0] == "network"


def test_a_wrong_port_fails_the_network_check(reader: dict[str, Any]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name, detail, _ = failed({**reader, "port": unused.getsockname()[1]})
    assert name == "network"
    assert "refused" in detail


def test_a_server_that_never_answers_fails_within_its_time_limit(reader: dict[str, Any]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert failed({**reader, "port": silent.getsockname()[1], "connect_timeout": 2})[0] == "login"


def test_a_wrong_password_fails_the_login_check(reader: dict[str, Any]) -> None:
    assert failed({**reader, "password": f"{CANARY}-wrong"})[0] == "login"


def test_a_wrong_user_fails_the_login_check(reader: dict[str, Any]) -> None:
    assert failed({**reader, "user": "nobody_here"})[0] == "login"


def test_a_wrong_database_fails_the_database_check(reader: dict[str, Any]) -> None:
    assert failed({**reader, "database": "no_such_database"})[0] == "database"


def test_a_tls_mode_the_server_does_not_speak_fails_the_tls_check(reader: dict[str, Any]) -> None:
    name, _, fix = failed({**reader, "sslmode": "require"})
    assert name == "tls"
    assert "sslmode" in fix


def test_missing_grants_are_named_as_the_statements_that_give_them(
    reader: dict[str, Any], postgres: EmbeddedPostgres
) -> None:
    name, detail, fix = failed(reader)
    assert name == "grants"
    assert "public.secret" in detail or "secret" in detail
    statements = fix.splitlines()
    assert f'GRANT USAGE ON SCHEMA "sales" TO "{reader["user"]}";' in statements
    assert f'GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO "{reader["user"]}";' in statements
    with postgres.connect(reader["database"], autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
    assert all(result.ok for result in PostgresConnector("shop", PostgresConfig(**reader)).check())


def test_errors_are_typed_and_hold_no_password(reader: dict[str, Any]) -> None:
    cases: list[tuple[dict[str, Any], type[HeadraceError]]] = [
        ({"password": f"{CANARY}-wrong"}, SourceAccessError),
        ({"port": 1}, SourceUnreachableError),
    ]
    for change, expected in cases:
        with pytest.raises(expected) as caught:
            PostgresConnector("shop", PostgresConfig(**{**reader, **change})).discover()
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(caught.value.__cause__)
    connector = PostgresConnector("shop", PostgresConfig(**reader))
    assert CANARY not in repr(connector.config)
    with pytest.raises(NotFoundError, match=r"public\.absent"):
        connector.discover(["public.absent"])


def test_many_tables_are_discovered_with_keys_and_cursors(
    postgres: EmbeddedPostgres, database: Callable[[], str]
) -> None:
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text, "
            "updated_at timestamptz)', i); END LOOP; END $$"
        )
    tables = PostgresConnector("shop", PostgresConfig(**postgres.config(name))).discover()
    assert len(tables) == 500
    assert {table.primary_key for table in tables} == {("id",)}
    assert {table.cursor_candidates for table in tables} == {("updated_at",)}
