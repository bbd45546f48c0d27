"""What PostgreSQL keeps for mode ``cdc``: one replication slot a connector, one publication a table.

One slot, not one a table: each makes the server keep its log and takes one of ``max_replication_slots``. It only keeps
the log. Each sync streams from a temporary copy of it (`postgres_log_stream`), so tables sync side by side, each from
its own position; the slot moves up to what Bronze holds of every table. A publication limits what the server sends.
"""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from assets.errors import SourceAccessError, SourceUnreachableError, StreamLostError, UnsupportedTableError
from assets.scratch_database import quoted
from assets.sources.interface import StreamStatus
from assets.sources.postgres_connection import PostgresConfig, connection
from assets.sources.postgres_log_stream import lsn_text
from assets.sync import STREAM, SourceTable, Watermark

if TYPE_CHECKING:
    import psycopg

ACKNOWLEDGED_BYTES = 16 << 20  # the log is kept in files of this size
WAIT_SECONDS = 60.0

_PUBLICATION = """
SELECT p.oid::bigint, r.oid::bigint, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
       to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL, p.pubviaroot,
       to_jsonb(p) ->> 'pubgencols'
FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = %s
WHERE p.pubname = %s
"""
_SLOT = """
SELECT s.plugin, s.database = current_database(), s.confirmed_flush_lsn - '0/0'::pg_lsn, s.wal_status,
       pg_current_wal_insert_lsn() - s.restart_lsn, s.safe_wal_size
FROM pg_replication_slots s WHERE s.slot_name = %s AND NOT pg_is_in_recovery()
"""
# Who may have changed the table before it was published, and has not ended. Before PostgreSQL 18 the log of any such
# transaction cannot be decoded for a publication made meanwhile.
_WRITERS = """
SELECT array_agg(DISTINCT l.virtualtransaction || '/' || coalesce(l.pid, 0)),
       min(coalesce(l.pid, 0)), min(a.xact_start)::timestamp(0)::text
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.relation = ANY(%(tables)s::oid[]) OR %(any)s)
  AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND coalesce(a.backend_type, 'client backend') NOT LIKE 'autovacuum%%'
"""
_CHILDREN = """
SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE i.inhparent = %s AND c.relkind = 'r'
"""
_UNTOLD = """
SELECT string_agg(attname, ', ' ORDER BY attnum) FILTER (WHERE attgenerated = 'v'),
       string_agg(attname, ', ' ORDER BY attnum) FILTER (WHERE attgenerated = 's')
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attname = ANY(%s)
"""
# A deferrable key is no identity: once such a table is published, the server refuses its updates and deletes.
_IDENTITY = """
SELECT n.nspname, c.relname, c.relreplident::text, c.relpersistence::text, ARRAY(
    SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) AS k(attnum)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""
_ROLE = """
SELECT rolsuper OR rolreplication OR EXISTS (
    SELECT 1 FROM pg_roles m
    WHERE m.rolname IN ('rds_replication', 'rds_superuser') AND pg_has_role(r.oid, m.oid, 'MEMBER'))
FROM pg_roles r WHERE rolname = current_user
"""


def slot_name(connector: str, config: PostgresConfig) -> str:
    """The name of the connector's slot, at most 50 characters: ``headrace_<connector>``."""
    name = config.replication_slot or f"headrace_{connector}"
    return name if len(name) <= 50 else f"{name[:41]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def publication_name(slot: str, table: str) -> str:
    """The name of a table's publication: the slot's, and twelve hash digits of ``schema.table``."""
    return f"{slot}_{hashlib.sha256(table.encode()).hexdigest()[:12]}"


def reset_command(connector: str, table: str) -> str:
    return f"Run: headrace sync {connector} {table} --mode cdc --reset"


def missing_prerequisites(
    opened: psycopg.Connection[Any], connector: str, config: PostgresConfig
) -> list[tuple[str, str, str]]:
    """What the server or the role lacks: (check, what is wrong, the statement that mends it)."""
    found = []
    user = quoted(config.user)
    if _one(opened, "SELECT pg_is_in_recovery()"):
        found.append(("wal_level", "the server is a standby: it makes no publications", "Connect to the primary."))
    elif (level := _one(opened, "SHOW wal_level")) != "logical":
        fix = "ALTER SYSTEM SET wal_level = logical;  -- then restart PostgreSQL"
        found.append(("wal_level", f"wal_level is {level}, not logical", fix))
    if not _one(opened, _ROLE):
        found.append(("replication", f"role {config.user} may not replicate", f"ALTER ROLE {user} REPLICATION;"))
    slot = slot_name(connector, config)
    used, most, own = opened.execute(
        "SELECT count(*), current_setting('max_replication_slots')::int, count(*) FILTER (WHERE slot_name = %s) "
        "FROM pg_replication_slots",
        [slot],
    ).fetchone() or (0, 0, 0)
    needed = used + (1 if own else 2)  # its own, and the copy that a sync streams from
    if needed > most:
        fix = f"ALTER SYSTEM SET max_replication_slots = {max(needed + 8, 20)};  -- then restart PostgreSQL"
        found.append(("replication_slots", f"{used} of {most} replication slots are in use", fix))
    if _one(opened, "SELECT current_setting('max_wal_senders')::int") < 1:
        fix = "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart PostgreSQL"
        found.append(("replication_slots", "max_wal_senders is 0", fix))
    if not _one(opened, "SELECT has_database_privilege(current_database(), 'CREATE')"):
        fix = f"GRANT CREATE ON DATABASE {quoted(config.database)} TO {user};"
        found.append(("publication", f"role {config.user} may not make publications", fix))
    return found


def _one(opened: psycopg.Connection[Any], query: Any, values: Any = None) -> Any:
    row = opened.execute(query, values).fetchone()
    return row[0] if row else None


def leaves(opened: psycopg.Connection[Any], table: int) -> list[int]:
    """The tables that hold the rows: the table itself, or its partitions."""
    return list(
        _one(
            opened,
            "SELECT coalesce((SELECT array_agg(relid::oid::bigint ORDER BY relid::oid) "
            "FROM pg_partition_tree(%(t)s::oid) WHERE isleaf), ARRAY[%(t)s::bigint])",
            {"t": table},
        )
    )


def require_followable(
    opened: psycopg.Connection[Any], where: str, table: SourceTable, oid: int, key: Sequence[str]
) -> bool:
    """Whether the table's changes are told in the log. Returns whether stored generated columns have to be published.

    Raises:
        UnsupportedTableError: they are not; the remedy is the exact statement.
    """
    relation = f"{quoted(table.schema_name)}.{quoted(table.table_name)}"
    if table.kind not in ("table", "partitioned"):
        raise UnsupportedTableError(f"a {table.kind.replace('_', ' ')} has no log of changes", where=where)
    if not key:
        raise UnsupportedTableError(
            "the table has no key, so its changes cannot be applied",
            where=where,
            remedy=f"Name columns that identify a row with --key and run: "
            f"ALTER TABLE {relation} REPLICA IDENTITY FULL; or use --mode full.",
        )
    if table.kind == "table" and _one(opened, _CHILDREN, [oid]):
        raise UnsupportedTableError(
            "other tables inherit from it, and their changes do not count as its own",
            where=where,
            remedy="Follow the inheriting tables instead, or use --mode incremental.",
        )
    for leaf in leaves(opened, oid):
        row = opened.execute(_IDENTITY, [leaf]).fetchone()
        if row is None:
            continue
        schema, name, identity, persistence, told = row
        if persistence != "p":
            raise UnsupportedTableError("an unlogged or temporary table has no log of changes", where=where)
        if identity != "f" and (table.row_filter or identity == "n" or not set(key) <= set(told)):
            untold = f"the old key ({', '.join(key)}) of a changed row"
            if table.row_filter:
                untold = "the old values of a changed row, and the row filter judges them"
            raise UnsupportedTableError(
                f"the log does not tell {untold}",
                where=where,
                remedy=f"ALTER TABLE {quoted(schema)}.{quoted(name)} REPLICA IDENTITY FULL;",
            )
    virtual, stored = opened.execute(_UNTOLD, [oid, [c.name for c in table.columns]]).fetchone() or (None, None)
    untold = virtual or (stored if opened.info.server_version < 180000 else None)
    if untold:
        raise UnsupportedTableError(
            f"PostgreSQL does not publish generated columns: {untold}",
            where=where,
            remedy="Use --mode incremental, or leave the columns out.",
        )
    return bool(stored)


def make_stream(
    opened: psycopg.Connection[Any],
    connector: str,
    config: PostgresConfig,
    table: SourceTable,
    oid: int,
    key: Sequence[str],
) -> dict[str, Any]:
    """Make slot and publication if need be, and the position from which every change is told.

    No transaction that wrote to the table before it was published is open when this returns, so a snapshot taken now
    holds exactly what was committed before the position, and some of what was committed after it.
    """
    where = f"{connector}/{table.name}"
    if problems := missing_prerequisites(opened, connector, config):
        slot = slot_name(connector, config)
        published = _publication(opened, slot, table, oid) is not None
        problems = [problem for problem in problems if problem[0] != "publication" or not published]
        if problems:
            _, what, fix = problems[0]
            raise SourceAccessError(what, where=where, remedy=fix)
    generated = require_followable(opened, where, table, oid, key)
    slot = slot_name(connector, config)
    publication = _ensure_publication(opened, config, slot, table, oid, generated, where)
    _ensure_slot(opened, slot, where)
    position = fence(opened)
    _wait_for_writers(opened, oid, where)
    return {STREAM: slot, "publication": publication, "lsn": position}


def _publication(
    opened: psycopg.Connection[Any], slot: str, table: SourceTable, oid: int
) -> tuple[int, int | None, bool, bool, bool, str | None] | None:
    return opened.execute(_PUBLICATION, [oid, publication_name(slot, table.name)]).fetchone()  # type: ignore[return-value]


def publication_identity(
    opened: psycopg.Connection[Any], slot: str, table: SourceTable, oid: int, where: str
) -> list[int]:
    """What identifies the table's publication: made again, or the table taken out and put back, it is another.

    Raises:
        StreamLostError: it is not there, or does not tell everything.
    """
    row = _publication(opened, slot, table, oid)
    name = publication_name(slot, table.name)
    if row is None or row[1] is None:
        raise StreamLostError(f"the publication {name} is gone or no longer holds the table", where=where)
    if not row[2] or not row[3] or row[4]:
        raise StreamLostError(
            f"the publication {name} leaves changes, rows or columns out, or publishes by the root", where=where
        )
    return [row[0], row[1]]


def _ensure_publication(
    opened: psycopg.Connection[Any],
    config: PostgresConfig,
    slot: str,
    table: SourceTable,
    oid: int,
    generated: bool,
    where: str,
) -> list[int]:
    import psycopg

    name = publication_name(slot, table.name)
    options = ", publish_generated_columns = stored" if generated else ""
    statement = sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete, truncate'{})"
    ).format(sql.Identifier(name), sql.Identifier(table.schema_name, table.table_name), sql.SQL(options))
    row = _publication(opened, slot, table, oid)
    if row is not None and row[1] is None:  # of a table of that name that is gone
        opened.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
        row = None
    if row is None:
        try:
            opened.execute(statement)
        except psycopg.errors.DuplicateObject:
            pass
        except psycopg.errors.InsufficientPrivilege:
            raise SourceAccessError(
                f"role {config.user} may not publish the table: it is not its owner",
                where=where,
                remedy=f"Have the owner run: {statement.as_string(opened)};",
            ) from None
    return publication_identity(opened, slot, table, oid, where)


def _ensure_slot(opened: psycopg.Connection[Any], slot: str, where: str) -> None:
    import psycopg

    row = opened.execute(_SLOT, [slot]).fetchone()
    if row is not None and row[3] == "lost":
        opened.execute("SELECT pg_drop_replication_slot(%s)", [slot])  # it serves nobody any more
        row = None
    if row is None:
        try:
            opened.execute(f"SET statement_timeout = {int(WAIT_SECONDS * 1000)}".encode())
            opened.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        except psycopg.errors.DuplicateObject:  # another table's first sync made it, or is about to
            _wait_for_slot(opened, slot, where)
        except psycopg.errors.QueryCanceled:
            raise SourceUnreachableError(
                f"making the slot {slot} waits for transactions that are open; the oldest since "
                f"{_one(opened, 'SELECT min(xact_start)::timestamp(0)::text FROM pg_stat_activity')}",
                where=where,
            ) from None
        finally:
            opened.execute("SET statement_timeout = 0")
    elif row[0] != "pgoutput" or not row[1]:
        raise SourceAccessError(
            f"a replication slot {slot} is there, of another database or plugin",
            where=where,
            remedy="Set `replication_slot` of the connector to another name.",
        )


def _wait_for_slot(opened: psycopg.Connection[Any], slot: str, where: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while _one(opened, "SELECT confirmed_flush_lsn IS NULL FROM pg_replication_slots WHERE slot_name = %s", [slot]):
        if time.monotonic() > deadline:
            raise SourceUnreachableError(f"the slot {slot} is still being made", where=where)
        time.sleep(0.1)


def fence(opened: psycopg.Connection[Any]) -> int:
    """A position after all that is committed, flushed: the log can be streamed up to it at once."""
    opened.execute("BEGIN")
    try:
        opened.execute("SET LOCAL synchronous_commit = local")
        return int(_one(opened, "SELECT pg_logical_emit_message(true, 'headrace', '') - '0/0'::pg_lsn"))
    finally:
        opened.execute("COMMIT")


def _wait_for_writers(opened: psycopg.Connection[Any], oid: int, where: str) -> None:
    """Wait until the transactions that hold the table now, for writing, have ended; later ones are told in the log."""
    wanted = {"tables": [oid, *leaves(opened, oid)], "any": opened.info.server_version < 180000}
    first: set[str] | None = None
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        row = opened.execute(_WRITERS, wanted).fetchone()
        assert row is not None
        pid, since = row[1], row[2]
        holders: set[str] = set(row[0] or ())
        first = holders if first is None else first & holders
        if not first:
            return
        if time.monotonic() > deadline:
            raise SourceUnreachableError(
                f"transactions that write to the table are open, such as pid {pid} since {since}",
                where=where,
                remedy="End them, or sync when they have ended.",
            )
        time.sleep(0.05)


def acknowledge(
    connector: str, config: PostgresConfig, own: Watermark, committed: Mapping[str, Callable[[], Watermark | None]]
) -> None:
    """Move the slot up to what Bronze holds of every followed table; not at all while one is being loaded first."""
    import psycopg

    slot = own.position[STREAM]
    with connection(connector, config) as opened:
        row = opened.execute(_SLOT, [slot]).fetchone()
        if row is None or row[2] is None or own.position["lsn"] - int(row[2]) < ACKNOWLEDGED_BYTES:
            return
        low = own.position["lsn"]
        followed = {name for (name,) in opened.execute("SELECT pubname::text FROM pg_publication")}
        left = {name for name in followed if name.startswith(f"{slot}_")}
        for table, read in committed.items():
            name = publication_name(slot, table)
            if name not in left:
                continue
            watermark = read()
            if watermark is None or STREAM not in watermark.position:
                return
            left.discard(name)
            low = min(low, watermark.position["lsn"])
        if left or low <= int(row[2]):
            return
        try:
            opened.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [slot, lsn_text(low)])
        except psycopg.errors.ObjectInUse:
            return  # another table's sync does the same


def stop_changes(connector: str, config: PostgresConfig, tables: Sequence[str] | None) -> list[str]:
    """Drop the tables' publications, and the slot with the last one. Returns the names of what was dropped."""
    slot = slot_name(connector, config)
    dropped = []
    with connection(connector, config) as opened:
        existing = {
            name
            for (name,) in opened.execute("SELECT pubname::text FROM pg_publication ORDER BY 1")
            if name.startswith(f"{slot}_")
        }
        unwanted = existing if tables is None else existing & {publication_name(slot, table) for table in tables}
        for name in sorted(unwanted):
            opened.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
            dropped.append(f"publication {name}")
        if existing == unwanted and opened.execute(_SLOT, [slot]).fetchone() is not None:
            opened.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            dropped.append(f"replication slot {slot}")
    return dropped


def change_status(connector: str, config: PostgresConfig) -> list[StreamStatus]:
    """The connector's slot: its state, position, the log that it retains, and the tables it serves."""
    slot = slot_name(connector, config)
    with connection(connector, config) as opened:
        row = opened.execute(_SLOT, [slot]).fetchone()
        tables = opened.execute(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables "
            "WHERE starts_with(pubname, %s) ORDER BY 1",
            [f"{slot}_"],
        ).fetchall()
    named = tuple(name for (name,) in tables)
    if row is None:
        return [StreamStatus(name=slot, state="missing", tables=named)] if named else []
    left = f"{row[5] / 2**20:.0f} MiB more until PostgreSQL gives it up" if row[5] is not None else ""
    position = lsn_text(int(row[2])) if row[2] is not None else None
    retained = int(row[4]) if row[4] is not None else None
    return [
        StreamStatus(
            name=slot, state=row[3] or "lost", position=position, retained_bytes=retained, detail=left, tables=named
        )
    ]
