"""Row groups of a Parquet file that this process let DuckDB write: nobody looks at their values, but at what is told.

DuckDB's statistics are exact for numbers, dates and times, and count NULLs.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from assets.encoded_rows import EncodedChunk, EncodedRows
from assets.parquet_format import FIXED_LENGTH_BYTE_ARRAY
from assets.sources.file_values import within_years
from assets.sources.parquet_chunks import chunk_span, decoded_bytes
from assets.thrift_compact import Struct, decode
from assets.types import arrow_type

if TYPE_CHECKING:
    from assets.sync import Column


def written_groups(file: BinaryIO, columns: Sequence[Column]) -> Iterator[EncodedRows]:
    """The row groups of a file whose columns are ``columns``, in this order: views of the file, which may be closed."""
    content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    length = int.from_bytes(content[-8:-4], "little")
    footer, _ = decode(content[-8 - length : -8])
    elements = footer[2][1][1][1:]
    for group in footer[4][1][1]:
        rows = group[3][1]
        found = [chunk[3][1] for chunk in group[1][1][1]]
        spans = [chunk_span(metadata) for metadata in found]
        chunks: dict[str, EncodedChunk] = {}
        nbytes = 0
        for column, element, metadata, (first, past) in zip(columns, elements, found, spans, strict=True):
            chunks[column.name] = EncodedChunk(content[first:past], first, metadata, element)
            nbytes += decoded_bytes(arrow_type(column.arrow_type), metadata, rows)
        yield EncodedRows(rows, nbytes, chunks, created_by=footer[6][1])


def beyond_years(rows: EncodedRows, columns: Sequence[Column]) -> bool:
    """Whether a date or timestamp may lie outside the years 1 to 9999 (infinities included)."""
    for column in columns:
        if column.arrow_type.startswith(("date", "timestamp")) and not _all_null(rows, column):
            bounds = _bounds(rows.chunks[column.name].metadata)
            if bounds is None or not within_years(arrow_type(column.arrow_type), *bounds):
                return True
    return False


def may_hold_zero(rows: EncodedRows, column: Column) -> bool:
    """Whether a zero may be among a decimal column's values."""
    bounds = _bounds(rows.chunks[column.name].metadata)
    return not _all_null(rows, column) and (bounds is None or bounds[0] <= 0 <= bounds[1])


def _all_null(rows: EncodedRows, column: Column) -> bool:
    statistics = rows.chunks[column.name].metadata[12][1]
    return statistics[3][1] == rows.num_rows


def _bounds(metadata: Struct) -> tuple[int, int] | None:
    """Least and greatest stored integer; None where they are not told."""
    statistics = metadata[12][1]
    if 5 not in statistics or 6 not in statistics:
        return None
    order = "big" if metadata[1][1] == FIXED_LENGTH_BYTE_ARRAY else "little"
    low, high = (int.from_bytes(statistics[n][1], order, signed=True) for n in (6, 5))
    return low, high
