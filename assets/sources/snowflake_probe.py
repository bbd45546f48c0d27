"""Have tables changed? Asked of Snowflake's own times of change, without reading a row or waking a warehouse."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.sources.snowflake_connection import rows
from assets.sources.snowflake_names import literal, quoted, split_table_name

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

_TIMES = """
SELECT table_schema, table_name, table_type, created::varchar, last_altered::varchar, row_count, bytes
FROM {database}.information_schema.tables WHERE {where} ORDER BY 1, 2
"""


def change_probe(opened: SnowflakeConnection, database: str, tables: Sequence[str]) -> str:
    """A digest of when each table was last changed.

    Rows that change move a table's ``LAST_ALTERED``; those behind a view or an external table do not, so such a one
    always counts as changed.
    """
    wanted = {split_table_name(name) for name in tables}
    either = " OR ".join(
        f"(table_schema = {literal(schema)} AND table_name = {literal(table)})" for schema, table in sorted(wanted)
    )
    found = rows(opened, _TIMES.format(database=quoted(database), where=either or "FALSE"))
    facts: list[Any] = [*found, len(tables)]
    if len(found) < len(wanted) or any(row[2] != "BASE TABLE" for row in found):
        facts.append(rows(opened, "SELECT CURRENT_TIMESTAMP()::VARCHAR"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()
