"""Parquet parts: written in the background with bounded memory, described by the statistics in their footers."""

from __future__ import annotations

import decimal
import json
import queue
import threading
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.encoded_rows import EncodedRows
from assets.lakehouse.interface import OP, RUN, PartWriter
from assets.lakehouse.parquet_splice import SplicedParts
from assets.lakehouse.storage import StagingStorage
from assets.sources.interface import OBJECT_COLUMNS
from assets.sync import Part

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 4_000_000
PART_BYTES = 1 << 30
ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 24 << 20
STATISTICS_COLUMNS = 64
SAMPLED_ROWS = 8_192
CONSTANT_COLUMNS = (RUN, OP, *OBJECT_COLUMNS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BackgroundPartWriter(PartWriter):
    """Encodes on a thread of its own, so that reading and encoding overlap. At most two batches wait."""

    part_rows, part_bytes = PART_ROWS, PART_BYTES

    def __init__(self, storage: StagingStorage, folder: str, schema: pa.Schema) -> None:
        self._storage = storage
        self._folder = folder
        self._schema = schema
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._written: list[Part] = []
        self._numbers = count()
        self._spliced = SplicedParts(storage, schema, self._new_address, self.part_rows, self.part_bytes)
        self._aborted = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="part-writer", daemon=True)
        self._thread.start()

    def write(self, batch: pa.RecordBatch | EncodedRows) -> None:
        if self._error:
            raise self._error
        self._queue.put(batch)

    def close(self) -> tuple[Part, ...]:
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        return (*self._written, *self._spliced.written)

    def abort(self) -> None:
        self._aborted = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        for part in (*self._written, *self._spliced.written):
            self._storage.delete(part.uri)

    def _new_address(self) -> str:
        return f"{self._folder}/part-{next(self._numbers)}.parquet"

    def _next(self) -> pa.RecordBatch | None:
        """The next batch; encoded rows that come before it go to parts of their own."""
        item = self._queue.get()
        while isinstance(item, EncodedRows):
            if not (self._error or self._aborted):
                self._spliced.add(item)
            item = self._queue.get()
        self._ended = item is None
        return item

    def _run(self) -> None:
        try:
            batch = self._next()
            while batch is not None:
                batch = self._write_part(batch)
            if self._aborted:
                raise _Aborted
            self._spliced.finish()
        except _Aborted as aborted:
            self._spliced.discard(aborted)
        except BaseException as error:  # handed to the caller by write() or close()
            self._error = error
            while not self._ended:
                self._next()
            self._spliced.discard(error)

    def _write_part(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """Write one part from this batch on; return the first batch of the next part, or None at the end."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        address = self._new_address()
        rows = size = held_rows = held_bytes = 0
        held: list[Any] = []
        following: pa.RecordBatch | None = batch
        constants, dictionaries = _constants(self._schema), _dictionary_columns(batch, self._schema)
        encoded = self._schema
        for name in constants:
            index = encoded.get_field_index(name)
            encoded = encoded.set(index, pa.field(name, pa.dictionary(pa.int32(), pa.string())))
        with (
            self._storage.open_output(address) as file,
            pq.ParquetWriter(
                file,
                encoded,
                compression="snappy",
                store_schema=False,
                write_statistics=True,
                use_dictionary=dictionaries,  # type: ignore[arg-type]
            ) as writer,
        ):

            def flush() -> None:
                nonlocal held_rows, held_bytes
                if held:
                    table = pa.Table.from_batches(held, self._schema)
                    for name in constants:
                        index = table.schema.get_field_index(name)
                        table = table.set_column(index, encoded.field(index), table.column(index).dictionary_encode())
                    writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                    held.clear()
                    held_rows = held_bytes = 0

            while following is not None and rows < self.part_rows and size < self.part_bytes:
                if following.num_rows:
                    held.append(following)
                    held_rows += following.num_rows
                    held_bytes += following.nbytes
                    rows += following.num_rows
                    size += following.nbytes
                    if held_rows >= ROW_GROUP_ROWS or held_bytes >= ROW_GROUP_BYTES:
                        flush()
                following = self._next()
            if self._aborted:
                raise _Aborted
            flush()
        if rows:
            self._written.append(Part(uri=address, rows=rows, bytes=self._storage.stat(address).size))
        else:
            self._storage.delete(address)
        return following


def _constants(schema: pa.Schema) -> list[str]:
    """Text columns whose values repeat over whole batches: Arrow finds their few values much faster than Parquet."""
    return [name for name in CONSTANT_COLUMNS if name in schema.names and str(schema.field(name).type) == "string"]


def _dictionary_columns(batch: pa.RecordBatch, schema: pa.Schema) -> bool | list[str]:
    """Columns to encode by dictionary: not numbers and times that hardly repeat."""
    import pyarrow.types as types

    pc = arrow_compute()
    sample = batch.slice(0, SAMPLED_ROWS)
    if sample.num_rows < SAMPLED_ROWS:
        return True

    def repeats(index: int, kind: pa.DataType) -> bool:
        if not (
            types.is_integer(kind) or types.is_floating(kind) or types.is_timestamp(kind) or types.is_decimal(kind)
        ):
            return True
        return pc.count_distinct(sample.column(index)).as_py() < SAMPLED_ROWS // 2

    return [field.name for index, field in enumerate(schema) if repeats(index, field.type)]


class _Aborted(Exception):
    """Ends the part that is being written without making it appear."""


def delta_statistics(file: Any, schema: pa.Schema) -> str:
    """Delta's statistics as JSON (numRecords, minValues, maxValues, nullCount), from an open Parquet file's footer.

    NULL counts cover every metadata column, the rest the first ``STATISTICS_COLUMNS`` columns, as Delta does.
    """
    import pyarrow.parquet as pq

    footer = pq.read_metadata(file)
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    names = footer.schema.to_arrow_schema().names
    for index, name in enumerate(names):
        if index >= STATISTICS_COLUMNS and not name.startswith("_headrace_"):
            continue
        kind = schema.field(name).type if name in schema.names else None
        if kind is None:
            continue
        groups = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        if any(s is None for s in groups):
            continue
        nulls[name] = sum(s.null_count or 0 for s in groups)
        bounds = [(_bound(kind, s, "min"), _bound(kind, s, "max")) for s in groups if s.has_min_max]
        if bounds and all(lo is not None and hi is not None for lo, hi in bounds):
            lows[name] = min(lo for lo, _ in bounds)
            highs[name] = max(hi for _, hi in bounds)
    return json.dumps(
        {
            "numRecords": footer.num_rows,
            "minValues": {name: _json(value) for name, value in lows.items()},
            "maxValues": {name: _json(value) for name, value in highs.items()},
            "nullCount": nulls,
        }
    )


def _bound(kind: pa.DataType, statistics: Any, side: str) -> Any:
    import pyarrow.types as types

    if types.is_integer(kind):
        return getattr(statistics, side)
    if types.is_date(kind) or types.is_timestamp(kind):
        # the typed accessors import pandas, which takes over a second
        raw = getattr(statistics, f"{side}_raw")
        try:
            moment = _EPOCH + (timedelta(days=raw) if types.is_date(kind) else timedelta(microseconds=raw))
        except OverflowError:
            return None
        if types.is_date(kind):
            return moment.date()
        return moment if kind.tz else moment.replace(tzinfo=None)
    return None


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else value
