"""The rows of one data file: read under the table's schema, and rewritten around touched rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536


def fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch under the schema: missing columns are NULL, others are cast."""
    import pyarrow as pa

    present = set(batch.schema.names)
    arrays = [
        batch.column(field.name).cast(field.type) if field.name in present else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def file_batches(storage: Storage, address: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A data file's rows, in the file's order."""
    import pyarrow.parquet as pq

    with storage.open_input(address) as opened, pq.ParquetFile(opened) as file:
        stored = set(file.schema_arrow.names)
        wanted = [name for name in schema.names if name in stored]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            yield fit(batch, schema)


def rewritten(
    storage: Storage, address: str, schema: pa.Schema, rows: dict[int, bool], stamp: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    """A file's rows without the replaced ones; deleted ones are stamped, their values kept.

    Args:
        rows: touched row numbers in order, and whether each is a delete.
    """
    pc = arrow_compute()
    start = 0
    touched = iter([*rows.items(), (-1, False)])
    row, gone = next(touched)
    for batch in file_batches(storage, address, schema):
        kept, deleted = bytearray(b"\1" * batch.num_rows), bytearray(batch.num_rows)
        while start <= row < start + batch.num_rows:
            if gone:
                deleted[row - start] = 1
            else:
                kept[row - start] = 0
            row, gone = next(touched)
        start += batch.num_rows
        if any(deleted):
            live = pc.is_null(batch.column(DELETED_AT))
            mask = pc.and_(_mask(deleted), live)  # a row that was deleted before keeps its first date
            for name, source in ((RUN, RUN), (LOADED_AT, LOADED_AT), (POSITION, POSITION), (DELETED_AT, LOADED_AT)):
                index = schema.get_field_index(name)
                value = stamp[source].cast(schema.field(name).type)
                batch = batch.set_column(index, schema.field(name), pc.if_else(mask, value, batch.column(index)))
        yield batch.filter(_mask(kept))


def _mask(flags: bytearray) -> pa.Array:
    """One byte a row as an Arrow boolean array."""
    import pyarrow as pa

    pc = arrow_compute()
    return pc.not_equal(pa.Array.from_buffers(pa.uint8(), len(flags), [None, pa.py_buffer(flags)]), 0)
