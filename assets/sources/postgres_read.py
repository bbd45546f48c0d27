"""One PostgreSQL table read in one snapshot: whole, a window, or a piece of it."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from assets.encoded_rows import EncodedRows
from assets.sources.interface import UNFIT_COLUMN, CarefulReadNeeded, Remaining, TableRead, count_unfit
from assets.sources.postgres_chunks import Piece
from assets.sources.postgres_cursor import CursorWindow
from assets.sync import Chunk, ChunkRead, Column, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate
from assets.types import arrow_type

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa
    from psycopg import sql

    from assets.sources.concurrent_count import ConcurrentCount, Counting
    from assets.sources.postgres import PostgresConnector
    from assets.sources.postgres_fast import FastReader
    from assets.sources.postgres_snapshot import SnapshotPosition

_Rows = TypeVar("_Rows")
FAST_FROM_BYTES = 2 << 20
"""Smaller tables are read as text on the connection that is open: the scanner's own start takes longer than that."""
WINDOW_FAST_FROM_BYTES = 32 << 20
"""Smaller windows that an index finds are read likewise: the scanner needs a second look, for NaN."""


def selected(column: Column) -> sql.Composable:
    from psycopg import sql

    name = sql.Identifier(column.name)
    if column.rule == "padded":
        return sql.SQL("textin(bpcharout({}))").format(name)
    if column.rule == "money":
        scale = arrow_type(column.arrow_type).scale  # type: ignore[attr-defined]
        return sql.SQL("{}::numeric::numeric(19, {})").format(name, sql.Literal(scale))
    casts = {"text": sql.SQL("{}::text"), "integer": sql.SQL("{}::int8")}
    return casts.get(column.rule, sql.SQL("{}")).format(name)


def _scanned(column: Column, place: int) -> tuple[sql.Composable, str]:
    """What the scanner selects on the server, and what of that here, where it is column ``c<place>``.

    The scanner cuts padding blanks off: to put them back costs less than to call the type's output function.
    """
    from psycopg import sql

    length = re.fullmatch(r"character\((\d+)\)", column.source_type)
    if column.rule != "padded" or not length:
        return selected(column), f"c{place}"
    padded = f"rpad(c{place}, {length[1]}, ' ')"
    if length[1] == "1":
        padded = f"CASE WHEN c{place} = '' THEN ' ' ELSE c{place} END"
    return sql.Identifier(column.name), f"{padded} AS c{place}"


class PostgresRead(TableRead):
    """One table in one snapshot."""

    def __init__(
        self,
        connector: PostgresConnector,
        opened: psycopg.Connection[Any],
        table: SourceTable,
        position: SnapshotPosition,
        oid: int,
    ) -> None:
        import pyarrow as pa
        from psycopg import sql

        self._connector, self._opened, self._table, self._oid = connector, opened, table, oid
        self._relation = sql.Identifier(table.schema_name, table.table_name)
        self._wanted: sql.Composable = sql.SQL("true")
        if table.row_filter and not table.filter_read:
            from assets.row_filter import RowFilter

            text: Any = RowFilter.parse(table.row_filter).sql("postgres")  # quoted and escaped by its own parser
            self._wanted = sql.SQL("({})").format(sql.SQL(text))
        self._where: sql.Composable = self._wanted
        self._name = (table.schema_name, table.table_name)
        self._pieces = [Piece(self._name, self._where)]
        self._columns = table.columns
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in self._columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        self.position = position.lsn
        self.reader = "text"
        self.low = self.high = None
        self.watermark: Watermark | None = None
        self._plan: WindowPlan | None = None
        self._snapshot_position = position
        self._cursor: CursorWindow | None = None
        self._changes: dict[str, Any] | None = None
        self._side_by_side = self._cuts = self._whole = True
        self._counted: int | None = None
        self._counting: ConcurrentCount | None = None
        self._rows = self._unfit = 0
        self._reading: list[Iterator[Any]] = []

    def _text(self, query: sql.Composed, columns: Sequence[Column], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        from assets.sources.postgres_text import text_batches

        return self._held(text_batches(self._opened, query, columns, schema))

    def _held(self, batches: Iterator[_Rows]) -> Iterator[_Rows]:
        self._reading[:] = [batches]
        return batches

    def close(self) -> None:
        """End what is being read: until then the connection takes no other statement."""
        while self._reading:
            self._reading.pop().close()  # type: ignore[attr-defined]
        if self._counting is not None:
            self._counting.close()

    @staticmethod
    def _select(columns: Iterable[sql.Composable], piece: Piece) -> sql.Composed:
        from psycopg import sql

        # aliases, as DuckDB takes no two names that differ only by case
        items = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column, sql.Identifier(f"c{i}")) for i, column in enumerate(columns)
        )
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(items, piece.relation, piece.where)

    def fix_window(self, plan: WindowPlan) -> None:
        """Limit an incremental read to what is new, and fix the source's clock, which ``high`` does not pass."""
        from psycopg import sql

        from assets.sources.postgres_snapshot import new_rows

        self._plan, self.low = plan, plan.low
        if plan.mode == "incremental":
            assert plan.previous is not None
            new = new_rows(self._opened, self._connector.name, self._table, self._oid, plan.previous)
            self._where = sql.SQL("{} AND {}").format(self._wanted, new) if self._table.row_filter else new
            self._pieces = [Piece(self._name, self._where)]
            self._whole = False
        if plan.cursor:
            kind = self._connector.cursor_kind(self._table, plan.cursor)
            index = self.schema.get_field_index(plan.cursor)
            self._cursor = CursorWindow(self._opened, kind, index)
        self._close_window()

    def begin_changes(self, stream: dict[str, Any], *, begun: bool) -> None:
        """Let the watermark be where the table's changes begin: a position in the log, and this snapshot.

        ``begun``: the position was fixed in this snapshot by the read that shared it.
        """
        from assets.sources.postgres_changes import begin_position
        from assets.sources.postgres_log_stream import lsn_text

        self._changes = position = stream if begun else begin_position(self._opened, stream, self._oid)
        self.position = position["last"]
        self.watermark = Watermark(value=lsn_text(position["lsn"]), position=position)

    def _close_window(self, found: Sequence[str | None] = ()) -> None:
        """Fix ``high`` and the watermark after the last row: from the cursors read, or ``found`` elsewhere.

        The previous watermark stays where nothing was read, unless the next window would look for late commits in vain.
        """
        if self._plan is None:
            return
        previous = self._plan.previous
        kind = self._cursor.kind if self._cursor else None
        if self._cursor:
            value = previous.value if previous and self._plan.mode == "incremental" else None
            self.high = self._cursor.greatest([value, self._cursor.high_text(), *found])
        position = self._snapshot_position.stored(self._oid)
        self.watermark = Watermark(cursor=self._plan.cursor, cursor_type=kind, value=self.high, position=position)
        if self._plan.mode == "incremental" and previous and not self._rows and not previous.position["others"]:
            self.watermark = previous

    def use_fast(self, *, side_by_side: bool = True) -> None:
        """Use the fast reader where its extension is there, several if ``side_by_side``; say why where it is not."""
        from assets.sources.postgres_estimate import indexed_bytes
        from assets.sources.postgres_fast import extension_file

        extension, why = extension_file()
        small = self._table.kind == "table" and (self._table.estimated_bytes or 0) < FAST_FROM_BYTES
        window = None
        if not small and self._plan and self._plan.mode == "incremental":
            query = self._select(map(selected, self._columns), self._pieces[0])
            window = indexed_bytes(self._opened, query)
            self._cuts = window is None  # each range of pages would look at all of the index
        if small:
            self.reader = "text (a small table)"
        elif window is not None and window < WINDOW_FAST_FROM_BYTES:
            self.reader = "text (a small window)"
        else:
            self.reader = f"text ({why})" if extension is None else "duckdb-binary"
        self._side_by_side = side_by_side

    def _fast_reader(self, encoded: bool) -> tuple[FastReader, Sequence[Piece]] | None:
        from assets.sources.postgres_chunks import PARALLEL_BYTES, PageRanges, cut
        from assets.sources.postgres_fast import FastReader, ScannerQuery, extension_file

        extension, _ = extension_file()
        if extension is None or self.reader != "duckdb-binary":
            return None
        connector = self._connector
        readers = connector.config.readers if self._side_by_side else 1
        ranges = PageRanges(self._pieces)
        if self._cuts:
            ranges = cut(self._opened, self._table, self._pieces, readers)
        items = [_scanned(column, place) for place, column in enumerate(self._columns)]
        here = ", ".join(item for _, item in items)
        queries = [
            ScannerQuery(self._select((item for item, _ in items), piece).as_string(self._opened), here, piece.size)
            for piece in ranges.pieces
        ]
        row = self._opened.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        reader = FastReader(
            connector.name,
            connector.config,
            row[0],
            queries,
            self._columns,
            self.schema.remove(len(self.schema) - 1),
            extension,
            readers=readers if ranges.size > PARALLEL_BYTES else 1,
            watched=self._cursor.index if self._cursor else None,
            scratch=connector.home / "scratch" if connector.home and encoded and ranges.small else None,
        )
        return reader, ranges.pieces

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._fast_rows(encoded=False)  # type: ignore[return-value]

    def encoded_batches(self) -> Iterator[pa.RecordBatch | EncodedRows]:
        return self._fast_rows(encoded=True)

    def _fast_rows(self, *, encoded: bool) -> Iterator[pa.RecordBatch | EncodedRows]:
        fast = self._fast_reader(encoded)
        if fast is None:
            yield from self.careful_batches()
            return
        import pyarrow as pa

        from assets.sources.postgres_text import needs_care, zero_columns
        from assets.sources.written_groups import beyond_years, may_hold_zero

        reader, pieces = fast
        decimals = {i for i, c in enumerate(self._columns) if c.arrow_type.startswith("decimal") and c.rule == "typed"}
        zeros: dict[int, set[int]] = {}
        for found in self._held(reader.rows()):
            rows = found.rows
            known = zeros.setdefault(found.query, set())
            if isinstance(rows, EncodedRows):
                if beyond_years(rows, self._columns):
                    raise CarefulReadNeeded
                known |= {i for i in decimals - known if may_hold_zero(rows, self._columns[i])}
            else:
                if needs_care(rows):
                    raise CarefulReadNeeded
                known |= zero_columns(rows, decimals - known)
                rows = pa.RecordBatch.from_arrays(
                    [*rows.columns, pa.nulls(rows.num_rows, pa.string())], schema=self.schema
                )
            self._saw(rows.num_rows, found.watched)
            yield rows
        if self._hold_nan([(pieces[query], columns) for query, columns in zeros.items() if columns]):
            raise CarefulReadNeeded
        self._close_window()

    def _saw(self, rows: int, cursors: pa.Array | None) -> None:
        self._rows += rows
        if self._cursor and cursors is not None:
            self._cursor.see(cursors)

    def _hold_nan(self, zeros: Sequence[tuple[Piece, set[int]]]) -> bool:
        """Whether NaN is among what was read as zeros of these columns. A whole table is counted in the same scan."""
        from psycopg import sql

        def nan(indexes: Iterable[int]) -> list[sql.Composable]:
            names = [sql.Identifier(self._columns[i].name) for i in sorted(indexes)]
            return [sql.SQL("{} = 'NaN'").format(name) for name in names]

        if not zeros or not self._whole:
            return any(self._any(nan(columns), [piece]) for piece, columns in zeros)
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {}) FROM {} WHERE {}").format(
            sql.SQL(" OR ").join(nan(set().union(*(columns for _, columns in zeros)))), self._relation, self._wanted
        )
        row = self._opened.execute(query).fetchone()
        assert row is not None
        self._counted = row[0]
        return row[1] > 0

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
        return bool(conditions) and self._any(conditions, self._pieces)

    @property
    def wanted(self) -> sql.Composable:
        """The condition of the rows that the table's filter lets in."""
        return self._wanted

    def _any(self, conditions: Sequence[sql.Composable], pieces: Sequence[Piece]) -> bool:
        from psycopg import sql

        joined = sql.SQL(" OR ").join(conditions)
        for piece in pieces:
            query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} WHERE ({}) AND ({}))").format(
                piece.relation, piece.where, joined
            )
            row = self._opened.execute(query).fetchone()
            if row and row[0]:
                return True
        return False

    def careful_batches(self) -> Iterator[pa.RecordBatch]:
        if not self.reader.startswith("text"):
            self.reader = "text (a value needs the careful reader)"
        self._unfit = self._rows = 0
        if self._cursor:
            self._cursor.reset()
        for piece in self._pieces:
            for batch in self._text(self._select(map(selected, self._columns), piece), self._columns, self.schema):
                self._saw(batch.num_rows, batch.column(self._cursor.index) if self._cursor else None)
                self._unfit += count_unfit(batch.column(batch.num_columns - 1))
                yield batch
        self._close_window()

    def estimate(self, plan: WindowPlan, *, keys: bool) -> ReadEstimate:
        """The window by the planner; nothing is read."""
        from psycopg import sql

        from assets.sources.postgres_estimate import window_estimate

        more = [self._count]
        if keys:
            items = sql.SQL(", ").join(sql.Identifier(name) for name in plan.key)
            more.append(sql.SQL("SELECT {} FROM {} WHERE {}").format(items, self._relation, self._wanted))
        query = self._select(map(selected, self._columns), self._pieces[0])
        return window_estimate(self._opened, plan, query, self._relation, self._wanted, more)

    def share(self) -> str | None:
        from assets.sources.postgres_snapshot import shared_snapshot

        _ = self.state  # it locks the table: no rewrite and no truncation while others read
        return shared_snapshot(self._opened, self._snapshot_position, self._oid, self._changes)

    @cached_property
    def state(self) -> Mapping[str, Any]:  # type: ignore[override]
        from assets.sources.postgres_chunks import content_state

        return content_state(self._opened, self._relation, self._oid, self._snapshot_position)

    def of_chunk(self, chunk: Chunk) -> PostgresRead:
        from assets.sources.postgres_chunks import pieces

        read = PostgresRead(self._connector, self._opened, self._table, self._snapshot_position, self._oid)
        if self._plan:
            read.fix_window(self._plan)
        read.position = self.position
        read.use_fast(side_by_side=False)
        read._reading = self._reading
        read._pieces, read._whole = pieces(chunk, read._where), False
        return read

    def remaining(self, done: Sequence[ChunkRead]) -> list[Remaining]:
        from assets.sources.postgres_chunks import changed_chunks

        return [Remaining(chunk) for chunk in changed_chunks(self._opened, self.state, done, self._where)]

    def take_over(self, done: Sequence[ChunkRead]) -> None:
        self._rows += sum(read.rows for read in done)
        self._close_window([read.high for read in done])

    def select_only(self, columns: Sequence[str]) -> None:
        import pyarrow as pa

        by_name = {c.name: c for c in self._table.columns}
        self._columns = tuple(by_name[name] for name in columns)
        fields = [self.schema.field(name) for name in columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])

    def keys(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from psycopg import sql

        by_name = {c.name: c for c in self._table.columns}
        columns = [by_name[name] for name in self.key]
        items = sql.SQL(", ").join(selected(c) for c in columns)
        schema = pa.schema(
            [*(pa.field(c.name, arrow_type(c.arrow_type)) for c in columns), pa.field(UNFIT_COLUMN, pa.string())]
        )
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(items, self._relation, self._wanted)
        for batch in self._text(query, columns, schema):
            yield batch.select(list(self.key))

    key: tuple[str, ...] = ()

    def count_meanwhile(self) -> None:
        """Have a large table counted while a window of it is read: the one takes as long as the other, or longer."""
        from assets.sources.concurrent_count import COUNT_MEANWHILE_FROM_BYTES, ConcurrentCount
        from assets.sources.postgres_snapshot import shared_snapshot

        large = (self._table.estimated_bytes or 0) >= COUNT_MEANWHILE_FROM_BYTES
        if self._connector.config.readers > 1 and large:
            shared = shared_snapshot(self._opened, self._snapshot_position, self._oid)
            self._counting = ConcurrentCount(self._joined(shared))

    @contextmanager
    def _joined(self, shared: str) -> Iterator[Counting | None]:
        from assets.sources.concurrent_count import Counting
        from assets.sources.postgres_connection import break_off, connection
        from assets.sources.postgres_snapshot import join_snapshot

        with connection(self._connector.name, self._connector.config) as opened:
            joined = join_snapshot(opened, shared) is not None
            yield Counting(partial(self._counted_on, opened), partial(break_off, opened)) if joined else None

    def _counted_on(self, opened: psycopg.Connection[Any]) -> int:
        row = opened.execute(self._count).fetchone()
        return int(row[0]) if row else 0

    @property
    def _count(self) -> sql.Composed:
        from psycopg import sql

        return sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self._relation, self._wanted)

    def source_rows(self) -> int:
        if self._counted is None and self._counting is not None:
            self._counted = self._counting.rows()
        if self._counted is None:
            self._counted = self._counted_on(self._opened)
        return self._counted

    @property
    def future_rows(self) -> int:
        return self._cursor.future_rows if self._cursor else 0

    @property
    def unfit_values(self) -> int:
        return self._unfit
