"""Every value through both readers: what the contract declares, or exact text; nothing changes in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from assets.sources.interface import UNFIT_COLUMN, CarefulReadNeeded
from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import PostgresConfig
from assets.sync import WindowPlan
from assets.types import types_page
from orchestration.embedded_postgres import EmbeddedPostgres

# (type, value as SQL, what Bronze holds); a plain value: stored typed
TYPED: list[tuple[str, str, Any]] = [
    ("bool", "true", True),
    ("int2", "-32768", -32768),
    ("int4", "2147483647", 2147483647),
    ("int8", "-9223372036854775808", -9223372036854775808),
    ("oid", "4294967295", 4294967295),
    ("float4", "1.1", pytest.approx(1.1, rel=1e-7)),
    ("float8", "0.1", 0.1),
    ("float8", "'Infinity'", float("inf")),
    ("numeric(12,2)", "-9999999999.99", Decimal("-9999999999.99")),
    ("numeric(38,0)", "99999999999999999999999999999999999999", Decimal("9" * 38)),
    ("numeric(38,38)", "0.00000000000000000000000000000000000001", Decimal("1e-38")),
    ("money", "'-92233720368547758.08'", Decimal("-92233720368547758.08")),
    ("date", "'0001-01-01'", date(1, 1, 1)),
    ("date", "'9999-12-31'", date(9999, 12, 31)),
    ("timestamp", "'0001-01-01 00:00:00'", datetime(1, 1, 1)),
    ("timestamp", "'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("timestamptz", "'2026-03-29 02:30:00.000001+01'", datetime(2026, 3, 29, 1, 30, 0, 1, UTC)),
    ("bytea", r"'\x00ff'", b"\x00\xff"),
    ("bytea", "''", b""),
    ("text", "''", ""),
    ("text", "'NULL'", "NULL"),
    ("text", r"E'a\tb\nc\r\n\\.\"\'ü🚰'", "a\tb\nc\r\n\\.\"'ü🚰"),
    ("varchar(3)", "'a,b'", "a,b"),
    ("char(5)", "'ab'", "ab   "),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("numeric", "1.2300", "1.2300"),
    ("numeric", "'NaN'", "NaN"),
    ("numeric", "'-Infinity'", "-Infinity"),
    ("numeric(60,3)", "123456789012345678901234567890123456789012345678901234567.125", None),
    ("numeric(5,-2)", "1234567", "1234600"),
    ("numeric(3,5)", "0.00123", "0.00123"),
    ("time", "'24:00'", "24:00:00"),
    ("timetz", "'12:34:56.789+05:30'", "12:34:56.789+05:30"),
    ("interval", "'1 year 2 mons -3 days 04:05:06.7'", "1 year 2 mons -3 days +04:05:06.7"),
    ("json", """'{"a" : 12345678901234567890.1230}'""", '{"a" : 12345678901234567890.1230}'),
    ("jsonb", """'{"a" : 12345678901234567890.1230}'""", '{"a": 12345678901234567890.1230}'),
    ("mood", "'so so'", "so so"),
    ("name", "'x'", "x"),
    ('"char"', "'y'", "y"),
    ("int[]", "'[0:1]={1,NULL}'", "[0:1]={1,NULL}"),
    ("text[]", """'{{"a b",c},{"",NULL}}'""", '{{"a b",c},{"",NULL}}'),
    ("pair", "ROW(1, 'a b')", '(1,"a b")'),
    ("int4range", "'[1,5)'", "[1,5)"),
    ("tstzrange", "'[2026-01-01 00:00+00,)'", '["2026-01-01 00:00:00+00",)'),
    ("int4multirange", "'{[1,2),[5,7)}'", "{[1,2),[5,7)}"),
    ("bit(3)", "B'010'", "010"),
    ("varbit", "B'00101'", "00101"),
    ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    ("cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
    ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    ("tsvector", "'fat:2 cat'", "'cat' 'fat':2"),
    ("tsquery", "'fat & cat'", "'fat' & 'cat'"),
    ("point", "'(1.5,2)'", "(1.5,2)"),
    ("pg_lsn", "'16/B374D848'", "16/B374D848"),
    ("jsonpath", "'$.a'", '$."a"'),
    ("xid", "'5'", "5"),
    ("positive", "7", 7),
    ("positive_price", "1.50", Decimal("1.50")),
]
UNFIT = [
    ("numeric(10,2)", "'NaN'", "NaN"),
    ("date", "'infinity'", "infinity"),
    ("date", "'0044-03-15 BC'", "0044-03-15 BC"),
    ("date", "'10000-01-01'", "10000-01-01"),
    ("timestamp", "'-infinity'", "-infinity"),
    ("timestamp", "'0001-12-31 23:59:59.5 BC'", "0001-12-31 23:59:59.5 BC"),
    ("timestamptz", "'294276-12-31 00:00+00'", "294276-12-31 00:00:00+00"),
]


def read_table(connector: PostgresConnector, careful: bool) -> tuple[list[dict[str, Any]], str, int]:
    (table,) = connector.discover(["public.t"])
    with connector.open_read(WindowPlan(table=table, mode="full")) as read:
        if careful:
            rows = [row for batch in read.careful_batches() for row in batch.to_pylist()]
        else:
            rows = [row for batch in read.batches() for row in batch.to_pylist()]
        return rows, read.reader, read.unfit_values


@pytest.fixture(autouse=True)
def fast_reader_for_small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.sources.postgres_read.FAST_FROM_BYTES", 0)


@pytest.fixture
def types_database(postgres: EmbeddedPostgres, database: Callable[[], str]) -> tuple[PostgresConnector, Any]:
    name = database()
    connection = postgres.connect(name, autocommit=True)
    for statement in (
        "CREATE TYPE mood AS ENUM ('sad', 'so so')",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE DOMAIN positive AS int CHECK (value > 0)",
        "CREATE DOMAIN price AS numeric(8, 2)",
        "CREATE DOMAIN positive_price AS price CHECK (value > 0)",
    ):
        connection.execute(statement)
    config = postgres.config(name)
    return PostgresConnector(
        "types", PostgresConfig(**{**config, "password": SecretStr(config["password"])})
    ), connection


def create(connection: Any, values: list[tuple[str, str, Any]]) -> None:
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _, _) in enumerate(values))
    connection.execute(f"CREATE TABLE t ({columns})")
    connection.execute(f"INSERT INTO t VALUES ({', '.join(value for _, value, _ in values)})")
    connection.execute(f"INSERT INTO t VALUES ({', '.join('NULL' for _ in values)})")


@pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])
def test_values_that_fit_are_exact_through_either_reader(
    types_database: tuple[PostgresConnector, Any], careful: bool
) -> None:
    connector, connection = types_database
    create(connection, TYPED)
    rows, reader, unfit = read_table(connector, careful)
    assert unfit == 0
    assert reader.startswith("text" if careful else "duckdb")
    nulls = [row for row in rows if row["c0"] is None]
    (row,) = [row for row in rows if row["c0"] is not None]
    assert all(value is None for value in nulls[0].values())
    for index, (kind, value, expected) in enumerate(TYPED):
        assert row[f"c{index}"] == (value if expected is None else expected), f"{kind} {value}"
    assert row[UNFIT_COLUMN] is None


@pytest.mark.parametrize(("kind", "value", "text"), UNFIT)
def test_a_value_that_fits_no_column_type_is_kept_as_text(
    types_database: tuple[PostgresConnector, Any], kind: str, value: str, text: str
) -> None:
    connector, connection = types_database
    create(connection, [(kind, value, None), ("int", "1", None)])
    with pytest.raises(CarefulReadNeeded):
        read_table(connector, careful=False)
    rows, _, unfit = read_table(connector, careful=True)
    (row,) = [row for row in rows if row["c1"] == 1]
    assert row["c0"] is None
    assert json.loads(row[UNFIT_COLUMN]) == {"c0": text}
    assert unfit == 1


def test_nan_in_floats_stays_nan(types_database: tuple[PostgresConnector, Any]) -> None:
    connector, connection = types_database
    create(connection, [("float8", "'NaN'", None), ("float4", "'NaN'", None), ("int", "1", None)])
    for careful in (False, True):
        (row,) = [row for row in read_table(connector, careful)[0] if row["c2"] == 1]
        assert row["c0"] != row["c0"]
        assert row["c1"] != row["c1"]


def test_the_types_page_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "types.md"
    assert page.read_text() == types_page()
