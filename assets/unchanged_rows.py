"""Rows that were read again and are in Silver already, as they are: left out, so that Bronze holds changes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, Lakehouse
from assets.row_comparison import RowComparison
from assets.settings import Settings
from assets.shaped_read import ShapedRead
from assets.silver import SilverTable
from assets.sync import WindowPlan

if TYPE_CHECKING:
    import pyarrow as pa

Changes = Callable[[Any], Any]
"""From all rows, batches or where nothing is left out encoded rows too, to those that are stored."""


@contextmanager
def changes_only(
    lakehouse: Lakehouse, silver: SilverTable, plan: WindowPlan, read: ShapedRead, settings: Settings
) -> Iterator[Changes]:
    """Leaves out the rows of a re-read that Silver holds unchanged; lets all pass where none are read again."""
    if not read.rereads:
        yield lambda batches: batches
        return
    scratch = settings.home_path / "scratch"
    with UnchangedRows(plan.key, read.schema, memory_limit=settings.memory_limit, scratch=scratch) as unchanged:
        unchanged.load(lakehouse, silver, plan.cursor, read.reread_low)
        yield unchanged.changed


class UnchangedRows(RowComparison):
    """What Silver holds, by key and by a hash of all values; ``changed`` lets only other rows pass."""

    def __init__(self, key: Sequence[str], schema: pa.Schema, *, memory_limit: str, scratch: Path) -> None:
        super().__init__(key, schema, memory_limit=memory_limit, scratch=scratch)
        same = " AND ".join(
            f"i.{e} IS NOT DISTINCT FROM d.{k}" for e, k in zip(self._key_exprs, self._keys, strict=True)
        )
        hashed = f"hash({', '.join(f'i.{place}' for place in self._places)})"
        self._query = (
            f"SELECT i._headrace_row FROM incoming i WHERE NOT EXISTS "
            f"(SELECT 1 FROM stored d WHERE {same} AND d.h = {hashed}) ORDER BY 1"
        )

    def load(self, lakehouse: Lakehouse, silver: SilverTable, cursor: str | None, low: str | None) -> None:
        """Take Silver's live rows, of a key with several versions the newest; those below ``low`` can be left out."""
        import pyarrow as pa

        names = {source: silver.names[bronze] for source, bronze in silver.bronze_of.items()}
        if lakehouse.state(silver.silver) is None:
            self.add("stored", [])
            return
        present = set(lakehouse.schema(silver.silver).names)
        wanted = [name for name in self._schema.names if names[name] in present]
        versions = [POSITION, LOADED_AT, DELETED_AT] if silver.shape.write == "append" and self._keys else []

        def renamed(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
            for batch in reader:
                rows = batch.num_rows
                arrays = [
                    batch.column(names[field.name]) if field.name in wanted else pa.nulls(rows, field.type)
                    for field in self._schema
                ]
                arrays += [batch.column(name) for name in versions]
                yield pa.RecordBatch.from_arrays(arrays, names=[*self._schema.names, *versions])

        with lakehouse.scan(silver.silver, [*(names[name] for name in wanted), *versions], live=not versions) as reader:
            if versions:  # all of them tell which is the newest
                self.add_stored(renamed(reader), newest_only=True)
            else:
                self.add("stored", _not_below(renamed(reader), cursor, low, self._schema))

    def changed(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows that Silver does not hold just so."""
        import pyarrow as pa

        for batch in batches:
            numbered = pa.table([*batch.columns, pa.arange(0, batch.num_rows)], names=[*self._places, "_headrace_row"])
            self._db.register("incoming", numbered)
            rows = self._db.execute(self._query).to_arrow_table().column(0)
            self._db.unregister("incoming")
            if len(rows) == batch.num_rows:
                yield batch
            elif len(rows):
                yield batch.take(rows.combine_chunks())


def _not_below(
    batches: Iterator[pa.RecordBatch], cursor: str | None, low: str | None, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from assets.arrow_compute import arrow_compute

    if cursor is None or low is None:
        yield from batches
        return
    pc = arrow_compute()
    kind = schema.field(cursor).type
    bound = pa.array([low])
    if pa.types.is_timestamp(kind):
        bound = bound.cast(pa.timestamp("us"))
        bound = pc.assume_timezone(bound, "UTC") if kind.tz else bound
    bound = bound.cast(kind)[0]
    for batch in batches:
        values = batch.column(cursor)
        kept = batch.filter(pc.or_kleene(pc.is_null(values), pc.greater_equal(values, bound)))
        if kept.num_rows:
            yield kept
