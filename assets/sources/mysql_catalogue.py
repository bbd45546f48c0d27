"""What a MySQL or MariaDB server holds, by two catalogue queries for all tables at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.naming import table_label
from assets.sources.cursor_columns import CURSOR_NAMES
from assets.sources.mysql_connection import SYSTEM_DATABASES, rows
from assets.sync import Column, SourceTable
from assets.types import mysql_contract

if TYPE_CHECKING:
    import pymysql

CURSOR_TYPES = frozenset(
    ["timestamp[us]", "timestamp[us, tz=UTC]", "date32[day]", "int16", "int32", "int64", "decimal128(20, 0)"]
)
KINDS = {"BASE TABLE": "table", "SYSTEM VERSIONED": "table", "VIEW": "view", "SYSTEM VIEW": "view"}

_TABLES = """
SELECT table_schema, table_name, table_type, engine, table_rows, data_length, create_options
FROM information_schema.tables
WHERE table_schema IN ({schemas}) AND table_type <> 'SEQUENCE' {only}
ORDER BY table_schema, table_name
"""
# PRI also marks the first unique key without NULLs where there is no primary key
_COLUMNS = """
SELECT table_schema, table_name, column_name, data_type, column_type, numeric_precision, numeric_scale,
       character_set_name, is_nullable, column_key
FROM information_schema.columns
WHERE table_schema IN ({schemas}) {only}
ORDER BY table_schema, table_name, ordinal_position
"""


def visible_databases(connection: pymysql.Connection[Any]) -> list[str]:
    """Databases of users that this login may see, in order."""
    found = rows(connection, "SELECT schema_name FROM information_schema.schemata ORDER BY 1")
    return [name for (name,) in found if name.lower() not in SYSTEM_DATABASES]


def list_tables(
    connection: pymysql.Connection[Any], connector: str, databases: Sequence[str] | None, names: Sequence[str] | None
) -> list[SourceTable]:
    """Tables and views, ordered as ``names``, or by database and name.

    Raises:
        NotFoundError: one of ``names`` is not there, or this login may not see it.
    """
    wanted = visible_databases(connection)
    if databases is not None:
        wanted = [name for name in wanted if name in databases]
    only, values = "", []
    if names is not None:
        pairs = [(schema, name[len(table_label(schema, "")) :]) for schema in wanted for name in names]
        pairs = [(schema, table) for schema, table in pairs if table_label(schema, table) in set(names)]
        wanted = sorted({schema for schema, _ in pairs})
        only = f"AND table_name IN ({', '.join(['%s'] * len(pairs))})"
        values = [table for _, table in pairs]
    found: list[SourceTable] = []
    if wanted:
        schemas = ", ".join(["%s"] * len(wanted))
        described = rows(connection, _TABLES.format(schemas=schemas, only=only), [*wanted, *values])
        columns: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in rows(connection, _COLUMNS.format(schemas=schemas, only=only), [*wanted, *values]):
            columns[row[0], row[1]].append(row[2:])
        found = [_table(row, columns[row[0], row[1]]) for row in described]
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


def _table(row: Any, columns: Sequence[Any]) -> SourceTable:
    schema, name, table_type, engine, estimate, size, options = row
    described = []
    for column, data_type, column_type, precision, scale, charset, nullable, _ in columns:
        kind, rule = mysql_contract(data_type, column_type, precision, scale, charset)
        described.append(
            Column(name=column, source_type=column_type, arrow_type=kind, rule=rule, nullable=nullable == "YES")
        )
    kind = KINDS.get(table_type, "table")
    if kind == "table" and "partitioned" in (options or ""):
        kind = "partitioned"
    refusal = None
    if not described and kind == "view":
        refusal = "the view names what is not there, or what its definer or this login may not read"
    elif not described:
        refusal = "the table has no column that this login may read"
    elif reserved := [c.name for c in described if c.name.lower().startswith("_headrace_")]:
        refusal = f"columns named as Headrace's own: {', '.join(reserved)}"
    elif table_type in ("BASE TABLE", "SYSTEM VERSIONED") and engine is None:
        refusal = "the server cannot open the table (its engine or a file is missing)"
    return SourceTable(
        name=table_label(schema, name),
        schema_name=schema,
        table_name=name,
        kind=kind,  # type: ignore[arg-type]
        tracks="cursor",
        columns=tuple(described),
        primary_key=tuple(column[0] for column in columns if column[7] == "PRI"),
        cursor_candidates=tuple(
            c.name for c in described if c.name.lower() in CURSOR_NAMES and c.arrow_type in CURSOR_TYPES
        ),
        estimated_rows=None if kind == "view" or estimate is None else int(estimate),
        estimated_bytes=None if size is None else int(size),
        refusal=refusal,
    )


def table_facts(connection: pymysql.Connection[Any], table: SourceTable) -> dict[str, Any]:
    """What reading a table needs beyond ``SourceTable``: engine, when it was made, and its columns' character sets."""
    name = [table.schema_name, table.table_name]
    found = rows(
        connection,
        "SELECT engine, cast(create_time AS char) FROM information_schema.tables "
        "WHERE table_schema = %s AND table_name = %s",
        name,
    )
    engine, made = found[0] if found else (None, None)
    charsets: dict[str, str] = {}
    if any(c.rule == "converted" for c in table.columns):
        query = "SELECT column_name, character_set_name FROM information_schema.columns "
        charsets = dict(rows(connection, query + "WHERE table_schema = %s AND table_name = %s", name))
    return {"engine": engine, "table": made, "charsets": charsets}
