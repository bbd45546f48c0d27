"""Every type and its edge values: what the contract declares, exact text, or a refusal; by either form."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from assets.errors import UnsupportedTableError
from assets.sources.interface import UNFIT_COLUMN
from assets.sources.snowflake import SnowflakeConnector
from assets.sources.snowflake_arrow import ArrowParser, selected
from assets.sources.snowflake_catalogue import _table
from assets.sources.snowflake_connection import SnowflakeConfig
from assets.sources.snowflake_names import exact, natural, split_table_name, table_name
from assets.sync import Column, TableSync, WindowPlan
from assets.types import arrow_type, snowflake_contract
from assets.window_choice import choose_window
from tests.servers.snowflake_server import SnowflakeServer

# (type, value as SQL, what Bronze holds)
TYPED: list[tuple[str, str, Any]] = [
    ("NUMBER(1,0)", "-9", -9),
    ("NUMBER(18,0)", "999999999999999999", 999999999999999999),
    ("NUMBER(19,0)", "-9999999999999999999", Decimal("-9999999999999999999")),
    ("NUMBER(38,0)", "9" * 18, Decimal("9" * 18)),
    ("INT", "7", Decimal(7)),
    ("NUMBER(38,37)", "1." + "0" * 36 + "1", Decimal("1." + "0" * 36 + "1")),
    ("NUMBER(10,2)", "-0.05", Decimal("-0.05")),
    ("NUMBER(2,2)", "0.99", Decimal("0.99")),
    ("FLOAT", "0.1", 0.1),
    ("FLOAT", "1.7976931348623157e308", 1.7976931348623157e308),
    ("DOUBLE", "5e-324", 5e-324),
    ("REAL", "'inf'::FLOAT", math.inf),
    ("VARCHAR", "'a''b ü🚰'", "a'b ü🚰"),
    ("VARCHAR(10)", "''", ""),
    ("CHAR(3)", "'x'", "x"),
    ("STRING", "'NULL'", "NULL"),
    ("BOOLEAN", "TRUE", True),
    ("BINARY", "TO_BINARY('00FF5C', 'HEX')", b"\x00\xff\\"),
    ("DATE", "'0001-01-01'", date(1, 1, 1)),
    ("DATE", "'9999-12-31'", date(9999, 12, 31)),
    ("TIMESTAMP_NTZ", "'2026-03-29 02:30:00.123456'", datetime(2026, 3, 29, 2, 30, 0, 123456)),
    ("TIMESTAMP_NTZ", "'0001-01-01 00:00:00'", datetime(1, 1, 1)),
    ("TIMESTAMP_NTZ", "'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("DATETIME", "'1969-12-31 23:59:59.999999'", datetime(1969, 12, 31, 23, 59, 59, 999999)),
    ("TIMESTAMP_LTZ", "'2026-01-01 10:00:00.5'", datetime(2026, 1, 1, 10, 0, 0, 500000, UTC)),
    ("TIMESTAMP_TZ", "'2026-01-01 10:00:00'", datetime(2026, 1, 1, 10, tzinfo=UTC)),
    ("TIME", "'23:59:59.000001'", "23:59:59.000001"),
    ("VARIANT", """PARSE_JSON('{"a": [1, null, "x"]}')""", '{"a":[1,null,"x"]}'),
    ("OBJECT", "OBJECT_CONSTRUCT('k', 1)", '{"k":1}'),
    ("ARRAY", "ARRAY_CONSTRUCT(1, 2)", "[1,2]"),
]


@pytest.fixture
def types(snowflake_server: SnowflakeServer, snowflake_database: str) -> tuple[SnowflakeConnector, Any]:
    connector = SnowflakeConnector("types", SnowflakeConfig(**snowflake_server.config(snowflake_database)))
    return connector, lambda *statements: snowflake_server.execute(snowflake_database, *statements)


def read_table(connector: SnowflakeConnector, careful: bool, key: tuple[str, ...] = ()) -> list[Any]:
    (table,) = connector.discover(["public.t"])
    plan = WindowPlan(table=table, mode="full", key=key)
    with connector.open_verify(table) if careful else connector.open_read(plan) as read:
        rows = [row for batch in read.batches() for row in batch.to_pylist()]
        assert read.source_rows() == len(rows)
        assert read.unfit_values == sum(len(json.loads(row[UNFIT_COLUMN] or "{}")) for row in rows)
        return rows


def test_values_that_fit_are_exact_through_either_form(types: tuple[SnowflakeConnector, Any]) -> None:
    connector, execute = types
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _, _) in enumerate(TYPED))
    execute(
        f"CREATE TABLE t (id INT, {columns})",
        f"INSERT INTO t SELECT 1, {', '.join(value for _, value, _ in TYPED)}",
        f"INSERT INTO t SELECT 2, {', '.join('NULL' for _ in TYPED)}",
    )
    for careful in (False, True):
        row, nulls = sorted(read_table(connector, careful), key=lambda r: r["id"])
        for i, (kind, value, expected) in enumerate(TYPED):
            assert row[f"c{i}"] == expected, f"{kind} {value[:50]}"
            assert type(row[f"c{i}"]) is type(expected), f"{kind} {value[:50]}"
            assert nulls[f"c{i}"] is None, kind
        assert row[UNFIT_COLUMN] is None


# As a real account describes them; the stand-in does not know all of these types.
DECLARED = [
    ("NUMBER", 38, 0, "decimal128(38, 0)", '"C"'),
    ("NUMBER", 9, 0, "int64", '"C"'),
    ("NUMBER", 38, 38, "decimal128(38, 38)", '"C"'),
    ("FLOAT", None, None, "double", '"C"'),
    ("DECFLOAT", 38, None, "string", '"C"::VARCHAR'),
    ("TEXT", None, None, "string", '"C"'),
    ("BINARY", None, None, "binary", '"C"'),
    ("BOOLEAN", None, None, "bool", '"C"'),
    ("DATE", None, None, "date32[day]", "TO_VARCHAR(\"C\", 'YYYY-MM-DD')"),
    ("TIME", None, None, "string", "TO_VARCHAR(\"C\", 'HH24:MI:SS.FF9')"),
    ("TIMESTAMP_NTZ", None, None, "timestamp[us]", "TO_VARCHAR(\"C\", 'YYYY-MM-DD HH24:MI:SS.FF9')"),
    ("TIMESTAMP_LTZ", None, None, "timestamp[us, tz=UTC]", "TO_VARCHAR(\"C\", 'YYYY-MM-DD HH24:MI:SS.FF9')"),
    (
        "TIMESTAMP_TZ",
        None,
        None,
        "timestamp[us, tz=UTC]",
        "TO_VARCHAR(CONVERT_TIMEZONE('UTC', \"C\"), 'YYYY-MM-DD HH24:MI:SS.FF9')",
    ),
    ("VARIANT", None, None, "string", 'TO_JSON("C")'),
    ("OBJECT", None, None, "string", 'TO_JSON("C"::VARIANT)'),
    ("ARRAY", None, None, "string", 'TO_JSON("C"::VARIANT)'),
    ("MAP", None, None, "string", 'TO_JSON("C"::VARIANT)'),
    ("VECTOR", None, None, "string", 'TO_JSON("C"::ARRAY)'),
    ("GEOGRAPHY", None, None, "binary", 'ST_ASEWKB("C")'),
    ("GEOMETRY", None, None, "binary", 'ST_ASEWKB("C")'),
    ("UUID", None, None, "string", '"C"::VARCHAR'),
    ("INTERVAL DAY TO SECOND", None, None, "string", '"C"::VARCHAR'),
]


@pytest.mark.parametrize(("name", "precision", "scale", "becomes", "select"), DECLARED, ids=lambda v: str(v)[:24])
def test_each_type_has_a_declared_result_and_selection(
    name: str, precision: int | None, scale: int | None, becomes: str, select: str
) -> None:
    row = ("PUBLIC", "T", "BASE TABLE", 0, 0, None)
    table = _table(row, [("C", name, None, precision, scale, None, "YES")], ())
    (column,) = table.columns
    assert (column.name, column.arrow_type, selected(column), table.refusal) == ("c", becomes, select, None)
    assert snowflake_contract(name, precision, scale)[0] == becomes


def test_a_column_of_a_type_that_no_table_holds_is_left_out_by_name() -> None:
    row = ("PUBLIC", "T", "BASE TABLE", 0, 0, None)
    picture = ("PICTURE", "FILE", None, None, None, None, "YES")
    table = _table(row, [("ID", "NUMBER", None, 9, 0, None, "NO"), picture], ())
    assert ([c.name for c in table.columns], table.left_out, table.refusal) == (["id"], ("picture (FILE)",), None)
    work = TableSync(connector="c", table=table.name, run_group="g")
    choice = choose_window(work, SnowflakeConnector("c", None), table, None, bytes)
    assert choice.plan.reason.endswith("not read: picture (FILE)")
    alone = _table(row, [picture], ())
    assert alone.refusal is not None
    assert "picture (FILE)" in alone.refusal


def parsed(kind: str, values: pa.Array, key: tuple[str, ...] = ()) -> list[Any]:
    """Recorded values of a real account's result through the parser: value and what stands beside it."""
    becomes, rule = snowflake_contract(kind)
    column = Column(name="c", source_type=f"{kind}(9)", arrow_type=becomes, rule=rule)
    schema = pa.schema([pa.field("c", arrow_type(becomes)), pa.field(UNFIT_COLUMN, pa.string())])
    batch = ArrowParser("x/t", [column], schema, key).batch([values])
    return [(row["c"], json.loads(row[UNFIT_COLUMN] or "{}").get("c")) for row in batch.to_pylist()]


def test_numbers_of_38_digits_come_in_whatever_width_the_server_sends() -> None:
    column = Column(name="c", source_type="NUMBER(38,2)", arrow_type="decimal128(38, 2)")
    schema = pa.schema([pa.field("c", pa.decimal128(38, 2)), pa.field(UNFIT_COLUMN, pa.string())])
    longest = Decimal("9" * 36 + ".99")
    for sent in (
        pa.array([longest, None], pa.decimal128(38, 2)),
        pa.array([str(longest), None]),
    ):
        batch = ArrowParser("x/t", [column], schema).batch([sent])
        assert batch.column(0).to_pylist() == [longest, None]
    for width in (pa.int8(), pa.int16(), pa.int32(), pa.int64()):
        batch = ArrowParser("x/t", [column], schema).batch([pa.array([-7], width)])
        assert batch.column(0).to_pylist() == [Decimal("-7.00")]


def test_views_and_external_tables_are_told_from_tables() -> None:
    column = ("C", "TEXT", None, None, None, None, "YES")
    kinds = [("BASE TABLE", "table"), ("VIEW", "view"), ("MATERIALIZED VIEW", "materialized_view")]
    for table_type, kind in [*kinds, ("EXTERNAL TABLE", "foreign")]:
        table = _table(("PUBLIC", "T", table_type, None, None, None), [column], ())
        assert (table.kind, table.by_default) == (kind, kind == "table")


def test_nanoseconds_and_far_years_are_kept_as_text() -> None:
    texts = [
        "2026-01-01 00:00:00.123456789",
        "2026-01-01 00:00:00.123456000",
        "9999-12-31 23:59:59.999999000",
        "0000-12-31 00:00:00.000000000",
        "10000-01-01 00:00:00.000000000",
        None,
    ]
    assert parsed("TIMESTAMP_NTZ", pa.array(texts)) == [
        (None, texts[0]),
        (datetime(2026, 1, 1, 0, 0, 0, 123456), None),
        (datetime(9999, 12, 31, 23, 59, 59, 999999), None),
        (None, texts[3]),
        (None, texts[4]),
        (None, None),
    ]
    assert parsed("DATE", pa.array(["2024-02-29", "99999-01-01"])) == [(date(2024, 2, 29), None), (None, "99999-01-01")]
    with pytest.raises(UnsupportedTableError, match="key column c"):
        parsed("TIMESTAMP_LTZ", pa.array(texts[:1]), key=("c",))


@pytest.mark.parametrize(
    "column", ["ID", "id", "Id", "ORDER ID", "order id", 'a"b', '"q"', "ÄB", "äb", "A.B", "_1", "$X", "1A"]
)
def test_every_name_comes_back(column: str) -> None:
    assert exact(natural(column)) == column
    assert split_table_name(table_name(column, "T")) == (column, "T")
    assert split_table_name(table_name("PUBLIC", column)) == ("PUBLIC", column)


def test_names_that_differ_in_case_only_stay_apart() -> None:
    names = ["ID", "id", "Id", '"id"', "iD"]
    assert len({natural(name) for name in names}) == len(names)
    assert natural("UPDATED_AT") == "updated_at"
