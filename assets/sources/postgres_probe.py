"""Have tables changed? Asked of PostgreSQL's own counters, without reading a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

# Counters of a table and its partitions; a truncate or rewrite changes the file. A rolled-back change counts too.
_COUNTERS = """
SELECT n.nspname || '.' || c.relname, c.relkind IN ('r', 'p') AND current_setting('track_counts')::bool,
       (SELECT string_agg(concat_ws(':', p.oid, p.relfilenode, pg_stat_get_tuples_inserted(p.oid),
                                    pg_stat_get_tuples_updated(p.oid), pg_stat_get_tuples_deleted(p.oid)),
                          ',' ORDER BY p.oid)
        FROM pg_class p WHERE p.oid = c.oid OR p.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%s)
ORDER BY 1
"""
# A standby has no counters of its own, and a view none at all: any write to the server then counts as a change.
_POSITION = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       pg_is_in_recovery()
"""


def change_probe(connection: psycopg.Connection[Any], tables: Sequence[str]) -> str:
    """A digest of the tables' change counters.

    Args:
        tables: names as ``discover`` prints them. One that is not there counts like one that changed when it comes.
    """
    rows = connection.execute(_COUNTERS, [list(tables)]).fetchall()
    position = connection.execute(_POSITION).fetchone()
    assert position is not None
    facts = [*rows, len(tables)]
    if position[1] or not all(counted for _, counted, _ in rows):
        facts.append(position[0])
    return hashlib.sha256(repr(facts).encode()).hexdigest()
