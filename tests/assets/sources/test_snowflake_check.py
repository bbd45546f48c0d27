"""Each missing prerequisite is its own failed check, with the statement that fixes it, and never a credential."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from assets.errors import (
    ConfigurationError,
    HeadraceError,
    NotFoundError,
    SourceAccessError,
    SourceUnreachableError,
    UrlRefusedError,
)
from assets.sources import snowflake_catalogue, snowflake_check
from assets.sources.snowflake import SnowflakeConnector
from assets.sources.snowflake_connection import SnowflakeConfig
from tests.servers.snowflake_server import SnowflakeServer

CANARY = "canary-7d1e-password"
CHECKS = ["network", "login", "role", "warehouse", "database", "grants", "cursor columns"]
DENIED = "SQL access control error:\nInsufficient privileges to operate on table 'SECRET'"


def private_key(phrase: str | None = None) -> tuple[str, str]:
    """A key pair in PEM form: private, public."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encryption = serialization.BestAvailableEncryption(phrase.encode()) if phrase else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


@pytest.fixture
def reader(snowflake_server: SnowflakeServer, snowflake_database: str) -> dict[str, Any]:
    """The config of a login of its own, on a database with two tables."""
    snowflake_server.execute(
        snowflake_database, "CREATE TABLE secret (id INT PRIMARY KEY)", "CREATE TABLE orders (id INT)"
    )
    snowflake_server.add_user("CHECKED", password=CANARY)
    return snowflake_server.config(snowflake_database, user="checked", password=CANARY)


def check(config: dict[str, Any]) -> dict[str, Any]:
    results = SnowflakeConnector("shop", SnowflakeConfig(**config)).check()
    assert CANARY not in repr(results)
    assert [result.name for result in results][: len(CHECKS)] == CHECKS
    return {result.name: result for result in results}


def failed(config: dict[str, Any]) -> tuple[str, str, str]:
    first = next(result for result in check(config).values() if not result.ok)
    assert first.fix
    return first.name, first.detail, first.fix


def test_every_check_passes_where_nothing_is_missing(reader: dict[str, Any]) -> None:
    assert [(r.name, r.detail) for r in check(reader).values() if not r.ok] == []


def test_a_wrong_port_or_name_fails_the_network_check(reader: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert failed({**reader, "port": unused.getsockname()[1]})[0] == "network"
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1,no-such-host.invalid")
    assert failed({**reader, "host": "no-such-host.invalid"})[0] == "network"


def test_a_private_host_is_refused_unless_it_is_allowed(
    reader: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_URL_ALLOW")
    name, detail, fix = failed(reader)
    assert name == "network"
    assert "loopback" in detail
    assert "HEADRACE_URL_ALLOW" in fix
    with pytest.raises(UrlRefusedError):
        SnowflakeConnector("shop", SnowflakeConfig(**reader)).discover()


def test_a_wrong_credential_of_each_kind_fails_the_login(
    reader: dict[str, Any], snowflake_server: SnowflakeServer
) -> None:
    bare = {name: value for name, value in reader.items() if name != "password"}
    private, public = private_key("open-sesame")
    other, _ = private_key()
    snowflake_server.add_user("CHECKED", password=CANARY, public_key=public, token=f"{CANARY}-token")
    right = {"private_key": private, "private_key_passphrase": "open-sesame"}
    assert all(result.ok for result in check({**bare, **right}).values())
    assert all(result.ok for result in check({**bare, "token": f"{CANARY}-token"}).values())
    assert failed({**reader, "password": f"{CANARY}-wrong"})[0] == "login"
    name, _, fix = failed({**bare, "private_key": other})
    assert (name, fix) == (
        "login",
        "ALTER USER \"CHECKED\" SET RSA_PUBLIC_KEY = '<the public key without its first and last line>';",
    )
    assert failed({**bare, **right, "private_key_passphrase": "wrong"})[0] == "login"
    assert failed({**bare, "token": f"{CANARY}-expired"})[2].startswith("Renew `token`")


@pytest.mark.parametrize(
    ("change", "name", "fix"),
    [
        ({"role": "absent"}, "role", 'GRANT ROLE "ABSENT" TO USER "CHECKED";'),
        ({"warehouse": '"Absent"'}, "warehouse", 'GRANT USAGE ON WAREHOUSE "Absent" TO ROLE "READER";'),
        ({"database": "absent"}, "database", 'GRANT USAGE ON DATABASE "ABSENT" TO ROLE "READER";'),
        ({"schemas": ["absent"]}, "database", 'GRANT USAGE ON SCHEMA "{database}"."ABSENT" TO ROLE "READER";'),
    ],
)
def test_what_was_not_granted_is_named_with_its_grant(
    reader: dict[str, Any], change: dict[str, Any], name: str, fix: str
) -> None:
    found = failed({**reader, **change})
    assert found[0] == name
    assert fix.format(database=reader["database"]) in found[2]
    later = CHECKS[CHECKS.index(name) + 1 :]
    assert all(check({**reader, **change})[each].detail == f"not tried: {name} failed" for each in later)


def test_a_user_without_any_warehouse_fails_the_warehouse_check(
    reader: dict[str, Any], snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.add_user("CHECKED", password=CANARY, warehouse=None)
    name, _, fix = failed({**reader, "warehouse": None})
    assert (name, "SET DEFAULT_WAREHOUSE" in fix) == ("warehouse", True)


def test_tables_that_may_not_be_read_fail_the_grants_check(
    reader: dict[str, Any], snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.set_rules({"match": 'FROM .*"SECRET" LIMIT 0', "error": [3001, DENIED, "42501"]})
    name, detail, fix = failed(reader)
    assert (name, "public.secret" in detail) == ("grants", True)
    assert f'GRANT SELECT ON ALL TABLES IN SCHEMA "{reader["database"]}"."PUBLIC" TO ROLE "READER";' in fix


def test_a_large_table_without_a_cursor_fails_its_check(
    reader: dict[str, Any], snowflake_server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snowflake_check, "LARGE_ROWS", 2)
    snowflake_server.execute(reader["database"], "INSERT INTO orders VALUES (1), (2), (3)")
    name, detail, fix = failed(reader)
    assert (name, "public.orders" in detail) == ("cursor columns", True)
    assert f'ALTER TABLE "{reader["database"]}"."PUBLIC"."ORDERS" SET CHANGE_TRACKING = TRUE;' in fix
    assert check({**reader, "cdc": True})["cursor columns"].ok


def test_untracked_changes_fail_the_change_tracking_check(
    reader: dict[str, Any], snowflake_server: SnowflakeServer
) -> None:
    result = check({**reader, "cdc": True})["change tracking"]
    assert not result.ok
    assert f'ALTER TABLE "{reader["database"]}"."PUBLIC"."SECRET" SET CHANGE_TRACKING = TRUE;' in result.fix


def test_errors_are_typed_and_hold_no_credential(
    reader: dict[str, Any], snowflake_server: SnowflakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    private, _ = private_key()
    bare = {name: value for name, value in reader.items() if name != "password"}
    cases: list[tuple[dict[str, Any], type[HeadraceError]]] = [
        ({**reader, "password": f"{CANARY}-wrong"}, SourceAccessError),
        ({**reader, "role": "absent"}, SourceAccessError),
        ({**bare, "private_key": private}, SourceAccessError),
        ({**bare, "private_key": f"{CANARY} is no key"}, ConfigurationError),
        ({**bare, "token": f"{CANARY}-token"}, SourceAccessError),
        ({**reader, "port": 1, "connect_timeout": 1}, SourceUnreachableError),
    ]
    for config, expected in cases:
        with pytest.raises(expected) as caught:
            SnowflakeConnector("shop", SnowflakeConfig(**config)).discover()
        assert caught.value.retryable is (expected is SourceUnreachableError)
        told = f"{caught.value} {SnowflakeConfig(**config)!r} {caplog.text}"
        assert CANARY not in told
        assert private.splitlines()[5] not in told
    with pytest.raises(NotFoundError, match=r"public\.absent"):
        SnowflakeConnector("shop", SnowflakeConfig(**reader)).discover(["public.absent"])


@pytest.mark.parametrize(
    "change",
    [
        {"token": "two credentials"},
        {"password": None},
        {"account": "evil.example/#"},
        {"host": None, "protocol": "http"},
        {"private_key_passphrase": "without a key"},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"account": "a", "user": "u", "password": CANARY, "database": "d"}
    SnowflakeConfig(**good)
    with pytest.raises(ValidationError):
        SnowflakeConfig(**{**good, **change})


def test_tables_are_discovered_by_few_statements_with_keys_and_cursors(
    snowflake_server: SnowflakeServer, snowflake_database: str
) -> None:
    statements = [f"CREATE TABLE t{i} (b INT, a INT, updated_at TIMESTAMP_NTZ, PRIMARY KEY (a, b))" for i in range(30)]
    snowflake_server.execute(snowflake_database, *statements)
    connector = SnowflakeConnector("shop", SnowflakeConfig(**snowflake_server.config(snowflake_database)))
    snowflake_server.forget_statements()
    tables = connector.discover()
    assert len([s for s in snowflake_server.statements() if "SELECT" in s or "SHOW" in s]) == 3
    assert len(tables) == 30
    assert {frozenset(t.primary_key) for t in tables} == {frozenset({"a", "b"})}
    assert {t.cursor_candidates for t in tables} == {("updated_at",)}


def test_a_catalogue_too_large_for_one_answer_is_read_schema_by_schema(
    snowflake_server: SnowflakeServer, snowflake_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snowflake_server.execute(
        snowflake_database,
        "CREATE TABLE t (id INT)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.x (id INT PRIMARY KEY)",
    )
    text = "Information schema query returned too much data. Please repeat query with more selective predicates."
    snowflake_server.set_rules({"match": r"columns WHERE table_schema <>", "error": [90030, text, "22000"]})
    monkeypatch.setattr(snowflake_catalogue, "SHOWN_ROWS", 1)
    config = snowflake_server.config(snowflake_database, schemas=None)
    tables = SnowflakeConnector("shop", SnowflakeConfig(**config)).discover()
    assert [(t.name, t.primary_key) for t in tables] == [("other.x", ("id",)), ("public.t", ())]


def test_a_probe_differs_once_a_table_was_altered_and_always_for_views(
    snowflake_server: SnowflakeServer, snowflake_database: str
) -> None:
    snowflake_server.execute(snowflake_database, "CREATE TABLE p (id INT)", "CREATE VIEW v AS SELECT * FROM p")
    connector = SnowflakeConnector("shop", SnowflakeConfig(**snowflake_server.config(snowflake_database)))
    before = connector.probe(["public.p"])
    assert connector.probe(["public.p"]) == before
    # the stand-in knows no times of change
    snowflake_server.set_rules({"match": r"last_altered::varchar", "replace": "'2026-11-24 10:00:00'"})
    assert connector.probe(["public.p"]) != before
    assert connector.probe(["public.v"]) != connector.probe(["public.v"])
