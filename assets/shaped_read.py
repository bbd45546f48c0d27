"""A source as the steps read it: chosen columns, rows of the filter, protected values, stored types. For all types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from assets.column_protection import ColumnProtection
from assets.errors import ConfigurationError
from assets.quarantine import Misfits, convert
from assets.row_filter import RowFilter, range_filter
from assets.sources.interface import OBJECT_COLUMNS, UNFIT_COLUMN, ChangeBatch, ChangeRead, Connector, TableRead
from assets.sync import Column, SourceTable, TableShape, WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.encoded_rows import EncodedRows


def chosen_columns(shape: TableShape, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that are synced, before protection. What names a row's object always is."""
    choice = shape.columns
    included = {*choice.include, *OBJECT_COLUMNS} if choice.include else None
    return tuple(
        c
        for c in columns
        if c.name in OBJECT_COLUMNS or (c.name not in choice.exclude and (included is None or c.name in included))
    )


class ShapedSource:
    """One connector, read in one table's shape.

    Args:
        hash_key: the installation's key of hashed columns; needed where the shape hashes any.
    """

    def __init__(self, source: Connector, shape: TableShape, hash_key: bytes | None) -> None:
        self._source, self._shape = source, shape
        self._protection = ColumnProtection(shape.columns, hash_key)
        self._filter = RowFilter.parse(shape.row_filter) if shape.row_filter else None

    def table(self, table: SourceTable) -> SourceTable:
        """What the connector is to read of the table it found: columns to leave the source, and the filter."""
        chosen = chosen_columns(self._shape, table.columns)
        resolved = self._filter.resolved([c.name for c in table.columns]) if self._filter else None
        needed = {c.name for c in chosen}
        if resolved and (self._shape.filter_read or not self._source.filters_rows):
            needed |= set(resolved.columns)
        return table.model_copy(
            update={
                "columns": tuple(c for c in table.columns if c.name in needed),
                "row_filter": resolved.sql() if resolved else "",
                "filter_read": self._shape.filter_read,
            }
        )

    def columns(self, table: SourceTable, read: Sequence[Column] = ()) -> tuple[Column, ...]:
        """The columns as they are stored; ``read``: those that only reading told."""
        kept_types = self._shape.converts
        return tuple(
            c.model_copy(update={"arrow_type": kept_types[c.name], "rule": "converted"}) if c.name in kept_types else c
            for c in self._protection.columns(chosen_columns(self._shape, read or table.columns))
        )

    def may_be_cut(self, plan: WindowPlan) -> bool:
        """Whether the connector's own read, its rows one by one, is what is stored, so that it may be cut into chunks.

        Not where a key is hashed or masked: what says where a chunk begins would tell its values.
        """
        open_keys = self._protection.isdisjoint([*plan.key, *plan.table.primary_key])
        return open_keys and not (plan.backfill or self._shape.converts or self._shape.filled)

    @contextmanager
    def open_read(
        self,
        plan: WindowPlan,
        loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[ShapedRead]:
        """``plan.table`` is what ``table()`` returned. A backfill's range is read as a filter over all rows.

        ``loaded``: for a table of objects that is read incrementally, as ``Connector.open_objects_read`` wants it.
        """
        plan = self._within_backfill(plan)
        self._source.progress = progress
        opened = self._source.open_objects_read(plan, loaded) if loaded else self._source.open_read(plan)
        with opened as read:
            yield self._shaped(read, plan.table, plan.key)

    @staticmethod
    def _within_backfill(plan: WindowPlan) -> WindowPlan:
        if not plan.backfill or not plan.cursor:
            return plan
        within = range_filter(plan.cursor, plan.backfill.low, plan.backfill.high)
        wanted = plan.table
        both = RowFilter.parse(wanted.row_filter).and_also(within) if wanted.row_filter else within
        wanted = wanted.model_copy(update={"row_filter": both.sql()})
        return plan.model_copy(update={"table": wanted, "mode": "full", "previous": None, "low": None})

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        """As `Connector.estimate`; an added column's values for stored rows are one more read."""
        found = self._source.estimate(self._within_backfill(plan), loaded, keys=keys)
        if self._own_filter(plan.table) or (plan.backfill and not self._source.filters_rows):
            detail = f"{found.detail}; before the row filter, which is applied to what was read"
            found = found.model_copy(update={"detail": detail.lstrip("; ")})
        if plan.shape.filled:
            filled = f"read {', '.join([*plan.key, *plan.shape.filled])} of all rows of {plan.table.name}"
            found = found.model_copy(update={"statements": (*found.statements, filled)})
        return found

    def of(self, read: TableRead, plan: WindowPlan) -> ShapedRead:
        """An open read in this shape."""
        return self._shaped(read, plan.table, plan.key)

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[ShapedRead]:
        """``table`` is what ``table()`` returned."""
        filtered = self._own_filter(table)
        wanted = columns
        if columns is not None and filtered:
            wanted = list(dict.fromkeys([*columns, *filtered.columns]))
        with self._source.open_verify(table, wanted) as read:
            yield self._shaped(read, table, tuple(columns or ()), columns)

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        """The log's changes as the source tells them: see `changes`."""
        return self._source.open_changes(plan)

    def change_schema(self, read: ChangeRead, table: SourceTable) -> pa.Schema:
        """The schema of `changes`."""
        import pyarrow as pa

        return self._protection.schema(pa.schema([read.schema.field(name) for name in self._stored_names(table)]))

    def changes(self, read: ChangeRead, table: SourceTable) -> Iterator[ChangeBatch]:
        """A log's changes with protected values; a row's earlier key is protected likewise.

        Columns that only the filter names are left out; the connector has applied it.
        """
        names = self._stored_names(table)
        for change in read.batches():
            if change.rows.schema.names != names:
                change = replace(change, rows=change.rows.select(names))
            if self._protection:
                before = None if change.before is None else self._protection.batch(change.before)
                change = replace(change, rows=self._protection.batch(change.rows), before=before)
            yield change

    def _stored_names(self, table: SourceTable) -> list[str]:
        return [*(c.name for c in chosen_columns(self._shape, table.columns)), UNFIT_COLUMN]

    def _own_filter(self, table: SourceTable) -> RowFilter | None:
        here = table.filter_read or not self._source.filters_rows
        return RowFilter.parse(table.row_filter) if table.row_filter and here else None

    def _shaped(
        self,
        read: TableRead,
        table: SourceTable,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
    ) -> ShapedRead:
        found = read.columns or table.columns
        names = list(columns) if columns is not None else [c.name for c in chosen_columns(self._shape, found)]
        converts, own = self._shape.converts, self._own_filter(table)
        if own and (unknown := [name for name in own.columns if name not in read.schema.names]):
            raise ConfigurationError(
                f"the row filter's column {unknown[0]} is in none of the rows that were read", where=table.name
            )
        return ShapedRead(self, read, table, names, key, converts, own, self._protection)


class ShapedRead:
    """A `TableRead` whose batches are filtered, protected and under the stored types."""

    def __init__(
        self,
        source: ShapedSource,
        read: TableRead,
        table: SourceTable,
        names: Sequence[str],
        key: Sequence[str],
        converts: dict[str, str],
        own_filter: RowFilter | None,
        protection: ColumnProtection,
    ) -> None:
        import pyarrow as pa

        from assets.types import arrow_type

        self._source, self._read, self._table, self._key = source, read, table, tuple(key)
        self._filter, self._protection = own_filter, protection
        self._names = [*names, UNFIT_COLUMN]
        self._converts = {name: arrow_type(kind) for name, kind in converts.items() if name in names}
        schema = protection.schema(pa.schema([read.schema.field(name) for name in self._names]))
        self.schema = pa.schema([f.with_type(self._converts.get(f.name, f.type)) for f in schema])
        self._plain = not (own_filter or protection or self._converts) and read.schema.names == self._names
        self.columns = source.columns(table, read.columns)
        self.misfits: Misfits | None = None
        self.rereads, self.reread_low = read.rereads, read.reread_low

    @property
    def read(self) -> TableRead:
        """The source's own read: window, watermark, position, reader."""
        return self._read

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._shaped(self._read.batches())

    def encoded_batches(self) -> Iterator[pa.RecordBatch | EncodedRows]:
        """The same, what can be stored as it is still encoded, where nothing here has to look at values."""
        return self._read.encoded_batches() if self._plain else self.batches()

    def careful_batches(self) -> Iterator[pa.RecordBatch]:
        return self._shaped(self._read.careful_batches())

    def keys(self) -> Iterator[pa.RecordBatch]:
        """The keys of all live rows of the filter."""
        if self._filter is None:
            for keys in self._read.keys():  # noqa: SIM118
                batch = self._protection.batch(keys) if self._protection else keys
                yield convert(batch, self._converts, self._key, None) if self._converts else batch
            return
        # the filter needs other columns: the keys are read as a comparison reads them, a moment later
        with self._source.open_verify(self._table, self._key) as read:
            for batch in read.batches():
                yield batch.select(list(self._key))

    def deleted_keys(self, asked: bool) -> Iterator[pa.RecordBatch] | None:
        """Keys that the read knows to have left the source."""
        keys = self._read.deleted_keys(asked)
        return map(self._protection.batch, keys) if keys is not None and self._protection else keys

    def source_rows(self) -> int | None:
        """All live rows of the filter; None where they cannot be counted without reading them."""
        if self._filter is None:
            return self._read.source_rows()
        return None if self._converts else self._read.filtered_rows()

    def count(self) -> int:
        """All live rows of the filter, read where the source cannot count them."""
        counted = self.source_rows()
        return sum(batch.num_rows for batch in self.batches()) if counted is None else counted

    def _shaped(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if self._plain:
            yield from batches
            return
        for batch in batches:
            if self._filter:
                batch = batch.filter(self._filter.mask(batch))
            if batch.schema.names != self._names:
                batch = batch.select(self._names)
            if self._protection:
                batch = self._protection.batch(batch)
            if self._converts:
                batch = convert(batch, self._converts, self._key, self.misfits)
            if self._filter or self._converts:
                self._read.stores(batch)
            if batch.num_rows:
                yield batch
