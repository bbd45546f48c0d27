"""Connector type ``postgres``: full refresh and snapshot-exact incremental reading."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, WatermarkError
from assets.sources.interface import UNFIT_COLUMN, CarefulReadNeeded, Connector, TableRead
from assets.sources.postgres_connection import PostgresConfig, connection, explain
from assets.sync import CheckResult, Column, SourceTable, Watermark, WindowPlan
from assets.types import arrow_type

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa
    from psycopg import sql

    from assets.sources.postgres_snapshot import SnapshotPosition

PARALLEL_BYTES = 64 << 20
PAGES_A_QUERY = 16_384  # 128 MiB of 8 KiB pages


def _selected(column: Column) -> sql.Composable:
    from psycopg import sql

    name = sql.Identifier(column.name)
    if column.rule == "padded":
        return sql.SQL("textin(bpcharout({}))").format(name)
    if column.rule == "money":
        scale = arrow_type(column.arrow_type).scale  # type: ignore[attr-defined]
        return sql.SQL("{}::numeric::numeric(19, {})").format(name, sql.Literal(scale))
    casts = {"text": sql.SQL("{}::text"), "integer": sql.SQL("{}::int8")}
    return casts.get(column.rule, sql.SQL("{}")).format(name)


class PostgresRead(TableRead):
    """One table in one snapshot."""

    def __init__(
        self,
        connector: PostgresConnector,
        opened: psycopg.Connection[Any],
        table: SourceTable,
        position: SnapshotPosition,
    ) -> None:
        import pyarrow as pa
        from psycopg import sql

        self._connector, self._opened, self._table = connector, opened, table
        self._relation = sql.Identifier(table.schema_name, table.table_name)
        self._where: sql.Composable = sql.SQL("true")
        self._columns = table.columns
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in self._columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        self.position = position.lsn
        self.reader = "text"
        self.low = self.high = None
        self._watermark: Watermark | None = None
        self._previous: Watermark | None = None
        self._rows = 0
        self._snapshot_position = position
        self._fast: Any = None
        self._queries: list[str] = []
        self._future = 0
        self._unfit = 0

    def _select(self, columns: Sequence[Column]) -> sql.Composed:
        from psycopg import sql

        # aliases, as DuckDB takes no two names that differ only by case
        items = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(_selected(c), sql.Identifier(f"c{i}")) for i, c in enumerate(columns)
        )
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(items, self._relation, self._where)

    def narrow_to_new(self, plan: WindowPlan, table_oid: int) -> None:
        from assets.sources.postgres_snapshot import new_rows

        assert plan.previous is not None
        self._previous = plan.previous
        self._where = new_rows(self._opened, self._connector.name, self._table, table_oid, plan.previous)

    def fix_window(self, plan: WindowPlan, table_oid: int) -> None:
        """Fix ``high`` in this snapshot: the greatest cursor that does not lie beyond the source's clock."""
        from psycopg import sql

        from assets.sources.postgres_snapshot import source_clock

        previous = plan.previous
        self.low = plan.low
        kind = None
        value = previous.value if previous and plan.mode == "incremental" else None
        if plan.cursor:
            kind = self._connector.cursor_kind(self._table, plan.cursor)
            clock = source_clock(kind)
            cursor = sql.Identifier(plan.cursor)
            limit = sql.SQL("WHERE {} <= {}").format(cursor, clock) if clock else sql.SQL("")
            if clock is None and kind.startswith("decimal"):
                limit = sql.SQL("WHERE {} <> 'NaN'").format(cursor)
            elif kind != "int16" and kind not in ("int32", "int64"):
                limit = sql.SQL("{} AND isfinite({})").format(limit, cursor)
            greatest = sql.SQL("SELECT max({})::text FROM {} {}").format(cursor, self._relation, limit)
            row = self._opened.execute(greatest).fetchone()
            found = row[0] if row else None
            if found is not None and (value is None or self._later(kind, found, value)):
                value = found
            self.high = value
            if clock is not None:
                ahead = sql.SQL("SELECT count(*) FROM {} WHERE {} > {} AND {}").format(
                    self._relation, cursor, clock, self._where
                )
                row = self._opened.execute(ahead).fetchone()
                self._future = int(row[0]) if row else 0
        self._watermark = Watermark(
            cursor=plan.cursor, cursor_type=kind, value=value, position=self._snapshot_position.stored(table_oid)
        )

    @property
    def watermark(self) -> Watermark | None:  # type: ignore[override]
        """The previous one where nothing was read, unless the next window would scan for late commits in vain."""
        previous, new = self._previous, self._watermark
        if previous and new and not self._rows and previous.value == new.value and not previous.position["others"]:
            return previous
        return new

    def _later(self, kind: str, new: str, old: str) -> bool:
        from psycopg import sql

        from assets.sources.postgres_snapshot import CURSOR_TYPES

        cast = "numeric" if kind.startswith("decimal") else CURSOR_TYPES[kind]
        query = sql.SQL("SELECT %s::{t} > %s::{t}").format(t=sql.SQL(cast))
        row = self._opened.execute(query, [new, old]).fetchone()
        return bool(row and row[0])

    def prepare_fast(self) -> None:
        """Use the fast reader where its extension is there; say why where it is not."""
        from psycopg import sql

        from assets.sources.postgres_fast import FastReader, extension_file

        extension, why = extension_file()
        if extension is None:
            self.reader = f"text ({why})"
            return
        row = self._opened.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        whole = self._select(self._columns)
        self._queries = [whole.as_string(self._opened)]
        if self._table.kind == "table" and (self._table.estimated_bytes or 0) > PARALLEL_BYTES:
            pages = -(-(self._table.estimated_bytes or 0) // 8192)
            starts = range(0, pages, PAGES_A_QUERY)
            self._queries = []
            for start in starts:
                part = sql.SQL("{} AND ctid >= {}::tid").format(whole, sql.Literal(f"({start},0)"))
                if start != starts[-1]:  # the last one is open: the table may have grown
                    part = sql.SQL("{} AND ctid < {}::tid").format(part, sql.Literal(f"({start + PAGES_A_QUERY},0)"))
                self._queries.append(part.as_string(self._opened))
        typed = self.schema.remove(len(self.schema) - 1)
        self._fast = FastReader(self._connector.name, self._connector.config, row[0], self._queries, typed, extension)
        self.reader = "duckdb-binary"

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._fast is None:
            yield from self.careful_batches()
            return
        import pyarrow as pa

        from assets.sources.postgres_text import needs_care, zero_columns

        decimals = {i for i, c in enumerate(self._columns) if c.arrow_type.startswith("decimal") and c.rule == "typed"}
        zeros: set[int] = set()
        for batch in self._fast.batches():
            if needs_care(batch):
                raise CarefulReadNeeded
            zeros |= zero_columns(batch, decimals - zeros)
            self._rows += batch.num_rows
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, pa.nulls(batch.num_rows, pa.string())], schema=self.schema
            )
        if zeros and self._holds_nan(sorted(zeros)):
            raise CarefulReadNeeded

    def _holds_nan(self, indexes: Sequence[int]) -> bool:
        from psycopg import sql

        return self._any([sql.SQL("{} = 'NaN'").format(sql.Identifier(self._columns[i].name)) for i in indexes])

    def needs_care(self) -> bool:
        """Ask the server whether a value of the window fits no column type; takes a scan of the table."""
        from psycopg import sql

        conditions = []
        for column in self._columns:
            name, kind = sql.Identifier(column.name), column.arrow_type
            if kind.startswith("decimal") and column.rule == "typed":
                conditions.append(sql.SQL("{} = 'NaN'").format(name))
            elif kind.startswith(("date", "timestamp")):
                conditions.append(sql.SQL("NOT ({0} >= '0001-01-01' AND {0} < '10000-01-01')").format(name))
        return bool(conditions) and self._any(conditions)

    def _any(self, conditions: Sequence[sql.Composable]) -> bool:
        from psycopg import sql

        joined = sql.SQL(" OR ").join(conditions)
        query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} WHERE ({}) AND ({}))").format(
            self._relation, self._where, joined
        )
        row = self._opened.execute(query).fetchone()
        return bool(row and row[0])

    def careful_batches(self) -> Iterator[pa.RecordBatch]:
        from assets.sources.postgres_text import text_batches

        if not self.reader.startswith("text"):
            self.reader = "text (a value needs the careful reader)"
        self._unfit = 0
        for batch in text_batches(self._opened, self._select(self._columns), self._columns, self.schema):
            self._rows += batch.num_rows
            column = batch.column(batch.num_columns - 1)
            if column.null_count < len(column):
                self._unfit += sum(len(json.loads(text)) for text in column.to_pylist() if text)
            yield batch

    def select_only(self, columns: Sequence[str]) -> None:
        import pyarrow as pa

        by_name = {c.name: c for c in self._table.columns}
        self._columns = tuple(by_name[name] for name in columns)
        fields = [self.schema.field(name) for name in columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])

    def keys(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from psycopg import sql

        from assets.sources.postgres_text import text_batches

        by_name = {c.name: c for c in self._table.columns}
        columns = [by_name[name] for name in self.key]
        items = sql.SQL(", ").join(_selected(c) for c in columns)
        schema = pa.schema(
            [*(pa.field(c.name, arrow_type(c.arrow_type)) for c in columns), pa.field(UNFIT_COLUMN, pa.string())]
        )
        query = sql.SQL("SELECT {} FROM {}").format(items, self._relation)
        for batch in text_batches(self._opened, query, columns, schema):
            yield batch.select(list(self.key))

    key: tuple[str, ...] = ()

    def source_rows(self) -> int:
        from psycopg import sql

        row = self._opened.execute(sql.SQL("SELECT count(*) FROM {}").format(self._relation)).fetchone()
        return int(row[0]) if row else 0

    @property
    def future_rows(self) -> int:
        return self._future

    @property
    def unfit_values(self) -> int:
        return self._unfit


class PostgresConnector(Connector):
    """A PostgreSQL database, 13 or later."""

    type_name: ClassVar[str] = "postgres"
    Config = PostgresConfig
    config: PostgresConfig

    def check(self) -> list[CheckResult]:
        from assets.sources.postgres_check import check_postgres

        return check_postgres(self.name, self.config)

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
        kind = next((c.arrow_type for c in table.columns if c.name == cursor), None)
        if kind is None:
            raise ConfigurationError(
                f"the cursor column {cursor} is not there", where=where, remedy="Correct --cursor."
            )
        if kind not in CURSOR_TYPES and not kind.startswith("decimal"):
            raise ConfigurationError(
                f"column {cursor} cannot be a cursor: it is stored as {kind}",
                where=where,
                remedy="Name a timestamp, date, integer or numeric column with --cursor.",
            )
        return kind

    @contextmanager
    def _snapshot(self, table: SourceTable) -> Iterator[tuple[PostgresRead, int]]:
        import psycopg

        from assets.sources.postgres_catalogue import list_tables
        from assets.sources.postgres_snapshot import open_snapshot

        with connection(self.name, self.config) as opened:
            ((oid, _),) = list_tables(opened, self.name, None, [table.name])
            try:
                position = open_snapshot(opened)
                yield PostgresRead(self, opened, table, position), oid
            except psycopg.Error as error:
                raise explain(error, f"{self.name}/{table.name}", self.config) from None
            finally:
                if not opened.closed and not opened.broken:
                    opened.execute("ROLLBACK")

    @contextmanager
    def open_read(self, plan: WindowPlan) -> Iterator[TableRead]:
        with self._snapshot(plan.table) as (read, oid):
            read.key = plan.key
            if plan.cursor:
                kind = self.cursor_kind(plan.table, plan.cursor)
                if plan.previous and plan.mode == "incremental" and plan.previous.cursor_type != kind:
                    raise WatermarkError(
                        f"the cursor {plan.cursor} was {plan.previous.cursor_type} and is now {kind}",
                        where=f"{self.name}/{plan.table.name}",
                        remedy=f"Run: headrace sync {self.name} {plan.table.name} --mode full",
                    )
            if plan.mode == "incremental":
                read.narrow_to_new(plan, oid)
            read.fix_window(plan, oid)
            read.prepare_fast()
            yield read

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        with self._snapshot(table) as (read, _):
            if columns is not None:
                read.select_only(columns)
            yield read

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.postgres_dlt import postgres_source

        return postgres_source(self, tables, **options)
