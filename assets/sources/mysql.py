"""Connector type ``mysql``, for MySQL and MariaDB: full refresh and incremental reading with a bounded re-read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, WatermarkError
from assets.sources.interface import UNFIT_COLUMN, ChangeRead, Connector, StreamStatus, TableRead
from assets.sources.mysql_connection import MysqlConfig, connection, quoted, rows
from assets.sources.mysql_lossy_text import loses_text
from assets.sync import CheckResult, Column, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    import pymysql

    from assets.sources.mysql_snapshot import SnapshotPosition

GRANTS = """\
CREATE USER 'headrace'@'%' IDENTIFIED BY '...' REQUIRE SSL;
GRANT SELECT ON `shop`.* TO 'headrace'@'%';
GRANT PROCESS ON *.* TO 'headrace'@'%';  -- to see which transactions may still commit; else only the overlap serves
-- for cdc (MariaDB; on MySQL: REPLICATION SLAVE, REPLICATION CLIENT):
GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO 'headrace'@'%';
"""
TRANSACTIONAL = frozenset(["innodb", "rocksdb", "tokudb", "ndbcluster"])


def selected(column: Column, name: str = "") -> str:
    """A column as it is selected, by its rule."""
    name = name or quoted(column.name)
    if column.rule == "real":
        return f"{name} * 1e0"  # MySQL prints a float with six digits, a double with all of them
    if column.rule == "bits":
        digits = column.source_type.partition("(")[2].rstrip(") ") or "1"
        return f"lpad(bin({name}), {int(digits)}, '0')"
    return name


class MysqlRead(TableRead):
    """One table in one snapshot."""

    def __init__(
        self,
        connector: MysqlConnector,
        opened: pymysql.Connection[Any],
        table: SourceTable,
        facts: dict[str, Any],
        columns: Sequence[Column],
    ) -> None:
        import pyarrow as pa

        self._connector, self._opened, self._table, self._facts = connector, opened, table, facts
        self._relation = f"{quoted(table.schema_name)}.{quoted(table.table_name)}"
        self._columns = columns
        self._where = self._wanted = "true"
        if table.row_filter:
            from assets.sources.mysql_filter import MysqlWords
            from assets.sources.server_filter import server_condition

            sent = server_condition(table.row_filter, table.columns, MysqlWords(opened.literal))
            self._where = self._wanted = sent or "true"
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        self.position = facts["position"]
        self.reader = "text"
        self.low = self.high = None
        self.watermark = None
        self._future = 0
        self._parsers: list[Any] = []
        self.key: tuple[str, ...] = ()

    def _parser(self, columns: Sequence[Column], schema: pa.Schema) -> Any:
        from assets.sources.mysql_text import RowParser

        where = f"{self._connector.name}/{self._table.name}"
        self._parsers = [RowParser(where, columns, schema, self.key)]
        return self._parsers[0]

    def _lossy(self, column: Column) -> str:
        """The condition that a value of another character set has no UTF-8 form."""
        return loses_text(quoted(column.name), self._facts["charsets"][column.name])

    def _converted(self, columns: Sequence[Column]) -> list[Column]:
        return [c for c in columns if c.rule == "converted"]

    def _select(self, columns: Sequence[Column], *, checked: bool) -> str:
        items = [selected(c) for c in columns]
        if checked:
            items += [f"CASE WHEN {self._lossy(c)} THEN hex({quoted(c.name)}) END" for c in self._converted(columns)]
        return f"SELECT {', '.join(items)} FROM {self._relation} WHERE {self._where}"

    def narrow(self, plan: WindowPlan, kind: str) -> None:
        """Read what may be new since ``plan.previous``: from its cursor value on, or all rows."""
        from assets.sources.mysql_snapshot import all_rows_reason, reread_from

        assert plan.previous is not None
        config = self._connector.config
        self.rereads = True
        self.reread_reason = all_rows_reason(
            plan.previous, kind, self._facts["server"], self._facts["table"], config.late_commits
        )
        if self.reread_reason:
            return
        cursor = quoted(plan.cursor or "")
        self.reread_low = reread_from(plan.previous, kind)
        conditions = [f"{cursor} >= {self._opened.literal(self.reread_low)}", f"{cursor} IS NULL"]
        if kind.startswith(("timestamp", "date")):
            conditions.append(f"{cursor} < '0001-01-01'")  # zero dates are another way to say NULL
        self._where = f"({' OR '.join(conditions)}) AND {self._wanted}"

    def fix_window(self, plan: WindowPlan, position: SnapshotPosition, kind: str | None) -> None:
        """Fix ``high`` in this snapshot: the greatest cursor that does not lie beyond the server's clock."""
        from assets.sources.mysql_snapshot import moment

        previous = plan.previous if plan.mode == "incremental" else None
        self.low = plan.low
        value = previous.value if previous else None
        if plan.cursor and kind:
            cursor = quoted(plan.cursor)
            limit, ahead = "", ""
            if kind.startswith(("timestamp", "date")):
                clock = position.clock
                now, latest = (clock.utc, clock.utc) if "UTC" in kind else (clock.low, clock.high)
                limit = f"WHERE {cursor} >= '0001-01-01' AND {cursor} <= '{moment(now)}'"
                ahead = f"{cursor} > '{moment(latest)}'"
            ((found,),) = rows(self._opened, f"SELECT cast(max({cursor}) AS char) FROM {self._relation} {limit}")
            if found is not None and (value is None or _later(kind, found, value)):
                value = found
            if ahead:
                query = f"SELECT count(*) FROM {self._relation} WHERE {ahead} AND {self._where}"
                ((self._future,),) = rows(self._opened, query)
        self.high = value
        stored = position.stored(self._facts["server"], self._facts["table"], self._connector.config.overlap_seconds)
        new = Watermark(cursor=plan.cursor, cursor_type=kind, value=value, position=stored)
        unmoved = previous is not None and previous.value == value and not self.reread_reason
        self.watermark = previous if unmoved and not position.writers else new

    def batches(self) -> Iterator[pa.RecordBatch]:
        from assets.sources.mysql_fast import fast_batches

        self.reader = "packets"
        query = self._select(self._columns, checked=False)
        yield from fast_batches(self._opened, query, self._columns, self._parser(self._columns, self.schema))

    def careful_batches(self) -> Iterator[pa.RecordBatch]:
        from assets.sources.mysql_text import text_batches

        self.reader = "text"
        query = self._select(self._columns, checked=True)
        yield from text_batches(self._opened, query, self._columns, self._parser(self._columns, self.schema))

    def needs_care(self) -> bool:
        """Ask the server whether a value of the window fits no column type; takes a scan of the table."""
        conditions = [self._lossy(c) for c in self._converted(self._columns)]
        for column in self._columns:
            if column.arrow_type.startswith(("date", "timestamp")):
                name = quoted(column.name)
                conditions.append(f"({name} < '0001-01-01' OR ({name} IS NOT NULL AND last_day({name}) IS NULL))")
        if not conditions:
            return False
        query = f"SELECT 1 FROM {self._relation} WHERE {self._where} AND ({' OR '.join(conditions)}) LIMIT 1"
        return bool(rows(self._opened, query))

    def estimate(self, plan: WindowPlan, *, keys: bool) -> ReadEstimate:
        """The window by the server's planner; nothing is read."""
        query = self._select(self._columns, checked=False)
        asked = query
        if self.reread_low is not None:  # alone the planner estimates it from the cursor's index
            cursor = quoted(plan.cursor or "")
            low = self._opened.literal(self.reread_low)
            asked = f"SELECT {cursor} FROM {self._relation} WHERE {cursor} >= {low}"
        ((told,),) = rows(self._opened, f"EXPLAIN FORMAT=JSON {asked}")
        count = planner_rows(json.loads(told))
        table = self._table
        width = (table.estimated_bytes or 0) / table.estimated_rows if table.estimated_rows else 0
        statements = [query]
        if keys:
            names = ", ".join(quoted(name) for name in plan.key)
            statements.append(f"SELECT {names} FROM {self._relation} WHERE {self._wanted}")
        if self._facts["transactional"]:
            statements.append(f"SELECT count(*) FROM {self._relation}")
        return ReadEstimate(
            rows=count,
            bytes=round(count * width),
            statements=tuple(statements),
            detail=f"EXPLAIN; {self.reread_reason}" if self.reread_reason else "EXPLAIN; at most, without an index",
            rereads=self.rereads,
        )

    def keys(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from assets.sources.mysql_text import text_batches

        by_name = {c.name: c for c in self._table.columns}
        columns = [by_name[name] for name in self.key]
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in columns]
        parser = self._parser(columns, pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())]))
        where, self._where = self._where, self._wanted
        query = self._select(columns, checked=True)
        self._where = where
        for batch in text_batches(self._opened, query, columns, parser):
            yield batch.select(list(self.key))

    def source_rows(self) -> int | None:
        if not self._facts["transactional"]:
            return None  # rows may have come since: such an engine has no snapshots
        ((count,),) = rows(self._opened, f"SELECT count(*) FROM {self._relation}")
        return int(count)

    @property
    def future_rows(self) -> int:
        return self._future

    @property
    def unfit_values(self) -> int:
        return sum(parser.unfit_values for parser in self._parsers)


def planner_rows(told: Any) -> int:
    """Rows of the one table in an EXPLAIN, in the words of MariaDB (``rows``) or MySQL (``rows_produced_per_join``)."""
    if isinstance(told, list):
        return max((planner_rows(item) for item in told), default=0)
    if not isinstance(told, dict):
        return 0
    table = told.get("table")
    if isinstance(table, dict) and ("rows" in table or "rows_produced_per_join" in table):
        if "rows_produced_per_join" in table:
            return int(table["rows_produced_per_join"])
        return round(float(table["rows"]) * float(table.get("filtered", 100)) / 100)
    return max((planner_rows(item) for item in told.values()), default=0)


def _later(kind: str, new: str, old: str) -> bool:
    if kind.startswith(("timestamp", "date")):
        return new > old  # the same form, so text orders as time does
    return int(new) > int(old)


class MysqlConnector(Connector):
    """A MySQL or MariaDB server."""

    type_name: ClassVar[str] = "mysql"
    supports_cdc: ClassVar[bool] = True
    Config = MysqlConfig
    grants = GRANTS
    config: MysqlConfig

    def check(self) -> list[CheckResult]:
        return list(self.checks())

    def checks(self) -> Iterator[CheckResult]:
        from assets.sources.mysql_check import check_mysql

        yield from check_mysql(self.name, self.config)

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        from assets.sources.mysql_catalogue import list_tables

        with connection(self.name, self.config) as opened:
            return list_tables(opened, self.name, self.config.databases, tables)

    def probe(self, tables: Sequence[str]) -> str:
        from assets.sources.mysql_probe import change_probe

        with connection(self.name, self.config) as opened:
            return change_probe(opened, tables)

    def cursor_kind(self, table: SourceTable, cursor: str) -> str:
        """The cursor's contract type.

        Raises:
            ConfigurationError: the column is not there, or its type has no order that can be trusted.
        """
        from assets.sources.mysql_catalogue import CURSOR_TYPES

        where = f"{self.name}/{table.name}"
        kind = next((c.arrow_type for c in table.columns if c.name == cursor), None)
        if kind is None:
            raise ConfigurationError(
                f"the cursor column {cursor} is not there", where=where, remedy="Correct --cursor."
            )
        if kind not in CURSOR_TYPES:
            raise ConfigurationError(
                f"column {cursor} cannot be a cursor: it is stored as {kind}",
                where=where,
                remedy="Name a timestamp, datetime, date or integer column with --cursor.",
            )
        return kind

    @contextmanager
    def _snapshot(
        self, table: SourceTable, columns: Sequence[Column], *, tries: int
    ) -> Iterator[tuple[MysqlRead, SnapshotPosition]]:
        import pymysql

        from assets.sources.mysql_catalogue import table_facts
        from assets.sources.mysql_connection import explain
        from assets.sources.mysql_snapshot import open_snapshot, server_identity

        where = f"{self.name}/{table.name}"
        with connection(self.name, self.config) as opened:
            try:
                facts = table_facts(opened, table)
                facts["server"] = server_identity(opened)
                facts["transactional"] = (facts["engine"] or "innodb").lower() in TRANSACTIONAL
                position = open_snapshot(opened, tries=tries)
                facts["position"] = int(position.clock.utc.timestamp() * 1_000_000)
                yield MysqlRead(self, opened, table, facts, columns), position
            except (pymysql.Error, OSError) as error:
                raise explain(error, where, self.config) from None

    @contextmanager
    def _captured(self, plan: WindowPlan) -> Iterator[TableRead]:
        """A first load in mode cdc: a snapshot, and its place in the binlog."""
        import pymysql

        from assets.sources import mysql_capture as capture
        from assets.sources.mysql_catalogue import table_facts
        from assets.sources.mysql_connection import explain
        from assets.sources.mysql_snapshot import server_clock, server_identity

        table = plan.table
        where = f"{self.name}/{table.name}"
        with connection(self.name, self.config) as opened:
            try:
                capture.require_capture(opened, where, self.config)
                capture.require_followable(opened, where, table, plan.key)
                capture.require_logged(opened, where, self.config, table.schema_name)
                columns = capture.column_facts(opened, table)
                clock = server_clock(opened)
                facts = table_facts(opened, table) | {"server": server_identity(opened), "transactional": True}
                facts["position"] = int(clock.utc.timestamp() * 1_000_000)
                place = capture.open_snapshot_at(opened, where, self.config)
                read = MysqlRead(self, opened, table, facts, table.columns)
                read.key = plan.key
                read.watermark = capture.first_position(
                    where, self.config, facts["server"], place, columns, facts["position"]
                )
                read.high = place.gtid
                yield read
            except (pymysql.Error, OSError) as error:
                raise explain(error, where, self.config) from None

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        from assets.sources.mysql_changes import open_changes

        return open_changes(self.name, self.config, plan)

    def change_status(self, followed: Mapping[str, Watermark] | None = None) -> list[StreamStatus]:
        from assets.sources.mysql_capture import change_status

        return change_status(self.name, self.config, followed)

    @contextmanager
    def open_read(self, plan: WindowPlan) -> Iterator[TableRead]:
        from assets.sources.mysql_snapshot import TRIES

        if plan.captures:
            with self._captured(plan) as read:
                yield read
            return
        kind = self.cursor_kind(plan.table, plan.cursor) if plan.cursor else None
        if plan.previous and plan.mode == "incremental" and plan.previous.cursor_type != kind:
            raise WatermarkError(
                f"the cursor {plan.cursor} was {plan.previous.cursor_type} and is now {kind}",
                where=f"{self.name}/{plan.table.name}",
                remedy=f"Run: headrace sync {self.name} {plan.table.name} --mode full",
            )
        tries = TRIES if kind and self.config.late_commits == "compare" else 1
        with self._snapshot(plan.table, plan.table.columns, tries=tries) as (read, position):
            read.key = plan.key
            if plan.mode == "incremental":
                read.narrow(plan, kind or "")
            read.fix_window(plan, position, kind)
            yield read

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        kind = self.cursor_kind(plan.table, plan.cursor) if plan.cursor else None
        with self._snapshot(plan.table, plan.table.columns, tries=1) as (read, _):
            if plan.mode == "incremental":
                read.narrow(plan, kind or "")
            return read.estimate(plan, keys=keys)

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        by_name = {c.name: c for c in table.columns}
        chosen = table.columns if columns is None else [by_name[name] for name in columns]
        with self._snapshot(table, chosen, tries=1) as (read, _):
            read.batches = read.careful_batches  # type: ignore[method-assign]
            yield read

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.database_dlt import database_source

        return database_source(self, tables, **options)
