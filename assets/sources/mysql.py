"""Connector type ``mysql``, for MySQL and MariaDB: full refresh and incremental reading with a bounded re-read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, HeadraceError, WatermarkError
from assets.sources.interface import ChangeRead, Connector, StreamStatus, TableRead
from assets.sources.mysql_connection import MysqlConfig, connection
from assets.sync import CheckResult, Chunk, Column, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import pyarrow as pa
    import pymysql

    from assets.sources.mysql_capture import LogPosition
    from assets.sources.mysql_read import MysqlRead
    from assets.sources.mysql_snapshot import SnapshotPosition

GRANTS = """\
CREATE USER 'headrace'@'%' IDENTIFIED BY '...' REQUIRE SSL;
GRANT SELECT ON `shop`.* TO 'headrace'@'%';
GRANT PROCESS ON *.* TO 'headrace'@'%';  -- to see which transactions may still commit; else only the overlap serves
-- for cdc, and to read tables of a GiB and more in chunks (MariaDB; on MySQL: REPLICATION SLAVE, REPLICATION CLIENT):
GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO 'headrace'@'%';
"""
TRANSACTIONAL = frozenset(["innodb", "rocksdb", "tokudb", "ndbcluster"])


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
        self,
        table: SourceTable,
        columns: Sequence[Column],
        *,
        tries: int,
        logged: bool = False,
        counted: bool = False,
    ) -> Iterator[tuple[MysqlRead, SnapshotPosition]]:
        """Open one table in one snapshot.

        Args:
            logged: with the snapshot's place in the binlog as the read's ``state``.
            counted: a large table is counted meanwhile, where nobody writes as the snapshot is taken: only then do
                two connections have the same one.
        """
        import pymysql

        from assets.sources import mysql_capture as capture
        from assets.sources.concurrent_count import COUNT_MEANWHILE_FROM_BYTES
        from assets.sources.mysql_catalogue import table_facts
        from assets.sources.mysql_connection import explain, rows
        from assets.sources.mysql_read import MysqlRead
        from assets.sources.mysql_snapshot import BEGIN, open_snapshot, server_identity

        where = f"{self.name}/{table.name}"
        with connection(self.name, self.config) as opened, ExitStack() as stack:
            try:
                facts = table_facts(opened, table)
                facts["server"] = server_identity(opened)
                facts["transactional"] = (facts["engine"] or "innodb").lower() in TRANSACTIONAL
                described = capture.column_facts(opened, table) if logged else []
                places: list[LogPosition | None] = []
                beside = None
                innodb = (facts["engine"] or "").lower() == "innodb"  # of no other engine the writers are known
                if counted and innodb and (table.estimated_bytes or 0) >= COUNT_MEANWHILE_FROM_BYTES:
                    with suppress(HeadraceError):  # no further connection is to be had
                        beside = stack.enter_context(connection(self.name, self.config))

                def begin() -> None:
                    if logged:
                        places.append(capture.open_placed_snapshot(opened, where, self.config))
                    else:
                        rows(opened, BEGIN)
                    if beside:
                        rows(beside, BEGIN)

                position = open_snapshot(opened, begin, tries=tries)
                facts["position"] = int(position.clock.utc.timestamp() * 1_000_000)
                read = MysqlRead(self, opened, table, facts, columns)
                if logged:
                    read.state |= capture.known_position(self.name, self.config, facts, places[-1], described)
                if beside and position.writers is False:
                    stack.enter_context(read.counted_meanwhile(beside))
                yield read, position
            except (pymysql.Error, OSError) as error:
                raise explain(error, where, self.config) from None

    @contextmanager
    def _captured(self, plan: WindowPlan) -> Iterator[TableRead]:
        """A first load in mode cdc: a snapshot, and its place in the binlog."""
        import pymysql

        from assets.sources import mysql_capture as capture
        from assets.sources.mysql_catalogue import table_facts
        from assets.sources.mysql_connection import explain
        from assets.sources.mysql_read import MysqlRead
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
                position = capture.first_position(where, self.config, facts, place, columns)
                read.state |= position
                read.watermark = Watermark(value=place.gtid, position=position)
                read.high = place.gtid
                yield read
            except (pymysql.Error, OSError) as error:
                raise explain(error, where, self.config) from None

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        from assets.sources.mysql_changes import open_changes

        return open_changes(self.name, self.config, plan, partial(self._counted, plan.table))

    def _counted(self, table: SourceTable, opened: pymysql.Connection[Any]) -> int:
        """The table's rows in the snapshot that is open; those of a filter are judged here, as changes are."""
        from assets.row_filter import RowFilter
        from assets.sources.mysql_catalogue import table_facts
        from assets.sources.mysql_connection import quoted, rows
        from assets.sources.mysql_read import MysqlRead

        if not table.row_filter:
            ((count,),) = rows(opened, f"SELECT count(*) FROM {quoted(table.schema_name)}.{quoted(table.table_name)}")
            return int(count)
        row_filter = RowFilter.parse(table.row_filter)
        columns = [column for column in table.columns if column.name in row_filter.columns]
        read = MysqlRead(self, opened, table, table_facts(opened, table) | {"position": 0}, columns)
        return sum(row_filter.mask(batch).true_count for batch in read.careful_batches())

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
        counted = not (plan.chunked or plan.backfill)
        opening = self._snapshot(plan.table, plan.table.columns, tries=tries, logged=plan.chunked, counted=counted)
        with opening as (read, position):
            read.key = plan.key
            if plan.mode == "incremental":
                read.narrow(plan, kind or "")
            if plan.chunked:  # only the read that ends it needs the window, and it costs a scan
                read.ending = partial(read.fix_window, plan, position, kind)
            else:
                read.fix_window(plan, position, kind)
            yield read

    def chunks(self, plan: WindowPlan, chunk_bytes: int) -> list[Chunk]:
        import pymysql

        from assets.sources.mysql_chunks import key_chunks
        from assets.sources.mysql_connection import explain

        small = (plan.table.estimated_bytes or 0) < 2 * chunk_bytes
        if plan.mode != "full" or small or not self.config.read_in_chunks:
            return []
        with connection(self.name, self.config) as opened:
            try:
                return key_chunks(opened, self.name, self.config, plan.table, chunk_bytes)
            except (pymysql.Error, OSError) as error:
                raise explain(error, f"{self.name}/{plan.table.name}", self.config) from None

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
