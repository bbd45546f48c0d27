"""The rows of one data file: read under the table's schema, and rewritten around touched rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

    from assets.lakehouse.deletion_vectors import Rows

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TouchedRows:
    """Row numbers of one file, in order, and which of them a delete touches (the others are replaced)."""

    rows: Rows
    gone: npt.NDArray[np.bool_]

    @classmethod
    def none(cls) -> TouchedRows:
        import numpy as np

        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))


def fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch under the schema: missing columns are NULL, others are cast."""
    import pyarrow as pa

    present = set(batch.schema.names)
    arrays = [
        batch.column(field.name).cast(field.type) if field.name in present else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def numbered_batches(
    storage: Storage,
    address: str,
    schema: pa.Schema,
    groups: Callable[[pq.FileMetaData], Iterable[int]] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A data file's stored rows, in the file's order, and the row number that each batch begins with.

    Args:
        groups: chooses the row groups to read, in order; all by default.
    """
    import numpy as np
    import pyarrow.parquet as pq

    with storage.open_input(address) as opened, pq.ParquetFile(opened) as file:
        stored = set(file.schema_arrow.names)
        wanted = [name for name in schema.names if name in stored]
        starts = group_starts(file.metadata)
        chosen = np.arange(len(starts) - 1) if groups is None else np.fromiter(groups(file.metadata), np.int64)
        # groups that lie side by side are read in one go
        for run in np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1):
            start = int(starts[run[0]]) if len(run) else 0
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=run.tolist(), columns=wanted):
                yield start, fit(batch, schema)
                start += batch.num_rows


def group_starts(footer: pq.FileMetaData) -> Rows:
    """The row number that each row group begins with, and the number of rows at last."""
    import numpy as np

    return np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))], dtype=np.int64)


def file_batches(
    storage: Storage, address: str, schema: pa.Schema, masked: Rows | None = None
) -> Iterator[pa.RecordBatch]:
    """A data file's rows, in the file's order, without the ``masked`` ones."""
    for start, batch in numbered_batches(storage, address, schema):
        yield _without(batch, start, masked)


def _without(batch: pa.RecordBatch, start: int, masked: Rows | None) -> pa.RecordBatch:
    if masked is None:
        return batch
    first, last = masked.searchsorted([start, start + batch.num_rows])
    if first == last:
        return batch
    return batch.filter(_flags(batch.num_rows, masked[first:last] - start, kept=True))


def _flags(length: int, rows: Rows, *, kept: bool) -> pa.Array:
    """An Arrow boolean array that is ``not kept`` at ``rows``."""
    import numpy as np
    import pyarrow as pa

    flags = np.full(length, kept)
    flags[rows] = not kept
    return pa.array(flags)


def rewritten(
    storage: Storage,
    address: str,
    schema: pa.Schema,
    touched: TouchedRows,
    masked: Rows | None,
    stamp: dict[str, Any],
) -> Iterator[pa.RecordBatch]:
    """A file's rows without the masked and the replaced ones; deleted ones are stamped, their values kept."""
    import numpy as np

    dropped = touched.rows[~touched.gone]
    if masked is not None:
        dropped = np.sort(np.concatenate([dropped, masked]))
    deleted = touched.rows[touched.gone]
    for start, batch in numbered_batches(storage, address, schema):
        first, last = deleted.searchsorted([start, start + batch.num_rows])
        if first < last:
            batch = _stamped(batch, _flags(batch.num_rows, deleted[first:last] - start, kept=False), stamp)
        yield _without(batch, start, dropped)


def _stamped(batch: pa.RecordBatch, flags: pa.Array, stamp: dict[str, Any]) -> pa.RecordBatch:
    pc = arrow_compute()
    live = pc.is_null(batch.column(DELETED_AT))
    mask = pc.and_(flags, live)  # a row that was deleted before keeps its first date
    for name, source in ((RUN, RUN), (LOADED_AT, LOADED_AT), (POSITION, POSITION), (DELETED_AT, LOADED_AT)):
        index = batch.schema.get_field_index(name)
        field = batch.schema.field(index)
        value = stamp[source].cast(field.type)
        batch = batch.set_column(index, field, pc.if_else(mask, value, batch.column(index)))
    return batch


def taken(storage: Storage, address: str, schema: pa.Schema, rows: Rows) -> Iterator[pa.RecordBatch]:
    """The rows of these numbers, in order. Only the row groups that hold them are read."""
    import numpy as np
    import pyarrow as pa

    def holding(footer: pq.FileMetaData) -> list[int]:
        return (np.unique(group_starts(footer).searchsorted(rows, side="right")) - 1).tolist()

    for start, batch in numbered_batches(storage, address, schema, holding):
        first, last = rows.searchsorted([start, start + batch.num_rows])
        if first < last:
            yield batch.take(pa.array(rows[first:last] - start))


def deleted_among(storage: Storage, address: str, schema: pa.Schema, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of these rows are soft-deleted: one flag a row."""
    import numpy as np
    import pyarrow as pa

    column = pa.schema([schema.field(DELETED_AT)])
    flags = [np.asarray(arrow_compute().is_valid(batch.column(0))) for batch in taken(storage, address, column, rows)]
    return np.concatenate(flags) if flags else np.zeros(0, dtype=bool)


def stamped_rows(
    storage: Storage, address: str, schema: pa.Schema, rows: Rows, stamp: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    """The rows of these numbers, deleted now."""
    for batch in taken(storage, address, schema, rows):
        import numpy as np

        yield _stamped(batch, _flags(batch.num_rows, np.arange(batch.num_rows), kept=False), stamp)
