"""Each missing prerequisite is its own failed check, with the statement that fixes it, and never the password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.errors import HeadraceError, NotFoundError, SourceAccessError, SourceUnreachableError
from assets.sources.mysql import MysqlConnector
from assets.sources.mysql_connection import MysqlConfig
from tests.servers.mariadb_server import MariadbServer

CANARY = "canary-9f3b-password"


@pytest.fixture
def reader(mariadb: MariadbServer, mariadb_database: str) -> Iterator[dict[str, Any]]:
    """The config of a login without any grant, on a database with two tables."""
    user = f"r_{mariadb_database}"
    mariadb.execute(mariadb_database, "CREATE TABLE secret (id int PRIMARY KEY)", "CREATE TABLE orders (id int)")
    mariadb.execute(None, f"CREATE USER {user} IDENTIFIED BY '{CANARY}'")
    yield {**mariadb.config(mariadb_database), "user": user, "password": CANARY}
    mariadb.execute(None, f"DROP USER {user}")


def check(config: dict[str, Any]) -> dict[str, Any]:
    results = MysqlConnector("shop", MysqlConfig(**config)).check()
    assert CANARY not in repr(results)
    return {result.name: result for result in results}


def failed(config: dict[str, Any]) -> tuple[str, str, str]:
    first = next(result for result in check(config).values() if not result.ok)
    assert first.fix
    return first.name, first.detail, first.fix


def test_a_wrong_host_port_or_socket_fails_the_network_check(reader: dict[str, Any], tmp_path: Path) -> None:
    assert failed({**reader, "host": "no-such-host.invalid"})[0] == "network"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert failed({**reader, "port": unused.getsockname()[1]})[0] == "network"
    assert failed({**reader, "unix_socket": str(tmp_path / "absent")})[0] == "network"


def test_a_server_that_never_answers_fails_within_its_time_limit(reader: dict[str, Any]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not check({**reader, "port": silent.getsockname()[1], "connect_timeout": 2})["login"].ok


def test_a_wrong_password_fails_the_login_check(reader: dict[str, Any]) -> None:
    assert failed({**reader, "password": f"{CANARY}-wrong"})[0] == "login"


def test_tls_is_checked_by_its_mode(reader: dict[str, Any], mariadb: MariadbServer, tmp_path: Path) -> None:
    name, _, fix = failed({**reader, "tls": "verify-full"})
    assert (name, "tls_ca" in fix) == ("tls", True)
    for mode in ("prefer", "require", "verify-ca", "verify-full"):
        assert check({**reader, "tls": mode, "tls_ca": str(mariadb.ca_file)})["login"].ok, mode
    assert failed({**reader, "tls": "verify-ca", "tls_ca": str(tmp_path / "absent.pem")})[0] == "tls"


def test_grants_are_named_as_the_statements_that_give_them(
    reader: dict[str, Any], mariadb: MariadbServer, mariadb_database: str
) -> None:
    name, _, fix = failed(reader)
    assert name == "database"
    grant = f"GRANT SELECT ON `{mariadb_database}`.* TO '{reader['user']}'@'%';"
    assert grant in fix.splitlines()
    mariadb.execute(mariadb_database, f"GRANT INSERT ON orders TO {reader['user']}")
    assert failed(reader) == ("grants", f"no SELECT on 1 tables of {mariadb_database}, for example orders", grant)
    mariadb.execute(None, grant)
    name, detail, fix = failed(reader)
    assert name == "late commits"
    assert "60 s" in detail
    mariadb.execute(None, fix)
    assert all(result.ok for result in check(reader).values())
    assert failed({**reader, "cdc": True})[0] == "replication grants"
    mariadb.execute(None, failed({**reader, "cdc": True})[2])
    assert all(result.ok for result in check({**reader, "cdc": True}).values())


def test_binlog_settings_that_cdc_needs_are_named(reader: dict[str, Any], mariadb: MariadbServer) -> None:
    mariadb.execute(None, "SET GLOBAL binlog_row_image = 'MINIMAL'")
    try:
        result = check({**mariadb.config(reader["databases"][0]), "cdc": True})["binlog"]
    finally:
        mariadb.execute(None, "SET GLOBAL binlog_row_image = 'FULL'")
    assert (result.ok, result.fix) == (False, "SET GLOBAL binlog_row_image = 'FULL';")


def test_a_large_table_without_an_index_on_its_cursor_is_named(mariadb: MariadbServer, mariadb_database: str) -> None:
    mariadb.execute(
        mariadb_database,
        "CREATE TABLE big (id int PRIMARY KEY, updated_at datetime)",
        "INSERT INTO big SELECT seq, now() FROM seq_1_to_150000",
        "ANALYZE TABLE big",
    )
    result = check(mariadb.config(mariadb_database))["cursor index"]
    assert result.fix == f"CREATE INDEX `headrace_updated_at` ON `{mariadb_database}`.`big` (`updated_at`);"
    mariadb.execute(mariadb_database, result.fix)
    assert check(mariadb.config(mariadb_database))["cursor index"].ok


def test_the_unix_socket_serves_as_well(mariadb: MariadbServer, mariadb_database: str) -> None:
    config = {**mariadb.config(mariadb_database), "unix_socket": mariadb.socket, "password": ""}
    assert all(result.ok for result in check(config).values() if result.name in ("network", "tls", "login"))


def test_errors_are_typed_and_hold_no_password(reader: dict[str, Any]) -> None:
    cases: list[tuple[dict[str, Any], type[HeadraceError]]] = [
        ({"password": f"{CANARY}-wrong"}, SourceAccessError),
        ({"port": 1}, SourceUnreachableError),
        ({"tls": "verify-full"}, SourceAccessError),
    ]
    for change, expected in cases:
        with pytest.raises(expected) as caught:
            MysqlConnector("shop", MysqlConfig(**{**reader, **change})).discover()
        assert CANARY not in str(caught.value)
        assert caught.value.retryable is (expected is SourceUnreachableError)
    connector = MysqlConnector("shop", MysqlConfig(**reader))
    assert CANARY not in repr(connector.config)
    with pytest.raises(NotFoundError, match=r"shop\.absent"):
        connector.discover(["shop.absent"])


def test_many_tables_are_discovered_with_keys_and_cursors(mariadb: MariadbServer, mariadb_database: str) -> None:
    statements = [f"CREATE TABLE t{i} (b int, a int, updated_at datetime, PRIMARY KEY (a, b))" for i in range(200)]
    mariadb.execute(mariadb_database, *statements, "CREATE VIEW v AS SELECT * FROM t1", "CREATE SEQUENCE s")
    tables = MysqlConnector("shop", MysqlConfig(**mariadb.config(mariadb_database))).discover()
    assert len(tables) == 201
    assert {t.primary_key for t in tables if t.kind == "table"} == {("b", "a")}
    assert {t.cursor_candidates for t in tables} == {("updated_at",)}
    assert [t.kind for t in tables if t.table_name == "v"] == ["view"]


def test_a_probe_differs_once_a_table_changed(mariadb: MariadbServer, mariadb_database: str) -> None:
    mariadb.execute(mariadb_database, "CREATE TABLE p (id int PRIMARY KEY)")
    connector = MysqlConnector("shop", MysqlConfig(**mariadb.config(mariadb_database)))
    name = f"{mariadb_database}.p"
    before = connector.probe([name])
    assert connector.probe([name]) == before
    mariadb.execute(mariadb_database, "INSERT INTO p VALUES (1)")
    assert connector.probe([name]) != before


def test_a_view_counts_as_changed_once_anything_was_committed(mariadb: MariadbServer, mariadb_database: str) -> None:
    mariadb.execute(mariadb_database, "CREATE TABLE p (id int PRIMARY KEY)", "CREATE VIEW v AS SELECT * FROM p")
    connector = MysqlConnector("shop", MysqlConfig(**mariadb.config(mariadb_database)))
    name = f"{mariadb_database}.v"
    before = connector.probe([name])
    mariadb.execute(mariadb_database, "SELECT count(*) FROM v", "CREATE TEMPORARY TABLE x AS SELECT * FROM p")
    assert connector.probe([name]) == before
    mariadb.execute(mariadb_database, "INSERT INTO p VALUES (1)")
    assert connector.probe([name]) != before
