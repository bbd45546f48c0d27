"""Have tables changed? Asked of the server's own records, without reading a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from assets.naming import table_label
from assets.sources.mysql_connection import rows

if TYPE_CHECKING:
    import pymysql

SETTLED = timedelta(seconds=3)
_TIMES = """
SELECT table_schema, table_name, table_type, create_time, update_time, utc_timestamp()
FROM information_schema.tables WHERE table_name IN ({names}) AND table_schema IN ({schemas}) ORDER BY 1, 2
"""
# Rows written by anyone, since the server started: for tables without a time of their last change, views among them.
_WRITES = """
SHOW GLOBAL STATUS WHERE variable_name IN ('Handler_write', 'Handler_update', 'Handler_delete', 'Handler_rollback')
"""


def change_probe(opened: pymysql.Connection[Any], tables: Sequence[str]) -> str:
    """A digest of the tables' times of change.

    InnoDB keeps that time in memory, to the second: a table that changed just now counts as changing still, and where a
    time is unknown (a restart, a view) any write to the server counts.
    """
    wanted = set(tables)
    labels = [name.rpartition(".") for name in tables]
    # the label's last part may be cut inside a name that holds a dot: then the table counts as unknown
    names = sorted({part for _, _, part in labels}) or [""]
    schemas = sorted({schema.strip('"').replace('""', '"') for schema, _, _ in labels}) or [""]
    query = _TIMES.format(names=", ".join(["%s"] * len(names)), schemas=", ".join(["%s"] * len(schemas)))
    found = [row for row in rows(opened, query, [*names, *schemas]) if table_label(row[0], row[1]) in wanted]
    facts: list[Any] = [row[:5] for row in found] + [len(tables)]
    if len(found) < len(wanted) or any(row[4] is None for row in found):
        facts.append(rows(opened, _WRITES))
        facts.append(rows(opened, "SHOW GLOBAL VARIABLES LIKE 'hostname'"))
    if any(row[4] is not None and row[4] > row[5] - SETTLED for row in found):
        facts.append(rows(opened, "SELECT utc_timestamp(6)"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()
