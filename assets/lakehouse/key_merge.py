"""Which rows of a table's files hold given keys: by the files' indexes, else by a read of their key columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import LakehouseError
from assets.fetch_ahead import fetched_ahead
from assets.lakehouse.data_files import TouchedRows, numbered_batches
from assets.lakehouse.key_filter import KeyFilter
from assets.lakehouse.key_index import KeyIndexes, SoughtKeys, whole_numbers
from assets.lakehouse.storage import Storage
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lakehouse.deletion_vectors import Rows
    from assets.lakehouse.delta_log import DataFile


SOUGHT_KEYS = 2_000_000
KEY_BATCH_ROWS = 1 << 19


class TouchedKeys(ScratchDatabase):
    """The keys of one change set: upserted or deleted. Keys compare NULL-safe."""

    def __init__(self, key: Sequence[str], schema: pa.Schema, *, memory_limit: str, scratch: Path) -> None:
        import pyarrow as pa

        super().__init__(memory_limit, scratch)
        self._key = list(key)
        self._schema = pa.schema([schema.field(name) for name in key])
        # the touched keys are always the side that is held in memory, the table's the one that streams by
        self._db.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        self._keys = ", ".join(f"k{i}" for i in range(len(key)))  # plain names: no name of the source's is in a query
        columns = ", ".join(f"{quoted(name)} AS k{i}" for i, name in enumerate(key))
        self._select = f"SELECT {columns}, ?::BOOLEAN AS gone FROM incoming"
        self._db.register("incoming", self._schema.empty_table())
        self._db.execute(f"CREATE TABLE touched AS {self._select}", [False])
        self.count = 0

    def add(self, batch: pa.RecordBatch, *, gone: bool) -> None:
        import pyarrow as pa

        self._db.register("incoming", pa.Table.from_batches([batch.select(self._key)]).cast(self._schema))
        self._db.execute(f"INSERT INTO touched {self._select}", [gone])
        self.count += batch.num_rows

    def require_unique(self, where: str) -> None:
        """Raises LakehouseError naming a few keys that occur twice among the upserts."""
        twice = self._db.execute(
            f"SELECT {self._keys} FROM touched WHERE NOT gone GROUP BY ALL HAVING count(*) > 1 LIMIT 3"
        ).fetchall()
        if twice:
            raise LakehouseError(
                f"the key ({', '.join(self._key)}) is not unique in the source, for example {twice}",
                where=where,
                remedy="Name columns that identify a row with --key, or sync with --mode full.",
            )

    def rows_in(
        self, storage: Storage, folder: str, files: Sequence[DataFile], masked: Callable[[DataFile], Rows | None]
    ) -> dict[str, TouchedRows]:
        """The rows that hold a touched key, by file, masked rows aside. Files without any are left out.

        Args:
            masked: a file's rows that are not in the table any more.
        """
        import numpy as np

        if not self.count:
            return {}
        indexes = KeyIndexes(storage, folder, self._schema)
        touched: dict[str, TouchedRows] = {}
        unindexed = files
        if self.count <= SOUGHT_KEYS and indexes.serve:
            touched, unindexed = indexes.rows_in(files, self._sought())
        if unindexed:
            touched |= self._rows_read_in(storage, folder, unindexed)
        found: dict[str, TouchedRows] = {}
        for file in files:
            hit = touched.get(file.path)
            if hit is None or not len(hit.rows):
                continue
            dead = masked(file)
            if dead is not None:
                left = ~np.isin(hit.rows, dead, assume_unique=True)
                hit = TouchedRows(hit.rows[left], hit.gone[left])
            if len(hit.rows):
                found[file.path] = hit
        return found

    def _sought(self) -> SoughtKeys:
        import numpy as np

        stored = self._db.execute(f"SELECT {self._keys}, bool_and(gone) FROM touched GROUP BY ALL").to_arrow_table()
        *columns, gone = stored.combine_chunks().to_batches()[0].columns
        numbers, told = whole_numbers([c.cast(f.type) for c, f in zip(columns, self._schema, strict=True)])
        flags = np.asarray(gone)
        if told.all():
            return SoughtKeys(numbers, flags, complete=True)
        return SoughtKeys([column[told] for column in numbers], flags[told], complete=False)

    def _rows_read_in(self, storage: Storage, folder: str, files: Sequence[DataFile]) -> dict[str, TouchedRows]:
        import numpy as np
        import pyarrow as pa

        key = [f.with_name(f"k{i}") for i, f in enumerate(self._schema)]
        schema = pa.schema([pa.field("file", pa.int32()), pa.field("row", pa.int64()), *key])
        candidates = _candidates(storage, folder, files, self._schema, schema, self._filter())
        stored = pa.RecordBatchReader.from_batches(schema, candidates)
        self._db.register("stored", stored)
        same = " AND ".join(f"f.k{i} IS NOT DISTINCT FROM t.k{i}" for i in range(len(self._key)))
        query = f"SELECT f.file, f.row, bool_and(t.gone) AS gone FROM stored f JOIN touched t ON {same}"
        found = self._db.execute(f"{query} GROUP BY ALL ORDER BY ALL").to_arrow_table()
        self._db.unregister("stored")
        numbers, rows, gone = (np.asarray(found.column(name)) for name in ("file", "row", "gone"))
        touched: dict[str, TouchedRows] = {}
        for number, file in enumerate(files):
            first, last = np.searchsorted(numbers, [number, number + 1]).tolist()
            touched[file.path] = TouchedRows(rows[first:last], gone[first:last])
        return touched

    def _filter(self) -> KeyFilter | None:
        """Of the key column with the most values; None where there are too many to look at."""
        import pyarrow as pa

        if self.count > SOUGHT_KEYS:
            return None
        distinct = ", ".join(f"approx_count_distinct(k{i})" for i in range(len(self._key)))
        counts = self._db.execute(f"SELECT {distinct} FROM touched").fetchone() or ()
        most = counts.index(max(counts))
        values = self._db.execute(f"SELECT DISTINCT k{most} FROM touched").to_arrow_table()
        column = values.column(0).cast(self._schema.field(most).type)
        return KeyFilter(self._key[most], pa.concat_arrays(column.chunks) if column.num_chunks else column)


def _candidates(
    storage: Storage,
    folder: str,
    files: Sequence[DataFile],
    key: pa.Schema,
    schema: pa.Schema,
    looked: KeyFilter | None,
) -> Iterator[pa.RecordBatch]:
    """The rows that may hold a touched key: the file's number, the row's number, the key."""
    import pyarrow as pa

    def stored() -> Iterator[tuple[int, int, pa.RecordBatch]]:
        for number, file in enumerate(files):
            if looked and not looked.may_hold(*file.bounds.get(looked.column, (None, None))):
                continue
            groups = looked.groups if looked else None
            for start, batch in numbered_batches(storage, f"{folder}/{file.path}", key, groups, KEY_BATCH_ROWS):
                yield number, start, batch

    for number, start, batch in fetched_ahead(stored()):
        rows = pa.arange(start, start + batch.num_rows)
        if looked:
            passing = looked.passing(batch.column(looked.column))
            batch, rows = batch.filter(passing), rows.filter(passing)
        if len(rows):
            origin = pa.repeat(pa.scalar(number, pa.int32()), len(rows))
            yield pa.RecordBatch.from_arrays([origin, rows, *batch.columns], schema=schema)
