"""How many rows a query would read, as the planner of MySQL or MariaDB guesses it; nothing is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from assets.sources.mysql_connection import rows

if TYPE_CHECKING:
    import pymysql


def planned_rows(opened: pymysql.Connection[Any], query: str) -> int:
    ((told,),) = rows(opened, f"EXPLAIN FORMAT=JSON {query}")
    return _rows(json.loads(told))


def _rows(told: Any) -> int:
    """Rows of the one table in an EXPLAIN, in the words of MariaDB (``rows``) or MySQL (``rows_produced_per_join``)."""
    if isinstance(told, list):
        return max((_rows(item) for item in told), default=0)
    if not isinstance(told, dict):
        return 0
    table = told.get("table")
    if isinstance(table, dict) and ("rows" in table or "rows_produced_per_join" in table):
        if "rows_produced_per_join" in table:
            return int(table["rows_produced_per_join"])
        return round(float(table["rows"]) * float(table.get("filtered", 100)) / 100)
    return max((_rows(item) for item in told.values()), default=0)
