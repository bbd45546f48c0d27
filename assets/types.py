"""The type contract: what each source type becomes, and why. ``docs/types.md`` is made from the tables here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Rule = Literal[
    "typed",
    "text",
    "padded",
    "integer",
    "money",
    "real",
    "bits",
    "bytes",
    "converted",
    "moment",
    "instant",
    "json",
    "ewkb",
]
"""How a column is selected: as it is, as text, as text with its blanks, as int8, as a decimal. On MySQL also: a float
with all its digits, a bit field in binary digits, bytes as they are, text that the server converts from another
character set (and tells which values it could not). On Snowflake also: a time in digits, an instant in UTC in digits,
JSON text, a shape as EWKB."""

_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)\Z")


@lru_cache(maxsize=512)
def arrow_type(text: str) -> pa.DataType:
    """Parse a contract type: ``int64``, ``decimal128(12, 2)``, ``timestamp[us]``, ``timestamp[us, tz=UTC]``, ...

    Raises:
        ValueError: the text names no type of the contract.
    """
    import pyarrow as pa

    if match := _DECIMAL.match(text):
        return pa.decimal128(int(match[1]), int(match[2]))
    known = {
        "bool": pa.bool_(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "date32[day]": pa.date32(),
        "timestamp[us]": pa.timestamp("us"),
        "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
    }
    if text not in known:
        raise ValueError(f"no type of the contract: {text}")
    return known[text]


@dataclass(frozen=True)
class TypeRule:
    """One row of the contract."""

    source: str
    becomes: str
    why: str
    rule: Rule = "typed"


UNFIT = "NULL in the column, the exact text in `_headrace_unfit`"

POSTGRES: tuple[TypeRule, ...] = (
    TypeRule("bool", "bool", "the same"),
    TypeRule("int2", "int16", "the same"),
    TypeRule("int4", "int32", "the same"),
    TypeRule("int8", "int64", "the same"),
    TypeRule("oid", "int64", "unsigned 32 bits fit", "integer"),
    TypeRule("float4", "float", "the same bits; NaN and infinities stay"),
    TypeRule("float8", "double", "the same bits; NaN and infinities stay"),
    TypeRule("numeric", "decimal128(p, s)", f"declared with p <= 38 and 0 <= s <= p; NaN: {UNFIT}"),
    TypeRule(
        "money", "decimal128(19, s)", "int64 cents; s is the server's lc_monetary, the symbol is not kept", "money"
    ),
    TypeRule("date", "date32[day]", f"years 1 to 9999; infinity, BC and later years: {UNFIT}"),
    TypeRule("timestamp", "timestamp[us]", f"without zone; years 1 to 9999; infinity, BC and later years: {UNFIT}"),
    TypeRule("timestamptz", "timestamp[us, tz=UTC]", f"years 1 to 9999; infinity, BC and later years: {UNFIT}"),
    TypeRule("bytea", "binary", "the same bytes"),
    TypeRule("text", "string", "the same"),
    TypeRule("varchar", "string", "the same"),
    TypeRule("bpchar", "string", "its padding blanks are kept", "padded"),
    TypeRule("uuid", "string", "lower case with hyphens", "text"),
)
POSTGRES_TEXT = (
    (
        "numeric without precision, with more than 38 digits, or with a scale below 0 or above the precision",
        "Delta holds 38 digits",
    ),
    ("time, timetz", "Delta has no time type; 24:00 and offsets stay"),
    ("interval", "months, days and seconds do not convert into each other"),
    ("json, jsonb", "numbers of any size and json's own spelling stay"),
    ('enum, name, "char", citext', "text already"),
    ("arrays", "bounds, dimensions and NULLs stay; PostgreSQL does not declare dimensions"),
    ("composite types, ranges, multiranges", "Delta has no such type"),
    ("bit, varbit", "leading zeros stay"),
    ("inet, cidr, macaddr, macaddr8", "masks stay; inet always has one: 10.1.2.3/32"),
    (
        "xml, tsvector, tsquery, jsonpath, pg_lsn, xid, geometric types, hstore, every type of an extension",
        "as PostgreSQL prints them",
    ),
)
_BY_NAME = {rule.source: rule for rule in POSTGRES}


def postgres_contract(
    type_name: str, modifier: int, *, built_in: bool = True, money_scale: int | None = 2
) -> tuple[str, Rule]:
    """What a PostgreSQL type becomes: the contract type as text, and how it is selected.

    Args:
        type_name: ``pg_type.typname`` of the base type (domains resolved).
        modifier: ``atttypmod``, -1 for none.
        built_in: whether the type lives in ``pg_catalog``; a user's type of the same name is text.
        money_scale: fractional digits of the server's ``lc_monetary``; None where they are unknown.
    """
    rule = _BY_NAME.get(type_name) if built_in else None
    if rule is None:
        return "string", "text"
    if type_name == "numeric":
        precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
        scale = scale - 2048 if scale > 1023 else scale  # an 11-bit signed number since PostgreSQL 15
        if modifier < 4 or precision > 38 or not 0 <= scale <= precision:
            return "string", "text"
        return f"decimal128({precision}, {scale})", "typed"
    if type_name == "money":
        return ("string", "text") if money_scale is None else (f"decimal128(19, {money_scale})", "money")
    return rule.becomes, rule.rule


MYSQL: tuple[TypeRule, ...] = (
    TypeRule("tinyint", "int16", "the same, 7 in a tinyint(1) too; unsigned fits as well"),
    TypeRule("smallint", "int16", "the same; unsigned: int32"),
    TypeRule("mediumint", "int32", "the same; unsigned fits as well"),
    TypeRule("int", "int32", "the same; unsigned: int64"),
    TypeRule("bigint", "int64", "the same; unsigned: decimal128(20, 0)"),
    TypeRule("decimal", "decimal128(p, s)", "declared with p <= 38; more digits: string, ZEROFILL with all its zeros"),
    TypeRule("float", "float", "the same bits, not the six digits that MySQL prints", "real"),
    TypeRule("double", "double", "the same bits, with a declared scale too", "real"),
    TypeRule("year", "int16", "0 or 1901 to 2155; a year(2) as MySQL shows it"),
    TypeRule("date", "date32[day]", f"years 1 to 9999; zero and invalid dates: {UNFIT}"),
    TypeRule("datetime", "timestamp[us]", f"without zone; zero and invalid ones: {UNFIT}"),
    TypeRule("timestamp", "timestamp[us, tz=UTC]", f"zero: {UNFIT}"),
    TypeRule("binary", "binary", "the same bytes, padding zeros kept", "bytes"),
    TypeRule("varbinary", "binary", "the same bytes", "bytes"),
    TypeRule("tinyblob", "binary", "the same bytes", "bytes"),
    TypeRule("blob", "binary", "the same bytes", "bytes"),
    TypeRule("mediumblob", "binary", "the same bytes", "bytes"),
    TypeRule("longblob", "binary", "the same bytes", "bytes"),
    TypeRule("vector", "binary", "its 32-bit floats, little-endian", "bytes"),
    TypeRule("bit", "string", "its binary digits, leading zeros stay", "bits"),
)
MYSQL_GEOMETRY = frozenset(
    ["geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"]
    + ["geometrycollection", "geomcollection"]
)
MYSQL_TEXT = (
    (
        "char, varchar, tinytext, text, mediumtext, longtext",
        "UTF-8, whatever the column's character set; a value that does not convert: " + UNFIT + ", as hex",
    ),
    ("enum, set", "the members' names; a set's with commas between"),
    ("json", "MySQL: as the server prints it; MariaDB: as it was stored"),
    ("time", "Delta has no time type; -838:59:59 to 838:59:59 stay"),
    ("uuid, inet4, inet6, every other type", "as the server prints them"),
    ("decimal with more than 38 digits", "Delta holds 38 digits"),
)
_MYSQL = {rule.source: rule for rule in MYSQL}
_UNSIGNED = {"smallint": "int32", "int": "int64", "bigint": "decimal128(20, 0)"}
# each of their values has a UTF-8 form, and bytes (members of an enum may be of `binary`) are sent as they are
MYSQL_UNICODE = frozenset([None, "utf8", "utf8mb3", "utf8mb4", "latin1", "binary"])


def mysql_contract(
    type_name: str, column_type: str, precision: int | None = None, scale: int | None = None, charset: str | None = None
) -> tuple[str, Rule]:
    """What a MySQL or MariaDB type becomes: the contract type as text, and how it is selected.

    Args:
        type_name: ``information_schema.columns.data_type``.
        column_type: the full type, such as ``int(10) unsigned``.
        charset: the column's character set, where it has one.
    """
    type_name = type_name.lower()
    if type_name in MYSQL_GEOMETRY:
        return "binary", "bytes"
    rule = _MYSQL.get(type_name)
    if rule is None:
        return "string", "text" if charset in MYSQL_UNICODE else "converted"
    if type_name == "decimal":
        if precision is None or scale is None or precision > 38:
            return "string", "text"
        return f"decimal128({precision}, {scale})", "typed"
    if type_name in _UNSIGNED and "unsigned" in column_type.lower():
        return _UNSIGNED[type_name], "typed"
    return rule.becomes, rule.rule


SNOWFLAKE: tuple[TypeRule, ...] = (
    TypeRule("NUMBER(p, 0), p <= 18", "int64", "the same"),
    TypeRule("NUMBER(p, s)", "decimal128(p, s)", "the same; INT, BIGINT and the like are NUMBER(38, 0)"),
    TypeRule("FLOAT", "double", "the same bits; NaN and infinities stay"),
    TypeRule("TEXT", "string", "VARCHAR, CHAR, STRING and the like: the same"),
    TypeRule("BOOLEAN", "bool", "the same"),
    TypeRule("BINARY", "binary", "the same bytes"),
    TypeRule("DATE", "date32[day]", f"years 1 to 9999; others: {UNFIT}"),
    TypeRule(
        "TIMESTAMP_NTZ", "timestamp[us]", f"a fraction below a microsecond, other years: {UNFIT}, nine digits", "moment"
    ),
    TypeRule("TIMESTAMP_LTZ", "timestamp[us, tz=UTC]", "the instant; as above", "moment"),
    TypeRule("TIMESTAMP_TZ", "timestamp[us, tz=UTC]", "the instant, its offset is not kept; as above", "instant"),
    TypeRule("VARIANT", "string", "compact JSON; the JSON value null is the text `null`", "json"),
    TypeRule("OBJECT", "string", "compact JSON, structured ones too", "json"),
    TypeRule("ARRAY", "string", "compact JSON, structured ones too", "json"),
    TypeRule("MAP", "string", "compact JSON", "json"),
    TypeRule("VECTOR", "string", "a JSON array of its elements", "json"),
    TypeRule("GEOGRAPHY", "binary", "EWKB, the SRID in it", "ewkb"),
    TypeRule("GEOMETRY", "binary", "EWKB, the SRID in it", "ewkb"),
)
SNOWFLAKE_TEXT = (
    ("TIME", "Delta has no time type; as many fractional digits as declared"),
    ("DECFLOAT", "38 digits with an exponent of their own"),
    ("UUID, INTERVAL, every other type", "as the server casts them to VARCHAR"),
)
SNOWFLAKE_LEFT_OUT = frozenset(["FILE", "UNSTRUCTURED"])
_SNOWFLAKE = {rule.source: rule for rule in SNOWFLAKE}


def snowflake_contract(type_name: str, precision: int | None = None, scale: int | None = None) -> tuple[str, Rule]:
    """What a Snowflake type becomes: the contract type as text, and how it is selected.

    Args:
        type_name: ``INFORMATION_SCHEMA.COLUMNS.DATA_TYPE``.
    """
    if type_name == "NUMBER" and precision is not None:
        if not scale and precision <= 18:
            return "int64", "typed"
        return f"decimal128({precision}, {scale or 0})", "typed"
    rule = _SNOWFLAKE.get(type_name)
    return (rule.becomes, rule.rule) if rule else ("string", "text")


FILES: tuple[TypeRule, ...] = (
    TypeRule("bool", "bool", "the same"),
    TypeRule("int8, uint8, int16", "int16", "the same numbers"),
    TypeRule("uint16, int32", "int32", "the same numbers"),
    TypeRule("uint32, int64", "int64", "the same numbers"),
    TypeRule("uint64", "decimal128(20, 0)", "beyond int64"),
    TypeRule("float16, float", "float", "the same numbers; NaN and infinities stay"),
    TypeRule("double", "double", "the same bits"),
    TypeRule("decimal", "decimal128(p, s)", "with p <= 38 and 0 <= s <= p, else text"),
    TypeRule("date", "date32[day]", f"years 1 to 9999; others: {UNFIT}"),
    TypeRule("timestamp", "timestamp[us]", f"INT96 too; a fraction below a microsecond, other years: {UNFIT}"),
    TypeRule("timestamp with zone", "timestamp[us, tz=UTC]", "the instant; as above"),
    TypeRule("binary", "binary", "the same bytes"),
    TypeRule("string, enum, UUID, JSON", "string", "the same; dictionaries are decoded"),
    TypeRule("list, struct, map", "string", "as JSON; bytes in base64, numbers as they are"),
    TypeRule("time, duration, null", "string", "Delta has no such type"),
)
"""Parquet's (Arrow's) types."""
TEXT_RULES = (
    ("bool", "`true` and `false`"),
    ("int64", "integers without leading zero or plus sign that fit 64 bits"),
    ("decimal128(38, 0)", "integers of up to 38 digits"),
    ("decimal128(38, s)", "numbers with one and the same count of fractional digits, integers among them"),
    ("double", "other numbers, where each prints back from a double as the same number"),
    ("date32[day]", "`2024-02-29`"),
    ("timestamp[us]", "`2024-02-29 10:00[:00[.000000]]`, also with `T`"),
    ("timestamp[us, tz=UTC]", "the same with `Z` or `+00:00`"),
    ("string", "everything else: leading zeros, other offsets, mixed kinds, no value at all"),
)
JOINS = (
    ("two integer types", "the wider one"),
    ("integers or decimals and decimals", "a decimal that holds both, else text"),
    ("float or int16/int32 and float or double", "the floating type that holds both"),
    ("date and timestamp", "timestamp"),
    ("anything else", "text"),
)


DELTA_TYPES = {
    "bool": "boolean",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "date32[day]": "date",
    "timestamp[us]": "timestamp_ntz",
    "timestamp[us, tz=UTC]": "timestamp",
}
"""What holds a contract type in a table of the local lakehouse."""


def types_page() -> str:
    """The text of ``docs/types.md``."""
    from assets.lakehouse.databricks_types import DATABRICKS_TYPES

    lines = [
        "# Types",
        "",
        "What each source type becomes in Bronze and Silver. A value is never changed in silence: it keeps its type,",
        "becomes exact text, or (where one value does not fit its column's type) becomes NULL there and stands, as the",
        "source prints it, in the row's `_headrace_unfit` column: a JSON object of text by column name. Each run",
        "reports how many it met.",
        "",
        "Text is printed with `TimeZone = UTC`, `DateStyle = ISO`, `IntervalStyle = postgres`,",
        "`extra_float_digits = 1`.",
        "",
        "## What holds them",
        "",
        "| type here | local lakehouse (Delta) | Databricks |",
        "|---|---|---|",
        *(f"| {kind} | `{DELTA_TYPES[kind]}` | `{name}` |" for kind, name in DATABRICKS_TYPES.items()),
        "| decimal128(p, s) | `decimal(p,s)` | `DECIMAL(p,s)` |",
        "",
        "Both hold every value of these types. What neither holds becomes text or goes to `_headrace_unfit` before it",
        "is staged, by the tables below: the engine is no matter.",
        "",
        "## PostgreSQL",
        "",
        "| type | becomes | why |",
        "|---|---|---|",
        *(f"| `{rule.source}` | {rule.becomes} | {rule.why} |" for rule in POSTGRES),
        *(f"| {names} | string | {why} |" for names, why in POSTGRES_TEXT),
        "| a domain | what its base type becomes | its checks are the source's concern |",
        "| a generated column | what its type becomes | read like any other |",
        "",
        "## MySQL and MariaDB",
        "",
        "Text is printed with `time_zone = '+00:00'`, `sql_mode = ''`, in UTF-8. A key column with a value that does",
        "not fit its type is refused.",
        "",
        "| type | becomes | why |",
        "|---|---|---|",
        *(f"| `{rule.source}` | {rule.becomes} | {rule.why} |" for rule in MYSQL),
        "| geometry and its kinds | binary | four bytes of SRID, then WKB: what the server stores |",
        *(f"| {names} | string | {why} |" for names, why in MYSQL_TEXT),
        "| a generated or invisible column | what its type becomes | read like any other |",
        "",
        "## Snowflake",
        "",
        "The session's `TIMEZONE` is UTC. A cursor is compared at the source in all nine digits. A key column with a",
        "value that does not fit its type is refused.",
        "",
        "| type | becomes | why |",
        "|---|---|---|",
        *(f"| `{rule.source}` | {rule.becomes} | {rule.why} |" for rule in SNOWFLAKE),
        *(f"| {names} | string | {why} |" for names, why in SNOWFLAKE_TEXT),
        "| FILE | the column is not read; each run's `reason` names it | it refers to a file in a stage: a view may "
        "show what of it is wanted (`FL_GET_RELATIVE_PATH`) |",
        "",
        "## Files: Parquet",
        "",
        "| type | becomes | why |",
        "|---|---|---|",
        *(f"| {rule.source} | {rule.becomes} | {rule.why} |" for rule in FILES),
        "",
        "Where a table's files give a column different types:",
        "",
        "| types | becomes |",
        "|---|---|",
        *(f"| {types} | {becomes} |" for types, becomes in JOINS),
        "",
        "## CSV, JSON, Excel and REST APIs",
        "",
        "Found over all values of a column, of all files. In JSON only numbers and booleans are typed: a string stays",
        "one. An empty CSV cell is NULL, a quoted empty one is an empty text. Objects and lists are JSON text. A type",
        "declared in the config wins; it takes other spellings too (`007`, `+1`, `yes`).",
        "",
        "| becomes | where all values are |",
        "|---|---|",
        *(f"| {becomes} | {values} |" for becomes, values in TEXT_RULES),
        "",
    ]
    return "\n".join(lines)
