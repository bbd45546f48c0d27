"""PostgreSQL snapshots as watermarks: which row versions an earlier snapshot could not see."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from assets.errors import WatermarkError
from assets.sync import SourceTable, Watermark

if TYPE_CHECKING:
    import psycopg

TRIES = 5
MOST_TRANSACTIONS = 100_000
WRAPAROUND = 2**31 - 10_000_000

# pg_current_snapshot() leaves subtransactions out, and a released savepoint holds no lock; pg_xact_status() knows both
_IN_PROGRESS = """
SELECT pg_snapshot_xmax(s)::text,
       ARRAY(SELECT (x %% 4294967296)::bigint
             FROM generate_series(pg_snapshot_xmin(s)::text::numeric, pg_snapshot_xmax(s)::text::numeric - 1) x
             WHERE pg_snapshot_xmax(s)::text::numeric - pg_snapshot_xmin(s)::text::numeric <= %s
               AND pg_xact_status(x::text::xid8) = 'in progress')
FROM pg_current_snapshot() s
"""
_SNAPSHOT = """
SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text,
       ARRAY(SELECT (x::text::numeric % 4294967296)::bigint FROM pg_snapshot_xip(s) x),
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn
FROM pg_current_snapshot() s
"""
# Headrace's own sessions only read: tables are synced side by side
_OTHERS = """
SELECT EXISTS (SELECT 1 FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid()
          AND (a.datname = current_database() OR a.pid IS NULL)
          AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'background worker')
          AND (a.application_name = 'headrace' AND a.usename = current_user) IS NOT TRUE)
OR EXISTS (SELECT 1 FROM pg_prepared_xacts WHERE database = current_database())
"""
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"


def join_snapshot(connection: psycopg.Connection[Any], shared: str) -> SnapshotPosition | None:
    """Begin a read-only transaction in the snapshot that another connection exported; None where that one has ended."""
    import psycopg

    token = json.loads(shared)
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(token["id"])))
    except (
        psycopg.errors.InvalidParameterValue,
        psycopg.errors.ObjectNotInPrerequisiteState,
        psycopg.errors.UndefinedObject,
    ):
        connection.execute("ROLLBACK")
        return None
    # after a restart of the server another transaction's snapshot may go by the same name
    if _one(connection, "SELECT pg_current_snapshot()::text")[0] != token["snapshot"]:
        connection.execute("ROLLBACK")
        return None
    stored = token["position"]
    return SnapshotPosition(
        stored["system"],
        stored["database"],
        stored["xmax"],
        tuple(stored["in_flight"]),
        stored["others"],
        stored["lsn"],
    )


def shared_snapshot(
    connection: psycopg.Connection[Any],
    position: SnapshotPosition,
    table_oid: int,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Export this connection's snapshot, for `join_snapshot`.

    ``changes``: where the table's changes begin that are told from this snapshot on, for `shared_changes`.
    """
    exported, snapshot = _one(connection, "SELECT pg_export_snapshot(), pg_current_snapshot()::text")
    token = {"id": exported, "snapshot": snapshot, "position": position.stored(table_oid), "changes": changes}
    return json.dumps(token)


def shared_changes(shared: str) -> dict[str, Any]:
    """What `shared_snapshot` was given as ``changes``."""
    return json.loads(shared)["changes"]


@dataclass(frozen=True)
class SnapshotPosition:
    """A snapshot as a position: what it could not see is new to it."""

    system: str | None
    database: int
    xmax: str
    in_flight: tuple[int, ...]
    others: bool
    lsn: int

    def stored(self, table: int) -> dict[str, Any]:
        return {
            "system": self.system,
            "database": self.database,
            "table": table,
            "xmax": self.xmax,
            "in_flight": list(self.in_flight),
            "others": self.others,
            "lsn": self.lsn,
        }


def open_snapshot(connection: psycopg.Connection[Any]) -> SnapshotPosition:
    """Begin a read-only transaction with one snapshot, and say what it cannot see.

    The transactions in progress, savepoints included, are listed just before and just after the snapshot. Where both
    lists agree they hold for the snapshot, else it is done again; after some tries both count, and so do they where one
    transaction is so old that listing all since would take long: at worst a row is then read twice, never missed.
    """
    system = system_identifier(connection)
    tries = 0
    while True:
        tries += 1
        # asked on both sides of the snapshot: a transaction may end, or take its id, in between
        (others_before,) = _one(connection, _OTHERS)
        before_xmax, before = _one(connection, _IN_PROGRESS, [MOST_TRANSACTIONS])
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        xmin, xmax, xip, database, standby, lsn = _one(connection, _SNAPSHOT)
        (others_after,) = _one(connection, _OTHERS)
        _, after = _one(connection, _IN_PROGRESS, [MOST_TRANSACTIONS])
        if (before_xmax == xmax and set(before) == set(after)) or tries == TRIES:
            break
        connection.execute("ROLLBACK")
    in_flight = {int(xid) for xid in [*xip, *before, *after]}
    xmax_seen = xmax
    open_ended = int(xmax) - int(xmin) > MOST_TRANSACTIONS
    if before_xmax != xmax or open_ended:
        # everything from here on counts as unseen
        xmax = xmin if open_ended else min(before_xmax, xmax, key=int)
    if open_ended:
        in_flight = set()
    others = bool(
        others_before or others_after or xip or in_flight or standby or open_ended or before_xmax != xmax_seen
    )
    return SnapshotPosition(system, database, xmax, tuple(sorted(in_flight)), others, int(lsn))


def system_identifier(connection: psycopg.Connection[Any]) -> str | None:
    """The cluster's identifier, or None where this role may not read it."""
    (permitted,) = _one(connection, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
    return _one(connection, _SYSTEM)[0] if permitted else None


def _one(connection: psycopg.Connection[Any], query: Any, values: Any = None) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row


def new_rows(
    connection: psycopg.Connection[Any], connector: str, table: SourceTable, table_oid: int, previous: Watermark
) -> sql.Composable:
    """The condition that picks the row versions ``previous`` could not see.

    Raises:
        WatermarkError: ``previous`` belongs to another cluster, database or table, or is too old to compare with.
    """
    where = f"{connector}/{table.name}"
    remedy = f"Run: headrace sync {connector} {table.name} --mode full"
    position = previous.position
    system = system_identifier(connection)
    (database,) = _one(connection, "SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
    if position.get("system") != system or position.get("database") != database:
        raise WatermarkError("the watermark belongs to another server or database", where=where, remedy=remedy)
    if position.get("table") != table_oid:
        raise WatermarkError("the table was dropped and created again since the last sync", where=where, remedy=remedy)
    new = unseen(connection, position)
    if new is None:
        raise WatermarkError("the last sync lies too many transactions back", where=where, remedy=remedy)
    return among(previous, new)


def among(previous: Watermark, new: sql.Composable) -> sql.Composable:
    """Limit the condition of new row versions to the cursors that can have any."""
    position = previous.position
    if position["others"] or position["in_flight"] or previous.value is None or previous.cursor is None:
        return new
    cursor = sql.Identifier(previous.cursor)
    low = sql.SQL("{}::{}").format(sql.Literal(previous.value), sql.SQL(_cursor_type(previous)))
    # ">=" and not ">": a later row may carry the very same value; what was seen is left out by its version
    return sql.SQL("({cursor} >= {low} OR {cursor} IS NULL) AND {new}").format(cursor=cursor, low=low, new=new)


def unseen(connection: psycopg.Connection[Any], position: Mapping[str, Any]) -> sql.Composable | None:
    """The condition that picks the row versions a stored position could not see; None: too old to compare with."""
    (age,) = _one(connection, sql.SQL("SELECT {}").format(age_of(position)))
    return not_seen(position) if 0 <= age <= WRAPAROUND else None


def _xmax(position: Mapping[str, Any]) -> sql.Composable:
    return sql.SQL("{}::text::xid").format(sql.Literal(str(int(position["xmax"]) % 2**32)))


def age_of(position: Mapping[str, Any]) -> sql.Composable:
    """How many transactions back a stored position lies, as SQL; comparable from 0 to `WRAPAROUND`."""
    return sql.SQL("age({})").format(_xmax(position))


def not_seen(position: Mapping[str, Any]) -> sql.Composable:
    """`unseen`, of a position that is known to be comparable."""
    # both ages in one statement: each transaction counts ages from its own start
    new = sql.SQL("age(xmin) <= {}").format(age_of(position))
    if position["in_flight"]:
        ids = sql.SQL(", ").join(sql.Literal(str(xid)) for xid in position["in_flight"])
        new = sql.SQL("({} OR xmin::text IN ({}))").format(new, ids)
    return new


CURSOR_TYPES: dict[str, LiteralString] = {
    "timestamp[us]": "timestamp",
    "timestamp[us, tz=UTC]": "timestamptz",
    "date32[day]": "date",
    "int16": "bigint",
    "int32": "bigint",
    "int64": "bigint",
}


def _cursor_type(watermark: Watermark) -> LiteralString:
    kind = watermark.cursor_type or ""
    return "numeric" if kind.startswith("decimal") else CURSOR_TYPES[kind]


def source_clock(kind: str) -> sql.Composable | None:
    """The source's clock as a value of the cursor's type; None for cursors that are no time.

    A naive time is compared with the earlier of UTC and the server's own zone: too low a bound only reads again.
    """
    local = sql.SQL(
        "least(clock_timestamp() AT TIME ZONE 'UTC', clock_timestamp() AT TIME ZONE "
        "(SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'))"
    )
    return {
        "timestamp[us, tz=UTC]": sql.SQL("clock_timestamp()"),
        "timestamp[us]": local,
        "date32[day]": sql.SQL("({})::date").format(local),
    }.get(kind)
