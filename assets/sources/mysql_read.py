"""One MySQL or MariaDB table in one consistent snapshot: its window's rows by the fast or the careful reader."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from assets.sources.interface import UNFIT_COLUMN, ChangedRows, Remaining, TableRead
from assets.sources.mysql_connection import quoted, rows
from assets.sources.mysql_lossy_text import loses_text
from assets.sync import Chunk, ChunkRead, Column, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    import pymysql

    from assets.sources.concurrent_count import ConcurrentCount
    from assets.sources.mysql import MysqlConnector
    from assets.sources.mysql_snapshot import SnapshotPosition


VALUES_A_QUERY = 500
"""MariaDB joins a list of a thousand as a table."""


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
        self.ending: Callable[[], None] | None = None  # fixes the window of a read in chunks
        # which snapshot it is, and its place in the binlog where that is to be known and the server tells it
        self.state: dict[str, Any] = {"snapshot": uuid.uuid4().hex}
        self._only: ChangedRows | None = None
        self._counting: ConcurrentCount | None = None

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
        parser = self._parser(self._columns, self.schema)
        for some in self._few(query):
            yield from text_batches(self._opened, some, self._columns, parser)

    def _few(self, query: str) -> Iterator[str]:
        """The query, for some of the wanted values at a time where only such rows are read."""
        if self._only is None:
            yield query
            return
        values = self._only.values
        for start in range(0, len(values), VALUES_A_QUERY):
            some = ", ".join(str(int(value)) for value in values[start : start + VALUES_A_QUERY].to_pylist())
            yield f"{query} AND {quoted(self._only.column)} IN ({some})"

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
        from assets.sources.mysql_estimate import planned_rows

        query = self._select(self._columns, checked=False)
        asked = query
        if self.reread_low is not None:  # alone the planner estimates it from the cursor's index
            cursor = quoted(plan.cursor or "")
            low = self._opened.literal(self.reread_low)
            asked = f"SELECT {cursor} FROM {self._relation} WHERE {cursor} >= {low}"
        count = planned_rows(self._opened, asked)
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
        counted = self._counting.rows() if self._counting is not None else None
        return self._counted_on(self._opened) if counted is None else counted

    def _counted_on(self, opened: pymysql.Connection[Any]) -> int:
        ((count,),) = rows(opened, f"SELECT count(*) FROM {self._relation}")
        return int(count)

    @contextmanager
    def counted_meanwhile(self, beside: pymysql.Connection[Any]) -> Iterator[None]:
        """Have the table counted while the block reads it, on another connection with the same snapshot."""
        import pymysql

        from assets.sources.concurrent_count import ConcurrentCount, Counting
        from assets.sources.mysql_connection import break_off, explain

        def counted() -> int:
            try:
                return self._counted_on(beside)
            except (pymysql.Error, OSError, EOFError) as error:
                raise explain(error, self._connector.name, self._connector.config) from None

        self._counting = ConcurrentCount(nullcontext(Counting(counted, partial(break_off, beside))))
        try:
            yield
        finally:
            self._counting.close()

    # in chunks: each has a snapshot of its own

    def of_chunk(self, chunk: Chunk) -> MysqlRead:
        from assets.sources.mysql_chunks import condition

        return self._limited(condition(chunk))

    def of_rows(self, rows: ChangedRows) -> MysqlRead:
        read = self._limited("true")
        read._only = rows
        return read

    def _limited(self, condition: str) -> MysqlRead:
        read = MysqlRead(self._connector, self._opened, self._table, self._facts, self._columns)
        read.key = self.key
        read._where = f"({self._where}) AND {condition}"
        return read

    def remaining(self, done: Sequence[ChunkRead]) -> list[Remaining]:
        from assets.sources.mysql_chunks import changed_chunks

        connector = self._connector
        return changed_chunks(self._opened, connector.name, connector.config, self._table, self.state, done)

    def take_over(self, done: Sequence[ChunkRead]) -> None:
        if self.ending:
            self.ending()

    @property
    def future_rows(self) -> int:
        return self._future

    @property
    def unfit_values(self) -> int:
        return sum(parser.unfit_values for parser in self._parsers)


def _later(kind: str, new: str, old: str) -> bool:
    if kind.startswith(("timestamp", "date")):
        return new > old  # the same form, so text orders as time does
    return int(new) > int(old)
