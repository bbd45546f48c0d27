"""Where the keys of a data file are: a sorted copy of them beside it, made once, as a data file never changes.

A merge then searches for the keys that changed instead of reading all that are stored: 6M keys of two columns in 0.03 s
of processor time. An index is Parquet under ``_headrace_keys``, which Delta's readers and VACUUM pass over, and takes
about a byte a row where keys ascend. Lost or damaged, it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from assets.fetch_ahead import fetched_ahead
from assets.lakehouse.data_files import TouchedRows, numbered_batches
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

    from assets.lakehouse.delta_log import DataFile

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]
    _Codes = tuple[Numbers, Numbers | None]
    """A run's sorted codes and, unless they ascend as they lie, their rows in the run."""

KEY_INDEXES = "_headrace_keys"
"""The folder of a table's indexes in the table's own."""
INDEXED_ROWS = 1 << 17
"""The keys of smaller files are sorted each time, in 5 ms: they are soon gathered or written anew."""
RUN_ROWS = 1 << 19
"""So many rows are sorted together, in 20 MB."""
MOST_CODES = 1 << 63
LEAST, MOST = -(1 << 63), (1 << 63) - 1
_RUNS = b"headrace.runs"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SoughtKeys:
    """Keys to look for, each once: a column of whole numbers a key column, and which keys are to be deleted.

    Attributes:
        complete: no key was left out, as it is NULL or no number of 64 bits: one that is in no indexed file.
    """

    columns: Sequence[Numbers]
    gone: Flags
    complete: bool


@dataclass(frozen=True)
class _Run:
    """Rows of a file that were sorted together: each key column's least value, and how many it spans.

    A key's code is its place among all the keys that lie within these bounds, in the order of the key columns.
    """

    low: Sequence[int]
    span: Sequence[int]
    rows: int
    ascending: bool
    """The rows' keys ascend as they lie: a code's place is its row."""

    @classmethod
    def of(cls, columns: Sequence[Numbers]) -> _Run | None:
        """None where the keys lie so far apart that 63 bits do not hold their codes. ``ascending`` is still open."""
        low = [int(column.min()) for column in columns]
        span = [int(column.max()) - least + 1 for column, least in zip(columns, low, strict=True)]
        return cls(low, span, len(columns[0]), False) if math.prod(span) <= MOST_CODES else None

    def codes(self, columns: Sequence[Numbers]) -> Numbers:
        code = columns[0] - self.low[0]
        for column, low, span in zip(columns[1:], self.low[1:], self.span[1:], strict=True):
            code *= span
            code += column
            code -= low
        return code

    def within(self, columns: Sequence[Numbers]) -> Numbers:
        """The places of the keys that lie within the bounds."""
        import numpy as np

        bounds = [(low, low + span - 1) for low, span in zip(self.low, self.span, strict=True)]
        return np.flatnonzero(_within(columns, bounds))


class KeyIndexes:
    """The key indexes of one table's files.

    Args:
        folder: the table's.
        key: the key columns under the table's types.
    """

    def __init__(self, storage: Storage, folder: str, key: pa.Schema) -> None:
        self._storage, self._folder, self._key = storage, folder, key
        told = json.dumps([[field.name, str(field.type)] for field in key])
        self._suffix = f".{hashlib.sha256(told.encode()).hexdigest()[:12]}."

    @property
    def serve(self) -> bool:
        """Whether keys of these types can be indexed: whole numbers, dates, times, decimals."""
        return all(_is_number(field.type) for field in self._key)

    def rows_in(self, files: Sequence[DataFile], sought: SoughtKeys) -> tuple[dict[str, TouchedRows], list[DataFile]]:
        """The rows that hold a sought key, by file; and the files whose keys cannot be indexed, not looked at.

        Indexes that are missing are made.
        """
        found: dict[str, TouchedRows] = {}
        others: list[DataFile] = []
        for file in files:
            if sought.complete and not self._may_hold(file, sought):
                continue
            try:
                found[file.path] = self._rows_of(file, sought)
            except _NotIndexedError:
                others.append(file)
        return found, others

    def add(self, files: Sequence[DataFile]) -> None:
        """Index those that are large and have no index, two at a time."""
        if not self.serve:
            return
        missing = [file for file in files if self._is_large(file) and self._address_of(file) is None]
        if missing:
            with ThreadPoolExecutor(2, thread_name_prefix="key-index") as pool:
                list(pool.map(self._make, missing))

    def _is_large(self, file: DataFile) -> bool:
        return file.rows + file.masked >= INDEXED_ROWS and "/" not in file.path

    def _may_hold(self, file: DataFile, sought: SoughtKeys) -> bool:
        bounds = [file.bounds.get(name, (LEAST, MOST)) for name in self._key.names]
        return bool(_within(sought.columns, bounds).any())

    @cached_property
    def _stored(self) -> dict[str, str]:
        """The names of the indexes that there are, by data file."""
        names = (stored.name for stored in self._storage.files(f"{self._folder}/{KEY_INDEXES}"))
        return {indexed_file(name): name for name in names if self._suffix in name}

    def _address_of(self, file: DataFile) -> str | None:
        name = self._stored.get(file.path)
        return name and f"{self._folder}/{KEY_INDEXES}/{name}"

    def _rows_of(self, file: DataFile, sought: SoughtKeys) -> TouchedRows:
        import pyarrow as pa

        if not self._is_large(file):
            sorted_now = ((run, lambda codes=codes: codes) for run, codes in self._runs(file))
            return _rows_with(_looked_at(sorted_now, sought), sought)
        address = self._address_of(file)
        if address is not None:
            try:
                return self._rows_by(address, file, sought)
            except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                _log.warning("the index %s is made again, as it cannot be read: %s", address, error)
                self._storage.delete(address)
        return self._rows_by(self._make(file), file, sought)

    def _rows_by(self, address: str, file: DataFile, sought: SoughtKeys) -> TouchedRows:
        """Raises ValueError where the index is not of this file."""
        import pyarrow.parquet as pq

        with (
            self._storage.open_input(address) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as index,
        ):
            told = json.loads(index.metadata.metadata[_RUNS])
            if told is None:
                raise _NotIndexedError
            runs = [_Run(**run) for run in told]
            if sum(run.rows for run in runs) != file.rows + file.masked:
                raise ValueError("it has another number of rows")
            stored = ((run, partial(_stored_codes, index, number, run)) for number, run in enumerate(runs))
            return _rows_with(fetched_ahead(_looked_at(stored, sought)), sought)

    def _make(self, file: DataFile) -> str:
        """Index a file. Where its keys cannot be, the index says so. Returns the index's address."""
        name = f"{file.path}{self._suffix}{uuid.uuid4().hex[:12]}"  # of this try: a rival's is never touched
        address = f"{self._folder}/{KEY_INDEXES}/{name}"
        try:
            self._write(address, self._runs(file))
        except _NotIndexedError:
            self._write(address, None)
        return address

    def _runs(self, file: DataFile) -> Iterator[tuple[_Run, _Codes]]:
        """Raises _NotIndexedError."""
        for _, batch in numbered_batches(self._storage, f"{self._folder}/{file.path}", self._key, None, RUN_ROWS):
            columns, numbers = whole_numbers(batch.columns)
            run = _Run.of(columns) if numbers.all() else None
            if run is None:
                raise _NotIndexedError
            codes = run.codes(columns)
            if (codes[1:] >= codes[:-1]).all():
                yield replace(run, ascending=True), (codes, None)
            else:
                order = codes.argsort()
                yield run, (codes[order], order)

    def _write(self, address: str, runs: Iterator[tuple[_Run, _Codes]] | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([pa.field("code", pa.int64(), False), pa.field("row", pa.int64())])
        with (
            self._storage.open_output(address) as file,
            pq.ParquetWriter(
                file,
                schema,
                compression="none",
                use_dictionary=False,
                column_encoding={name: "DELTA_BINARY_PACKED" for name in schema.names},
                write_statistics=False,
                write_page_checksum=True,
                store_schema=False,
            ) as writer,
        ):
            told = []
            for run, (codes, rows) in runs or ():
                columns = [pa.array(codes), pa.nulls(run.rows, pa.int64()) if rows is None else pa.array(rows)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                told.append(vars(run))
            writer.add_key_value_metadata({_RUNS.decode(): json.dumps(told if runs else None)})


def indexed_file(name: str) -> str:
    """The data file of an index, by the index's name; of a draft that a killed process left, no file."""
    return name.rsplit(".", 2)[0]


class _NotIndexedError(Exception):
    """A file's keys are NULL somewhere, or lie too far apart."""


def _within(columns: Sequence[Numbers], bounds: Sequence[tuple[int, int]]) -> Flags:
    """Which keys lie within each column's least and greatest value."""
    import numpy as np

    inside = np.ones(len(columns[0]), dtype=bool)
    for column, (low, high) in zip(columns, bounds, strict=True):
        inside &= (column >= low) & (column <= high)
    return inside


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return (
        types.is_signed_integer(kind) or types.is_date32(kind) or types.is_timestamp(kind) or types.is_decimal128(kind)
    )


def whole_numbers(columns: Sequence[pa.Array]) -> tuple[list[Numbers], Flags]:
    """The values as int64, decimals without their point; and one flag a row: whether it holds such values only."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.types as types

    numbers: list[Numbers] = []
    told = np.ones(len(columns[0]), dtype=bool)
    for column in columns:
        if column.null_count:
            told &= np.asarray(column.is_valid())
            column = column.fill_null(0)
        if types.is_decimal(column.type):
            halves = np.frombuffer(column.buffers()[1] or b"", np.int64).reshape(-1, 2)
            low, high = halves[column.offset : column.offset + len(column)].T
            told &= high == low >> 63
            numbers.append(np.ascontiguousarray(low))
        else:
            narrow = column.cast(pa.int32()) if types.is_date32(column.type) else column
            numbers.append(np.asarray(narrow.cast(pa.int64())))
    return numbers, told


def _stored_codes(index: pq.ParquetFile, number: int, run: _Run) -> _Codes:
    import numpy as np

    columns = ["code"] if run.ascending else ["code", "row"]
    stored = index.read_row_group(number, columns=columns, use_threads=False).combine_chunks()
    codes, *rows = (np.asarray(column.chunk(0)) for column in stored.columns)
    return codes, rows[0] if rows else None


def _looked_at(
    runs: Iterable[tuple[_Run, Callable[[], _Codes]]], sought: SoughtKeys
) -> Iterator[tuple[int, Numbers, Numbers, _Codes]]:
    """Of each run that may hold sought keys: its first row, these keys' places among the sought ones, the codes of
    these keys in order, and of the run's.
    """
    start = 0
    for run, codes in runs:
        inside = run.within(sought.columns)
        if len(inside):
            wanted = run.codes([column[inside] for column in sought.columns])
            order = wanted.argsort()
            yield start, inside[order], wanted[order], codes()
        start += run.rows


def _rows_with(looked_at: Iterable[tuple[int, Numbers, Numbers, _Codes]], sought: SoughtKeys) -> TouchedRows:
    import numpy as np

    rows: list[Numbers] = []
    keys: list[Numbers] = []
    for start, inside, wanted, (codes, order) in looked_at:
        places, which = _places(codes, wanted)
        rows.append((places if order is None else order[places]) + start)
        keys.append(inside[which])
    if not rows:
        return TouchedRows.none()
    row, key = np.concatenate(rows), np.concatenate(keys)
    order = row.argsort()
    return TouchedRows(row[order], sought.gone[key[order]])


def _places(codes: Numbers, wanted: Numbers) -> tuple[Numbers, Numbers]:
    """Where the wanted codes are, and which one is there. Both are sorted; only ``codes`` may repeat."""
    import numpy as np

    first = codes.searchsorted(wanted)
    there = np.flatnonzero(codes[np.minimum(first, len(codes) - 1)] == wanted)
    first = first[there]
    after = first + 1
    if (codes[np.minimum(after, len(codes) - 1)] == wanted[there])[after < len(codes)].any():
        after = codes.searchsorted(wanted[there], side="right")
    count = after - first
    within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    return np.repeat(first, count) + within, np.repeat(there, count)
