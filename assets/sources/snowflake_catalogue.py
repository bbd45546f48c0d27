"""What a Snowflake database holds, by three statements for all tables at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.sources.cursor_columns import CURSOR_NAMES
from assets.sources.snowflake_connection import error_number, rows
from assets.sources.snowflake_names import literal, natural, quoted, relation, split_table_name, table_name
from assets.sync import Column, SourceTable
from assets.types import SNOWFLAKE_LEFT_OUT, snowflake_contract

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

CURSOR_TYPES = frozenset(["timestamp[us]", "timestamp[us, tz=UTC]", "date32[day]", "int64"])
KINDS = {
    "BASE TABLE": "table",
    "VIEW": "view",
    "MATERIALIZED VIEW": "materialized_view",
    "EXTERNAL TABLE": "foreign",
}
SHOWN_ROWS = 10_000
"""SHOW gives as many rows, and does not say when there are more."""
TOO_MUCH_DATA = 90030
MOST_NAMED_TABLES = 5

_TABLES = """
SELECT table_schema, table_name, table_type, row_count, bytes, created::varchar
FROM {database}.information_schema.tables WHERE {where} ORDER BY 1, 2
"""
_COLUMNS = """
SELECT table_schema, table_name, column_name, data_type, character_maximum_length, numeric_precision, numeric_scale,
       datetime_precision, is_nullable
FROM {database}.information_schema.columns WHERE {where} ORDER BY 1, 2, ordinal_position
"""


def visible_schemas(opened: SnowflakeConnection, database: str) -> list[str]:
    """Schemas that the role may see, in order."""
    query = f"SELECT schema_name FROM {quoted(database)}.information_schema.schemata ORDER BY 1"
    return [name for (name,) in rows(opened, query) if name != "INFORMATION_SCHEMA"]


def list_tables(
    opened: SnowflakeConnection,
    connector: str,
    database: str,
    schemas: Sequence[str] | None,
    names: Sequence[str] | None,
) -> list[SourceTable]:
    """Tables and views, ordered as ``names``, or by schema and name.

    Raises:
        NotFoundError: one of ``names`` is not there, or the role may not see it.
    """
    only: Sequence[tuple[str, str]] | None = None
    if names is not None:
        only = [split_table_name(name) for name in names]
        only = [pair for pair in only if schemas is None or pair[0] in schemas]
    found: list[SourceTable] = []
    if only is None or only:
        described = _catalogue(opened, database, schemas, only)
        keys = _primary_keys(opened, database, only, described)
        columns: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in described["columns"]:
            columns[row[0], row[1]].append(row[2:])
        found = [_table(row, columns[row[0], row[1]], keys.get((row[0], row[1]), ())) for row in described["tables"]]
    if names is None:
        return found
    by_name = {table.name: table for table in found}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotFoundError(
            f"no such table, or no right to see it: {', '.join(missing[:5])}",
            where=connector,
            remedy=f"Run: headrace connectors discover {connector}",
        )
    return [by_name[name] for name in names]


def _catalogue(
    opened: SnowflakeConnection, database: str, schemas: Sequence[str] | None, only: Sequence[tuple[str, str]] | None
) -> dict[str, list[Any]]:
    """The rows of tables and columns: at once, or schema by schema where the server finds that too much."""
    from snowflake.connector import errors

    conditions = ["table_schema <> 'INFORMATION_SCHEMA'"]
    if only is not None:
        either = [f"(table_schema = {literal(schema)} AND table_name = {literal(table)})" for schema, table in only]
        conditions = [f"({' OR '.join(either)})"]
    elif schemas is not None:
        conditions = [f"table_schema IN ({', '.join(literal(name) for name in schemas) or 'NULL'})"]
    try:
        return _catalogue_where(opened, database, conditions[0])
    except errors.ProgrammingError as error:
        if error_number(error) != TOO_MUCH_DATA or only is not None:
            raise
    found: dict[str, list[Any]] = {"tables": [], "columns": []}
    for schema in visible_schemas(opened, database) if schemas is None else schemas:
        for kind, more in _catalogue_where(opened, database, f"table_schema = {literal(schema)}").items():
            found[kind] += more
    return found


def _catalogue_where(opened: SnowflakeConnection, database: str, where: str) -> dict[str, list[Any]]:
    names = {"database": quoted(database), "where": where}
    return {
        "tables": rows(opened, _TABLES.format(**names)),
        "columns": rows(opened, _COLUMNS.format(**names)),
    }


def _primary_keys(
    opened: SnowflakeConnection,
    database: str,
    only: Sequence[tuple[str, str]] | None,
    described: dict[str, list[Any]],
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Key columns by schema and table, in the key's order."""
    tables = [(row[0], row[1]) for row in described["tables"] if row[2] == "BASE TABLE"]
    if not tables:
        return {}
    if only is not None and len(only) <= MOST_NAMED_TABLES:
        scopes = [f"TABLE {relation(database, *table)}" for table in tables]
    else:
        scopes = [f"DATABASE {quoted(database)}"]
    found = [row for scope in scopes for row in _key_columns(opened, database, scope)]
    if len(found) >= SHOWN_ROWS:
        found = []
        for schema in sorted({schema for schema, _ in tables}):
            inside = _key_columns(opened, database, f"SCHEMA {quoted(database)}.{quoted(schema)}")
            if len(inside) >= SHOWN_ROWS:
                each = [table for table in tables if table[0] == schema]
                inside = [
                    row
                    for table in each
                    for row in _key_columns(opened, database, f"TABLE {relation(database, *table)}")
                ]
            found += inside
    keys: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for schema, table, column, sequence in found:
        keys[schema, table].append((sequence, column))
    return {table: tuple(natural(column) for _, column in sorted(columns)) for table, columns in keys.items()}


def _key_columns(opened: SnowflakeConnection, database: str, scope: str) -> list[tuple[str, str, str, int]]:
    from snowflake.connector import DictCursor

    with opened.cursor(DictCursor) as cursor:
        cursor.execute(f"SHOW PRIMARY KEYS IN {scope}")
        return [
            (row["schema_name"], row["table_name"], row["column_name"], int(row["key_sequence"]))
            for row in cursor.fetchall()
            if isinstance(row, dict) and row["database_name"] == database
        ]


def described_type(name: str, length: int | None, precision: int | None, scale: int | None, digits: int | None) -> str:
    """A column's full type, as Snowflake's DDL writes it."""
    if name == "NUMBER" and precision is not None:
        return f"NUMBER({precision},{scale or 0})"
    if name == "TEXT":
        return f"VARCHAR({length})" if length else "VARCHAR"
    if name == "TIME" or name.startswith("TIMESTAMP"):
        return f"{name}({9 if digits is None else digits})"
    return name


def _table(row: Any, columns: Sequence[Any], key: tuple[str, ...]) -> SourceTable:
    schema, name, table_type, estimate, size, _ = row
    described = []
    left_out = []
    for column, data_type, length, precision, scale, digits, nullable in columns:
        type_name = data_type.upper()
        if type_name in SNOWFLAKE_LEFT_OUT:
            left_out.append(f"{natural(column)} ({data_type})")
            continue
        kind, rule = snowflake_contract(type_name, precision, scale)
        described.append(
            Column(
                name=natural(column),
                source_type=described_type(type_name, length, precision, scale, digits),
                arrow_type=kind,
                rule=rule,
                nullable=nullable == "YES",
            )
        )
    refusal = None
    if not described and left_out:
        refusal = f"all columns are of a type that no table holds: {', '.join(left_out)}"
    elif not described:
        refusal = "the table has no column that this role may read"
    elif reserved := [c.name for c in described if c.name.lower().startswith("_headrace_")]:
        refusal = f"columns named as Headrace's own: {', '.join(reserved)}"
    return SourceTable(
        name=table_name(schema, name),
        schema_name=schema,
        table_name=name,
        kind=KINDS.get(table_type, "table"),  # type: ignore[arg-type]
        tracks="cursor",
        columns=tuple(described),
        primary_key=key,
        cursor_candidates=tuple(
            c.name for c in described if c.name.lower() in CURSOR_NAMES and c.arrow_type in CURSOR_TYPES
        ),
        estimated_rows=None if table_type == "VIEW" or estimate is None else int(estimate),
        estimated_bytes=None if size is None else int(size),
        refusal=refusal,
        left_out=tuple(left_out),
    )
