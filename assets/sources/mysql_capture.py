"""What mode ``cdc`` needs of a MySQL or MariaDB server, and where in the binlog a snapshot lies.

Nothing is made at the source: the binlog is there for replicas, and the server forgets it by its own rules. A position
is a GTID position (MariaDB) or set (MySQL), with the file and place it was at, and when that file was begun.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.errors import SourceAccessError, SourceUnreachableError, StreamLostError, UnsupportedTableError
from assets.sources.interface import StreamStatus
from assets.sources.mysql_binlog_stream import binlog_stream
from assets.sources.mysql_connection import MysqlConfig, connection, is_mariadb, quoted, rows
from assets.sources.mysql_snapshot import BEGIN
from assets.sync import STREAM, SourceTable, Watermark

if TYPE_CHECKING:
    import pymysql

TRIES = 8
SETTLING_SECONDS = 0.02
_COLUMNS = """
SELECT column_name, data_type, column_type, character_set_name, is_nullable, column_default, extra
FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""
# the server changes these rows itself, inside InnoDB, and writes no event
_CASCADES = """
SELECT constraint_name, delete_rule, update_rule FROM information_schema.referential_constraints
WHERE constraint_schema = %s AND table_name = %s
  AND (delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT') OR update_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))
ORDER BY 1 LIMIT 1
"""


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the catalogue describes it."""

    name: str
    data_type: str
    column_type: str
    charset: str | None
    nullable: bool
    without_default: bool

    @property
    def stored(self) -> list[Any]:
        return [self.name, self.column_type, self.charset, self.nullable]


@dataclass(frozen=True)
class LogPosition:
    """Where a snapshot lies in the log. ``exact``: the snapshot shows what the position covers and nothing else."""

    gtid: str
    file: str
    place: int
    exact: bool


def reset_command(connector: str, table: str) -> str:
    return f"Run: headrace sync {connector} {table} --mode cdc --reset"


def column_facts(opened: pymysql.Connection[Any], table: SourceTable) -> list[ColumnFacts]:
    found = []
    for name, kind, full, charset, nullable, default, extra in rows(
        opened, _COLUMNS, [table.schema_name, table.table_name]
    ):
        no_default = default is None or str(default).upper() == "NULL"
        plain = no_default and not any(word in extra.upper() for word in ("GENERATED", "AUTO_INCREMENT"))
        found.append(ColumnFacts(name, kind.lower(), full, charset, nullable == "YES", nullable == "YES" and plain))
    return found


def folds_names(opened: pymysql.Connection[Any]) -> bool:
    """Whether names of databases and tables are the same in any case."""
    ((folds,),) = rows(opened, "SELECT @@lower_case_table_names")
    return bool(int(folds))


def require_capture(opened: pymysql.Connection[Any], name: str, config: MysqlConfig) -> None:
    """Refuse a server or a login that cannot be followed.

    Raises:
        SourceAccessError: what is missing, and the statement that mends it.
    """
    from assets.sources.mysql_check import binlog_prerequisites

    what, fix = binlog_prerequisites(opened, config)
    if what:
        raise SourceAccessError(what, where=name, remedy=fix)


def require_followable(opened: pymysql.Connection[Any], where: str, table: SourceTable, key: Sequence[str]) -> None:
    """Refuse a table whose changes the binlog does not tell.

    Raises:
        UnsupportedTableError: why, and what to do.
    """
    from assets.sources.mysql import TRANSACTIONAL

    if table.kind not in ("table", "partitioned"):
        raise UnsupportedTableError(f"a {table.kind.replace('_', ' ')} has no log of changes", where=where)
    if not key:
        raise UnsupportedTableError(
            "the table has no key, so its changes cannot be applied",
            where=where,
            remedy="Name columns that identify a row with --key, or use --mode full.",
        )
    name = [table.schema_name, table.table_name]
    found = rows(
        opened,
        "SELECT engine, table_type FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
        name,
    )
    engine, kind = found[0] if found else (None, None)
    if kind == "SYSTEM VERSIONED":
        raise UnsupportedTableError(
            "a system-versioned table's log mixes its history with its rows",
            where=where,
            remedy="Use --mode incremental --deletes keys.",
        )
    if (engine or "").lower() not in TRANSACTIONAL:
        raise UnsupportedTableError(
            f"the engine {engine} has no snapshots that the log could follow",
            where=where,
            remedy=f"ALTER TABLE {quoted(name[0])}.{quoted(name[1])} ENGINE = InnoDB; or use --mode full.",
        )
    for constraint, deletes, updates in rows(opened, _CASCADES, name):
        rule = f"ON DELETE {deletes}" if deletes not in ("RESTRICT", "NO ACTION") else f"ON UPDATE {updates}"
        raise UnsupportedTableError(
            f"the foreign key {constraint} changes rows by {rule}, and the binlog does not tell those changes",
            where=where,
            remedy="Use --mode incremental --deletes keys.",
        )


def require_logged(opened: pymysql.Connection[Any], where: str, config: MysqlConfig, schema: str) -> str:
    """Refuse a database that the server leaves out of its log. Returns the log's newest file.

    Raises:
        SourceAccessError: ``binlog_do_db`` or ``binlog_ignore_db`` leaves it out.
    """
    file, _, wanted, ignored = log_end(opened, where, config)
    if (wanted and schema not in wanted.split(",")) or schema in ignored.split(","):
        raise SourceAccessError(
            f"the server leaves database {schema} out of its binlog",
            where=where,
            remedy="Correct binlog_do_db and binlog_ignore_db in the server's configuration, and restart it.",
        )
    return file


def log_end(opened: pymysql.Connection[Any], where: str, config: MysqlConfig) -> tuple[str, int, str, str]:
    """The end of the log: file and position, and the databases it is limited to, or leaves out."""
    import pymysql

    from assets.sources.mysql_check import refused

    try:
        try:
            found = rows(opened, "SHOW MASTER STATUS")
        except pymysql.err.ProgrammingError:  # renamed in MySQL 8.2, gone in 8.4
            found = rows(opened, "SHOW BINARY LOG STATUS")
    except pymysql.err.OperationalError as error:
        raise refused(error, opened, where, config) from None
    if not found:
        raise SourceAccessError("the binlog is off", where=where, remedy="Start the server with log_bin.")
    file, place, wanted, ignored = found[0][:4]
    return file, int(place), wanted or "", ignored or ""


def executed(opened: pymysql.Connection[Any]) -> str:
    """MySQL: the set of transactions that have ended."""
    ((gtids,),) = rows(opened, "SELECT @@global.gtid_executed")
    return str(gtids).replace("\n", "")


def open_snapshot_at(opened: pymysql.Connection[Any], where: str, config: MysqlConfig) -> LogPosition:
    """Begin a read-only transaction with one snapshot, and tell its place in the log.

    MariaDB tells it. MySQL does not: a transaction is in the set of those that ended only after snapshots can see it,
    so the set as it was before the snapshot misses nothing. Where it stays the same for a moment, no more is seen.
    """
    if is_mariadb(opened):
        rows(opened, BEGIN)
        status = dict(rows(opened, "SHOW STATUS LIKE 'binlog_snapshot_%'"))
        found = {name.lower(): value for name, value in status.items()}
        file, place = found["binlog_snapshot_file"], int(found["binlog_snapshot_position"])
        ((gtid,),) = rows(opened, "SELECT binlog_gtid_pos(%s, %s)", [file, place])
        if gtid is not None:
            return LogPosition(gtid, file, place, True)
        rows(opened, "ROLLBACK")
        return _quiet_snapshot(opened, where, config)
    for attempt in range(TRIES):
        file, place, _, _ = log_end(opened, where, config)
        before = executed(opened)
        rows(opened, BEGIN)
        time.sleep(SETTLING_SECONDS)
        exact = executed(opened) == before
        if exact or attempt == TRIES - 1:
            return LogPosition(before, file, place, exact)
        rows(opened, "ROLLBACK")
    raise AssertionError("unreachable")


def _quiet_snapshot(opened: pymysql.Connection[Any], where: str, config: MysqlConfig) -> LogPosition:
    """MariaDB's snapshot where ``binlog_gtid_pos`` knows no answer: it reads the file, and stops at an event that is
    larger than ``max_allowed_packet`` (a row of 16 MiB). The newest GTID serves while nothing else is logged.
    """
    for _ in range(TRIES):
        ((gtid,),) = rows(opened, "SELECT @@global.gtid_binlog_pos")
        file, place, _, _ = log_end(opened, where, config)
        rows(opened, BEGIN)
        status = {name.lower(): value for name, value in rows(opened, "SHOW STATUS LIKE 'binlog_snapshot_%'")}
        ((after,),) = rows(opened, "SELECT @@global.gtid_binlog_pos")
        here = (status["binlog_snapshot_file"], int(status["binlog_snapshot_position"]))
        if gtid == after and here == (file, place):
            return LogPosition(gtid, file, place, True)
        rows(opened, "ROLLBACK")
        time.sleep(SETTLING_SECONDS)
    raise SourceUnreachableError(
        "the server does not tell the GTID of a place in its binlog",
        where=where,
        remedy="Its newest file was purged, or holds a row larger than max_allowed_packet: FLUSH BINARY LOGS;",
    )


def open_placed_snapshot(opened: pymysql.Connection[Any], where: str, config: MysqlConfig) -> LogPosition | None:
    """As `open_snapshot_at`, but a snapshot whose place the server does not tell is one, too: None."""
    try:
        return open_snapshot_at(opened, where, config)
    except SourceUnreachableError:
        rows(opened, BEGIN)
        return None


def first_position(
    name: str, config: MysqlConfig, facts: Mapping[str, Any], found: LogPosition, columns: Sequence[ColumnFacts]
) -> dict[str, Any]:
    """The watermark's position of a first load.

    Args:
        facts: the server's identity as ``server``, the snapshot's moment as ``position``.
    """
    with binlog_stream(name, config) as stream:
        made = stream.begun(found.file)
    return {
        STREAM: "binlog",
        "server": facts["server"],
        "gtid": found.gtid,
        "file": found.file,
        "place": found.place,
        "made": made,
        "last": facts["position"],
        "columns": [column.stored for column in columns],
        "prepared": [],
    }


def known_position(
    name: str, config: MysqlConfig, facts: Mapping[str, Any], found: LogPosition | None, columns: Sequence[ColumnFacts]
) -> dict[str, Any]:
    """As `first_position`; empty where the server does not tell the place, or its log not any more."""
    if found is None:
        return {}
    try:
        return first_position(name, config, facts, found, columns)
    except (SourceAccessError, StreamLostError):
        return {}


def change_status(
    name: str, config: MysqlConfig, followed: Mapping[str, Watermark] | None = None
) -> list[StreamStatus]:
    """The server's log: how far it goes, how much it holds, and whether it reaches the places of followed tables."""
    import pymysql

    from assets.sources.mysql_check import refused

    with connection(name, config) as opened:
        try:
            file, place, _, _ = log_end(opened, name, config)
            files = {row[0]: int(row[1]) for row in rows(opened, "SHOW BINARY LOGS")}
        except pymysql.Error as error:
            raise refused(error, opened, name, config) from None
        keeps = dict(
            rows(
                opened,
                "SHOW GLOBAL VARIABLES WHERE variable_name IN ('expire_logs_days', 'binlog_expire_logs_seconds')",
            )
        )
        gtid = rows(opened, "SELECT @@gtid_binlog_pos")[0][0] if is_mariadb(opened) else executed(opened)
    seconds = float(keeps.get("binlog_expire_logs_seconds") or 0) or 86_400 * float(keeps.get("expire_logs_days") or 0)
    kept = f"the server removes files after {seconds / 86_400:g} days" if seconds else "the server removes no files"
    names = list(files)
    found = []
    for table, watermark in sorted((followed or {}).items()):
        if watermark.position.get(STREAM) != "binlog":
            continue
        at, from_place = watermark.position["file"], int(watermark.position["place"])
        there = at in files
        ahead = sum(files[later] for later in names[names.index(at) :]) - from_place if there else None
        found.append(
            StreamStatus(
                name="binlog",
                state="followed" if there else "lost, unless a later file begins where the sync ended",
                position=watermark.value or None,
                retained_bytes=ahead,
                detail=f"{at}:{from_place}",
                tables=(table,),
            )
        )
    total = StreamStatus(
        name="binlog", state="on", position=gtid, retained_bytes=sum(files.values()), detail=f"{file}:{place}; {kept}"
    )
    return [total, *found]
