"""Have tables changed? Asked of the server's own records, without reading a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from assets.naming import table_label
from assets.sources.mysql_connection import is_mariadb, rows

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


def log_position(opened: pymysql.Connection[Any]) -> str | None:
    """The GTID position of all that was committed; None where it does not tell of every change.

    That is where transactions are not numbered, where databases are left out of the log, and where this login may not
    see whether they are.
    """
    import pymysql

    try:
        ((logs,),) = rows(opened, "SELECT @@log_bin")
        if not logs:
            return None
        try:
            ((_, _, only, ignored, *_),) = rows(opened, "SHOW MASTER STATUS")
        except pymysql.err.ProgrammingError:  # renamed in MySQL 8.2, gone in 8.4
            ((_, _, only, ignored, *_),) = rows(opened, "SHOW BINARY LOG STATUS")
    except pymysql.err.OperationalError:
        return None
    if only or ignored:
        return None
    if is_mariadb(opened):
        # a GTID is told before snapshots can see its transaction; the place of a snapshot is not
        rows(opened, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        try:
            place = rows(opened, "SHOW STATUS LIKE 'binlog_snapshot_%'")
        finally:
            rows(opened, "ROLLBACK")
        return f"{place} {rows(opened, 'SELECT @@gtid_slave_pos')}" if place else None
    ((mode, executed),) = rows(opened, "SELECT @@global.gtid_mode, @@global.gtid_executed")
    return str(executed) if mode == "ON" else None


def change_probe(opened: pymysql.Connection[Any], tables: Sequence[str]) -> str:
    """A digest of the tables' times of change.

    InnoDB keeps that time in memory, to the second. So where a table changed just now, or a time is unknown (a restart,
    a view), any transaction that was committed since counts as a change; where they have no GTIDs, any write.
    """
    wanted = set(tables)
    labels = [name.rpartition(".") for name in tables]
    # the label's last part may be cut inside a name that holds a dot: then the table counts as unknown
    names = sorted({part for _, _, part in labels}) or [""]
    schemas = sorted({schema.strip('"').replace('""', '"') for schema, _, _ in labels}) or [""]
    query = _TIMES.format(names=", ".join(["%s"] * len(names)), schemas=", ".join(["%s"] * len(schemas)))
    found = [row for row in rows(opened, query, [*names, *schemas]) if table_label(row[0], row[1]) in wanted]
    facts: list[Any] = [row[:5] for row in found] + [len(tables)]
    unknown = len(found) < len(wanted) or any(row[4] is None for row in found)
    fresh = any(row[4] is not None and row[4] > row[5] - SETTLED for row in found)
    if unknown or fresh:
        position = log_position(opened)
        facts.append(position)
        if position is None and unknown:
            facts.append(rows(opened, _WRITES))
        if position is None and fresh:
            facts.append(rows(opened, "SELECT utc_timestamp(6)"))
    if unknown:
        facts.append(rows(opened, "SHOW GLOBAL VARIABLES LIKE 'hostname'"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()
