"""Connector type ``postgres``: full refresh and snapshot-exact incremental reading."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, WatermarkError
from assets.sources.interface import ChangeRead, Connector, StreamStatus, TableRead
from assets.sources.postgres_connection import PostgresConfig, connection, explain
from assets.sources.postgres_read import PostgresRead
from assets.sync import CheckResult, Chunk, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import pyarrow as pa


GRANTS = """\
CREATE ROLE headrace LOGIN PASSWORD '...';
GRANT CONNECT ON DATABASE shop TO headrace;
GRANT USAGE ON SCHEMA public TO headrace;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO headrace;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO headrace;  -- run by the owner of the tables
"""


class PostgresConnector(Connector):
    """A PostgreSQL database, 13 or later."""

    type_name: ClassVar[str] = "postgres"
    supports_cdc: ClassVar[bool] = True
    filters_rows: ClassVar[bool] = True
    Config = PostgresConfig
    grants = GRANTS
    config: PostgresConfig

    def check(self) -> list[CheckResult]:
        return list(self.checks())

    def checks(self) -> Iterator[CheckResult]:
        from assets.sources.postgres_check import check_postgres

        yield from check_postgres(self.name, self.config)

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        from assets.sources.postgres_catalogue import list_tables

        with connection(self.name, self.config) as opened:
            return [table for _, table in list_tables(opened, self.name, self.config.schemas, tables)]

    def probe(self, tables: Sequence[str]) -> str:
        from assets.sources.postgres_probe import change_probe

        with connection(self.name, self.config) as opened:
            return change_probe(opened, tables)

    def cursor_kind(self, table: SourceTable, cursor: str) -> str:
        """The cursor's contract type.

        Raises:
            ConfigurationError: the column is not there, or its type has no order that can be trusted.
        """
        from assets.sources.postgres_snapshot import CURSOR_TYPES

        where = f"{self.name}/{table.name}"
        column = next((c for c in table.columns if c.name == cursor), None)
        if column is None:
            raise ConfigurationError(
                f"the cursor column {cursor} is not there", where=where, remedy="Correct --cursor."
            )
        kind = column.arrow_type
        if column.rule == "money" or (kind not in CURSOR_TYPES and not kind.startswith("decimal")):
            raise ConfigurationError(
                f"column {cursor} cannot be a cursor: it is {column.source_type}, stored as {kind}",
                where=where,
                remedy="Name a timestamp, date, integer or numeric column with --cursor.",
            )
        return kind

    @contextmanager
    def _snapshot(
        self, table: SourceTable, shared: str | None = None, captured_by: Sequence[str] | None = None
    ) -> Iterator[PostgresRead]:
        import psycopg

        from assets.sources.postgres_catalogue import list_tables
        from assets.sources.postgres_snapshot import join_snapshot, open_snapshot, shared_changes

        with connection(self.name, self.config) as opened:
            ((oid, _),) = list_tables(opened, self.name, None, [table.name])
            try:
                stream = None
                if captured_by is not None:  # made before the snapshot: what the snapshot does not see, the log tells
                    from assets.sources.postgres_capture import make_stream

                    made = shared_changes(shared) if shared else None
                    stream = made or make_stream(opened, self.name, self.config, table, oid, captured_by)
                joined = join_snapshot(opened, shared) if shared else None
                with closing(PostgresRead(self, opened, table, joined or open_snapshot(opened), oid)) as read:
                    if stream is not None:
                        read.begin_changes(stream, begun=joined is not None)
                    yield read
            except psycopg.Error as error:
                raise explain(error, f"{self.name}/{table.name}", self.config) from None
            finally:
                if not opened.closed and not opened.broken:
                    opened.execute("ROLLBACK")

    @contextmanager
    def together(self, tables: Sequence[str]) -> Iterator[Connector]:
        from assets.sources.postgres_together import SharedPostgres

        with connection(self.name, self.config) as opened:
            yield SharedPostgres(self, opened, tables)

    @contextmanager
    def _window(self, plan: WindowPlan, shared: str | None) -> Iterator[TableRead]:
        with self._snapshot(plan.table, shared, plan.key if plan.captures else None) as read:
            read.key = plan.key
            if plan.captures:
                read.use_fast()
                yield read
                return
            if plan.cursor:
                kind = self.cursor_kind(plan.table, plan.cursor)
                if plan.previous and plan.mode == "incremental" and plan.previous.cursor_type != kind:
                    raise WatermarkError(
                        f"the cursor {plan.cursor} was {plan.previous.cursor_type} and is now {kind}",
                        where=f"{self.name}/{plan.table.name}",
                        remedy=f"Run: headrace sync {self.name} {plan.table.name} --mode full",
                    )
            read.fix_window(plan)
            read.use_fast()
            if plan.mode == "incremental" and not plan.backfill:
                read.count_meanwhile()
            yield read

    def open_read(self, plan: WindowPlan) -> AbstractContextManager[TableRead]:
        return self._window(plan, None)

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        if plan.mode == "cdc":
            held = sum(status.retained_bytes or 0 for status in self.change_status())
            return ReadEstimate(
                bytes=held,
                statements=(f"logical replication of {plan.table.name} from {plan.low}",),
                detail="the log that the slot holds, at most: of all tables that it follows, and of others",
            )
        with self._snapshot(plan.table) as read:  # none is captured: this makes no slot
            if not plan.captures:
                read.fix_window(plan)
            return read.estimate(plan, keys=keys)

    def join_read(self, plan: WindowPlan, snapshot: str) -> AbstractContextManager[TableRead]:
        return self._window(plan, snapshot)

    def chunks(self, plan: WindowPlan, chunk_bytes: int) -> list[Chunk]:
        from assets.sources.postgres_chunks import page_chunks

        table = plan.table
        small = table.estimated_bytes is not None and table.estimated_bytes < 2 * chunk_bytes
        if plan.mode != "full" or table.kind not in ("table", "partitioned") or small:
            return []
        with connection(self.name, self.config) as opened:
            return page_chunks(opened, table, chunk_bytes, self.config.readers)

    @property
    def parallel_chunks(self) -> int:
        return self.config.readers

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        from assets.sources.postgres_changes import open_changes

        return open_changes(self.name, self.config, plan)

    def acknowledge(self, own: Watermark, committed: Mapping[str, Callable[[], Watermark | None]]) -> None:
        from assets.sources.postgres_capture import acknowledge

        acknowledge(self.name, self.config, own, committed)

    def stop_changes(self, tables: Sequence[str] | None = None) -> list[str]:
        from assets.sources.postgres_capture import stop_changes

        return stop_changes(self.name, self.config, tables)

    def change_status(self, followed: Mapping[str, Watermark] | None = None) -> list[StreamStatus]:
        from assets.sources.postgres_capture import change_status

        return change_status(self.name, self.config)

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        with self._snapshot(table) as read:
            if columns is not None:
                read.select_only(columns)
            yield read

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.database_dlt import database_source

        return database_source(self, tables, **options)
