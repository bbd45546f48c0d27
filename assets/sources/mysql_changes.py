"""The changes of one MySQL or MariaDB table: all transactions of the binlog between two snapshots' places in it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.errors import SchemaChangedError, SourceUnreachableError, StreamLostError, UnsupportedTableError
from assets.row_filter import RowFilter
from assets.sources import mysql_binlog_events as log
from assets.sources.interface import ChangeBatch, ChangeRead
from assets.sources.mysql_binlog_decoder import ChangeDecoder, TableNow
from assets.sources.mysql_binlog_rows import LoggedColumn, tells_members
from assets.sources.mysql_binlog_statements import TableStatements
from assets.sources.mysql_binlog_stream import BinlogStream, Placed, binlog_stream
from assets.sources.mysql_capture import (
    ColumnFacts,
    LogPosition,
    column_facts,
    folds_names,
    open_snapshot_at,
    require_capture,
    require_followable,
    require_logged,
    reset_command,
)
from assets.sources.mysql_charsets import Charsets
from assets.sources.mysql_connection import MysqlConfig, connection, is_mariadb, rows
from assets.sources.mysql_gtids import GtidWindow
from assets.sources.mysql_snapshot import server_identity
from assets.sync import STREAM, Column, SourceTable, Watermark, WindowPlan

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pymysql

    from assets.sources.mysql_log_window import LogWindow

UNMOVED_BYTES = 16 << 20
"""A table without changes gets a new watermark only when the log has grown by as much, or is in another file."""
TELL_SECONDS = 1.0
_TRANSACTION = re.compile(
    r"(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|XA)\b(\s+(?:COMMIT|ROLLBACK|END|START|TO)\b)?", re.IGNORECASE
)
_FILE_NUMBER = re.compile(r"(\d+)\Z")


def file_number(file: str) -> int:
    found = _FILE_NUMBER.search(file)
    return int(found[1]) if found else 0


class MysqlChangeRead(ChangeRead):
    """One table's changes, from the binlog."""

    reader = "binlog"

    def __init__(
        self,
        where: str,
        remedy: str,
        streaming: AbstractContextManager[BinlogStream],
        decoder: ChangeDecoder,
        statements: TableStatements,
        window: GtidWindow,
        previous: Watermark,
        end: LogPosition,
        position: dict[str, Any],
        rows: int | None,
    ) -> None:
        self._where, self._remedy, self._streaming, self._decoder = where, remedy, streaming, decoder
        self._statements, self._window = statements, window
        self._previous, self._end, self._position, self._rows = previous, end, position, rows
        self.schema = decoder.schema
        self.low, self.high = previous.value, end.gtid
        self._taking = True
        self._rows_of_transaction = False
        self._prepared: set[str] = set(previous.position.get("prepared") or [])
        self._any = False

    def batches(self) -> Iterator[ChangeBatch]:
        before = self._previous.position
        decoder = self._decoder
        if before["gtid"] == self._end.gtid:
            places = (file_number(self._end.file), self._end.place), (file_number(before["file"]), before["place"])
            if self._window.by_place and places[0] < places[1]:
                raise StreamLostError("the server's binlog was begun anew (RESET MASTER)", where=self._where)
        else:
            empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in self.schema], schema=self.schema)
            told = time.monotonic()
            with self._streaming as stream:
                reached = False
                first = ""
                placed = Placed(log.Event(0, log.ROTATE, 0, 0, 0, b""), before["file"], before["place"])
                for placed in stream.after(before["gtid"]):
                    if not first and placed.file and placed.event.kind != log.ROTATE:
                        first = placed.file
                        self._require_same_log(stream, first)
                    if self._window.is_past(placed):
                        reached = True
                        break
                    self._take(placed)
                    if decoder.full:
                        yield from self._noted(decoder.take())
                    if self._window.is_reached(placed):
                        reached = True
                        break
                    if time.monotonic() - told > TELL_SECONDS:
                        told = time.monotonic()
                        yield ChangeBatch(empty, "u", pa.array([], pa.int64()))
                if not reached and not self._window.may_end_early:
                    raise SourceUnreachableError("the binlog ended before the sync's position", where=self._where)
                if self._end.file not in stream.made:  # the last transaction lies in an earlier file
                    self._position |= {"file": placed.file, "place": placed.end}
                self._position["made"] = stream.made[self._position["file"]]
        yield from self._noted(decoder.take())
        self._require_told_columns()

    def _noted(self, batches: Iterator[ChangeBatch]) -> Iterator[ChangeBatch]:
        for batch in batches:
            self._any = True
            yield batch

    def _require_same_log(self, stream: BinlogStream, file: str) -> None:
        """Refuse a log that was begun anew, whose transactions have the same numbers and other contents."""
        before = self._previous.position
        if file == before["file"] and stream.made.get(file) not in (None, before["made"]):
            raise StreamLostError(
                "the server's binlog was begun anew (RESET MASTER, or another server)", where=self._where
            )
        if self._window.by_place and file != before["file"]:
            if file_number(file) < file_number(before["file"]) - 1:
                raise StreamLostError("the server's binlog was begun anew (RESET MASTER)", where=self._where)
            if before["server"] != self._position["server"]:
                raise StreamLostError("the server is another one since the last sync", where=self._where)

    # one event

    def _take(self, placed: Placed) -> None:
        event = placed.event
        kind = event.kind
        if kind in log.ROWS:
            if self._taking and self._decoder.feed(event):
                self._rows_of_transaction = True
        elif kind == log.TABLE_MAP:
            self._decoder.describe(event.body)
        elif kind in (log.MARIADB_GTID, log.GTID):
            self._taking = self._window.begins(event)
            self._rows_of_transaction = False
        elif kind == log.XID:
            self._window.ends()
        elif kind in (log.QUERY, log.QUERY_COMPRESSED):
            self._statement(log.parse_query(event))
        elif kind == log.XA_PREPARE:
            self._xa_prepared(*log.xa_prepared(event.body))
        elif kind in (log.ROTATE, log.FORMAT):
            self._decoder.forget()
        elif kind == log.ANONYMOUS:
            raise StreamLostError(
                "transactions without a GTID were logged (SET GLOBAL gtid_mode = ON)", where=self._where
            )
        elif kind == log.INCIDENT:
            raise StreamLostError("the server lost changes of its binlog (an incident event)", where=self._where)
        elif kind == log.PARTIAL_UPDATE:
            raise StreamLostError(
                "changes of JSON were logged in part (SET GLOBAL binlog_row_value_options = '')", where=self._where
            )
        elif kind == log.EXECUTE_LOAD:
            if self._statements.names_table(event.body):
                raise StreamLostError("a change was logged as a statement, not as rows", where=self._where)
        elif kind not in log.HARMLESS and not event.flags & log.IGNORABLE:
            raise UnsupportedTableError(
                f"the binlog holds events of the unknown type {kind}",
                where=self._where,
                remedy="Use --mode incremental --deletes keys.",
            )

    def _statement(self, statement: log.Statement) -> None:
        found = _TRANSACTION.match(statement.text)
        if found is None:
            self._window.ends()
            if self._taking:
                self._effects(statement)
            return
        verb, more = found[1].upper(), (found[2] or "").strip().upper()
        if verb == "XA" and more in ("COMMIT", "ROLLBACK"):
            self._window.ends()
            self._xa_ended("".join(statement.text.split()[2:3]), more)
        elif verb == "ROLLBACK" and self._rows_of_transaction:
            raise StreamLostError("a transaction that changed the table was rolled back in part", where=self._where)
        elif verb == "COMMIT" or (verb == "ROLLBACK" and not more):
            self._window.ends()

    def _xa_prepared(self, one_phase: bool, name: str) -> None:
        self._window.ends()
        if one_phase:
            return
        if self._rows_of_transaction:
            raise UnsupportedTableError(
                "an XA transaction changed the table, and its rows are logged before it commits",
                where=self._where,
                remedy="Use --mode incremental --deletes keys.",
            )
        self._prepared.add(name)

    def _xa_ended(self, name: str, how: str) -> None:
        if name in self._prepared:
            self._prepared.discard(name)
        elif how == "COMMIT" and self._taking:
            raise StreamLostError(
                "an XA transaction was prepared before the last sync and committed since", where=self._where
            )

    def _effects(self, statement: log.Statement) -> None:
        effects = self._statements.effects(statement.text, statement.schema)
        if effects is None:
            return
        if effects.lost:
            raise StreamLostError(f"{effects.lost} since the last sync", where=self._where)
        if effects.truncated:
            self._decoder.truncated()
            return
        if effects.changed:
            raise SchemaChangedError(
                f"{effects.changed} since the last sync: no log tells the rows' values",
                where=self._where,
                remedy=self._remedy,
            )
        self._decoder.altered(effects.added, effects.dropped, effects.redefined)

    # columns

    def _require_told_columns(self) -> None:
        """Refuse columns that differ in a way that the log did not tell.

        Raises:
            SchemaChangedError: renamed, retyped, added with a default, or added and dropped under one name.
        """
        decoder = self._decoder
        before = {stored[0].lower(): stored for stored in self._previous.position["columns"]}
        now = {facts.name.lower(): facts for facts in decoder.table.facts}

        def refuse(what: str) -> SchemaChangedError:
            return SchemaChangedError(what, where=self._where, remedy=self._remedy)

        for name in decoder.redefined:
            if decoder.redefined.count(name) > 1:
                raise refuse(f"column {name} was defined anew more than once since the last sync")
        for name, facts in now.items():
            if name not in before:
                if not facts.without_default:
                    raise refuse(f"column {name} was added with a default: no log tells its value in the rows before")
                if name not in decoder.added:
                    raise refuse(f"column {name} is new, and the log does not tell how it came")
            elif name in decoder.dropped:
                raise refuse(f"column {name} was dropped and added again since the last sync")
            elif (before[name] != facts.stored or name in decoder.redefined) and not keeps_values(before[name], facts):
                raise refuse(f"the type of column {name} changed since the last sync")
        if gone := [name for name in before if name not in now and name not in decoder.dropped]:
            raise refuse(f"column {gone[0]} is gone, and the log does not tell how")

    @property
    def truncates(self) -> Sequence[int]:
        return self._decoder.truncates

    @property
    def watermark(self) -> Watermark:
        before = self._previous.position
        if before["gtid"] == self._end.gtid:
            return self._previous
        unchanged = not self._any and not self.truncates and before["columns"] == self._position["columns"]
        near = before["file"] == self._end.file and self._end.place - before["place"] < UNMOVED_BYTES
        if unchanged and near and self._prepared == set(before.get("prepared") or []):
            return self._previous
        position = self._position | {"last": self._decoder.last, "prepared": sorted(self._prepared)}
        return Watermark(value=self._end.gtid, position=position)

    def source_rows(self) -> int | None:
        return self._rows

    @property
    def unfit_values(self) -> int:
        return self._decoder.unfit_values


def keeps_values(before: Sequence[Any], now: ColumnFacts) -> bool:
    """Whether a column's new definition left every stored value as it was."""
    _, kind, charset, nullable = before
    if charset != now.charset or (nullable and not now.nullable):
        return False
    if now.data_type in ("enum", "set"):
        return tells_members(kind) and (kind == now.column_type or now.column_type.startswith(kind[:-1] + ","))
    old, new = kind.lower(), now.column_type.lower()
    if old == new:
        return True
    base, _, rest = old.partition("(")
    new_base, _, new_rest = new.partition("(")
    if base != new_base:
        return False
    if base in ("varchar", "varbinary"):
        return int(rest.split(")")[0]) <= int(new_rest.split(")")[0])
    if base == "decimal":
        (p, s), (q, t) = (tuple(map(int, r.split(")")[0].split(","))) for r in (rest, new_rest))
        padded = "zerofill" in new_rest and q > 38  # it is stored as text of the width that is declared
        return s == t and (p == q or (p < q and not padded)) and rest.split(")")[1] == new_rest.split(")")[1]
    if base in ("tinyint", "smallint", "mediumint", "int", "bigint"):  # the width is for display
        return rest.partition(")")[2] == new_rest.partition(")")[2]
    return False


@contextmanager
def open_changes(
    connector: str, config: MysqlConfig, plan: WindowPlan, counted: Callable[[pymysql.Connection[Any]], int]
) -> Iterator[MysqlChangeRead]:
    """See ``Connector.open_changes``.

    Args:
        counted: the table's rows that pass its filter, in the transaction that is open.
    """
    table = plan.table
    where = f"{connector}/{table.name}"
    remedy = reset_command(connector, table.name)
    assert plan.previous is not None
    before = plan.previous.position
    try:
        with connection(connector, config) as opened:
            require_capture(opened, where, config)
            require_followable(opened, where, table, plan.key)
            require_logged(opened, where, config, table.schema_name)
            if before.get(STREAM) != "binlog":
                raise StreamLostError("the table was followed on another kind of server", where=where)
            facts = column_facts(opened, table)
            fold = folds_names(opened)
            end = open_snapshot_at(opened, where, config)
            try:
                count = counted(opened) if end.exact else None
            finally:
                rows(opened, "ROLLBACK")
            window = GtidWindow.between(before["gtid"], end, mariadb=is_mariadb(opened), where=where)
            position = {
                STREAM: "binlog",
                "server": server_identity(opened),
                "gtid": end.gtid,
                "file": end.file,
                "place": end.place,
                "made": before["made"],
                "columns": [column.stored for column in facts],
            }
            described = TableNow(
                where=where,
                remedy=remedy,
                schema=table.schema_name,
                table=table.table_name,
                fold=fold,
                key=plan.key,
                columns=_logged(table.columns, facts, where),
                facts=tuple(facts),
                same_columns=before["columns"] == position["columns"],
                row_filter=RowFilter.parse(table.row_filter) if table.row_filter else None,
            )
            decoder = ChangeDecoder(described, Charsets(opened), max(int(before["last"]), plan.previous.newest))
            yield MysqlChangeRead(
                where,
                remedy,
                binlog_stream(connector, config),
                decoder,
                TableStatements(table.schema_name, table.table_name, fold=fold),
                window,
                plan.previous,
                end,
                position,
                count,
            )
    except StreamLostError as error:
        raise StreamLostError(error.what, where=where, remedy=remedy) from None
    except log.MalformedEventError as error:
        raise StreamLostError(f"the binlog cannot be read: {error}", where=where, remedy=remedy) from None


def key_changes(
    opened: pymysql.Connection[Any],
    connector: str,
    config: MysqlConfig,
    table: SourceTable,
    key: Column,
    window: LogWindow,
) -> MysqlChangeRead:
    """The table's changes in a window of the log, of their columns only ``key``."""
    where = f"{connector}/{table.name}"
    facts, fold = column_facts(opened, table), folds_names(opened)
    described = TableNow(
        where=where,
        remedy="",
        schema=table.schema_name,
        table=table.table_name,
        fold=fold,
        key=(key.name,),
        columns=_logged([key], facts, where),
        facts=tuple(facts),
        same_columns=window.before.position["columns"] == [column.stored for column in facts],
    )
    window.decoder = decoder = ChangeDecoder(described, Charsets(opened), 0)
    return MysqlChangeRead(
        where,
        "",
        binlog_stream(connector, config),
        decoder,
        TableStatements(table.schema_name, table.table_name, fold=fold),
        window,
        window.before,
        window.end,
        dict(window.now),
        None,
    )


def _logged(columns: Sequence[Column], facts: Sequence[ColumnFacts], where: str) -> tuple[LoggedColumn, ...]:
    by_name = {column.name: column for column in facts}
    found = []
    for column in columns:
        now = by_name.get(column.name)
        if now is None or now.column_type != column.source_type:
            raise SourceUnreachableError(f"column {column.name} was altered while the sync began", where=where)
        found.append(LoggedColumn(column, now.data_type, now.charset))
    return tuple(found)
