"""Row groups of a Parquet file whose columns can be stored as they are, without being encoded again.

A file is taken where every value of its columns is stored already as our own writer would: same types, a codec and
encodings that every reader of Delta tables has. A row group is taken once its values were decoded, so that a damaged
page is found, and no value lies outside its column's type (dates and times outside the years 1 to 9999) or outside its
statistics, which become Delta's. What is not taken is for the decoding reader, its errors included.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.encoded_rows import EncodedChunk, EncodedRows
from assets.parquet_format import (
    BYTE_ARRAY,
    DATA_PAGE,
    DATA_PAGE_V2,
    DICTIONARY_PAGE,
    MAGIC,
    PLAIN,
    PLAIN_DICTIONARY,
    REQUIRED,
    RLE,
    RLE_DICTIONARY,
)
from assets.sources.file_values import within_years
from assets.sources.interface import BATCH_ROWS
from assets.thrift_compact import I64, LIST, STRUCT, Struct, decode, encode
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sync import Column

LEAST_GROUP_ROWS, LEAST_GROUP_BYTES = 16_384, 1 << 20
"""A file whose row groups have fewer rows and bytes on average is decoded, and its rows put together with others: each
row group costs every later reader some work for each column."""
MOST_GROUP_BYTES = 32 << 20
"""A row group is held in memory as a whole, a few at once; one that takes more is decoded page by page."""
MOST_FOOTER_BYTES = 1 << 20
"""A footer's fields take some 60 times their bytes here."""
CODECS = (0, 1, 2, 6)
"""None, Snappy, gzip, Zstandard."""
_LOGICAL = frozenset([6, 7, 8, 10])
"""Converted type, scale, precision and logical type in a SchemaElement."""
_DECIMALS = ("INT32", "INT64", "FIXED_LEN_BYTE_ARRAY")


class _NotTaken(Exception):
    """Decoding has to look at it."""


def encoded_groups(source: pa.NativeFile, size: int, columns: Sequence[Column]) -> Iterator[EncodedRows]:
    """The file's row groups under the data columns of a plan, in order; ends before the first that is not taken."""
    try:
        footer, wanted = _judged(source, size, columns)
        groups = [_chunks_of(group, wanted) for group in footer[4][1][1]]
        stored = sum(past - start for start, past in map(_span, groups))
        if footer[3][1] < LEAST_GROUP_ROWS * len(groups) and stored < LEAST_GROUP_BYTES * len(groups):
            return
        file = _bare(source, footer, groups)
        for number, metadata in enumerate(groups):
            start, past = _span(metadata)
            source.seek(start)
            data = memoryview(source.read_buffer(past - start)).cast("B")  # Arrow's own bytes have a sign
            rows = _encoded(metadata, wanted, data, start)
            _require_sound(file, number, wanted, metadata)
            yield replace(rows, created_by=footer[6][1] if 6 in footer else b"")
    # a footer that lacks what Parquet requires ends here as well: the decoding reader says what is wrong with it
    except (_NotTaken, ValueError, KeyError, IndexError, TypeError, struct.error):
        return


class _Stored:
    """One column of the plan in a file: its place there, its SchemaElement, its Arrow type."""

    def __init__(self, place: int, element: Struct, kind: pa.DataType) -> None:
        self.place, self.element, self.kind = place, element, kind
        self.required = element[3][1] == REQUIRED


def _judged(source: pa.NativeFile, size: int, columns: Sequence[Column]) -> tuple[Struct, dict[str, _Stored]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tail = _tail(source, size)
    footer, _ = decode(tail)
    elements = footer[2][1][1]
    flat = elements[0][5][1] == len(elements) - 1 and not any(5 in element for element in elements[1:])
    if not flat or 8 in footer:  # nested columns, encryption
        raise _NotTaken
    try:
        with pq.ParquetFile(pa.BufferReader(tail)) as file:
            schema, leaves = file.schema_arrow, file.schema
    except (pa.ArrowException, OSError):
        raise _NotTaken from None
    names = schema.names
    if len(set(names)) < len(names):
        raise _NotTaken
    orders = footer[7][1][1] if 7 in footer else []
    wanted: dict[str, _Stored] = {}
    for column in columns:
        if column.name not in names:
            continue
        place = names.index(column.name)
        if not _same(schema.field(place).type, leaves.column(place), column.arrow_type):
            raise _NotTaken
        if place >= len(orders) or 1 not in orders[place]:
            raise _NotTaken  # bounds compare in some other way than the type's own
        wanted[column.name] = _Stored(place, elements[place + 1], arrow_type(column.arrow_type))
    if not wanted:
        raise _NotTaken
    return footer, wanted


def _tail(source: pa.NativeFile, size: int) -> bytes:
    """The footer, its length and the magic number."""
    ending = source.read_at(8, size - 8) if size > 12 else b""
    length = int.from_bytes(ending[:4], "little") + 8
    if ending[4:] != MAGIC or length > min(size - 4, MOST_FOOTER_BYTES):
        raise _NotTaken
    return source.read_at(length, size - length)


def _same(kind: pa.DataType, leaf: Any, wanted: str) -> bool:
    """Whether a column of a file holds just what a Parquet file of our own does under the contract type."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = {"large_string": "string", "string_view": "string", "large_binary": "binary", "binary_view": "binary"}
    if plain.get(str(kind), str(kind)) != str(arrow_type(wanted)):
        return False
    physical, length, logical = _own_leaf(wanted)
    if types.is_decimal(kind):  # Spark keeps short ones as integers
        return leaf.physical_type in _DECIMALS and _logical(leaf) == logical
    return leaf.physical_type == physical and leaf.length == length and _logical(leaf) == logical


@lru_cache(maxsize=256)
def _own_leaf(wanted: str) -> tuple[str, int, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"own": pa.nulls(0, arrow_type(wanted))}), sink, store_schema=False)
    leaf = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema.column(0)
    return leaf.physical_type, leaf.length, _logical(leaf)


def _logical(leaf: Any) -> str:
    """The leaf's logical type, however the file says it."""
    told = json.loads(leaf.logical_type.to_json())
    if told["Type"] == "Int" and told["isSigned"] and {32: "INT32", 64: "INT64"}.get(told["bitWidth"]):
        return "None"  # as every integer of this width is
    if told["Type"] == "None":
        return "None"
    return json.dumps({k: v for k, v in told.items() if not k.startswith(("is_from", "force_"))}, sort_keys=True)


def _chunks_of(group: Struct, wanted: dict[str, _Stored]) -> dict[str, Struct]:
    """The columns' ColumnMetaData in a row group, once it is sure that only their pages are left to be looked at."""
    return {name: _metadata(group[1][1][1][column.place], group[3][1], column) for name, column in wanted.items()}


def _metadata(chunk: Struct, rows: int, column: _Stored) -> Struct:
    metadata = chunk[3][1]
    if {1, 8, 9} & chunk.keys() or metadata[4][1] not in CODECS or metadata[5][1] != rows or rows <= 0:
        raise _NotTaken  # pages in another file, encryption, a codec that some readers lack, repeated values
    statistics = metadata[12][1] if 12 in metadata else {}
    if column.required:
        statistics = {**statistics, 3: (I64, 0)}
    if 3 not in statistics or not 0 <= statistics[3][1] <= rows:
        raise _NotTaken
    return {**metadata, 12: (STRUCT, statistics)}


def _span(metadata: dict[str, Struct]) -> tuple[int, int]:
    """Where a row group's columns lie in the file."""
    spans = [chunk_span(column) for column in metadata.values()]
    start, past = min(low for low, _ in spans), max(high for _, high in spans)
    if start < len(MAGIC) or past - start > MOST_GROUP_BYTES:
        raise _NotTaken
    return start, past


def chunk_span(metadata: Struct) -> tuple[int, int]:
    """Where a column of a row group begins and ends in its file, by its ColumnMetaData."""
    dictionary = metadata[11][1] if 11 in metadata else 0
    start = min(dictionary, metadata[9][1]) if dictionary > 0 else metadata[9][1]
    return start, start + metadata[7][1]


def _encoded(found: dict[str, Struct], wanted: dict[str, _Stored], data: memoryview, start: int) -> EncodedRows:
    rows = nbytes = 0
    chunks = {}
    for name, metadata in found.items():
        column, rows = wanted[name], metadata[5][1]
        first, past = chunk_span(metadata)
        pages = data[first - start : past - start]
        _require_common(pages, rows, boolean=metadata[1][1] == 0)
        chunks[name] = EncodedChunk(pages, first, metadata, column.element)
        nbytes += decoded_bytes(column.kind, metadata, rows)
    return EncodedRows(rows, nbytes, chunks)


def decoded_bytes(kind: pa.DataType, metadata: Struct, rows: int) -> int:
    """About what a column takes as an Arrow array."""
    import pyarrow.types as types

    if not types.is_string(kind) and not types.is_binary(kind):
        return rows * kind.bit_width // 8
    sizes = metadata[16][1] if 16 in metadata else {}
    return 4 * rows + (sizes[1][1] if 1 in sizes else metadata[6][1])


def _require_common(pages: memoryview, rows: int, *, boolean: bool) -> None:
    """The pages are of kinds and encodings that every reader has, and for all rows."""
    encodings = {PLAIN, RLE} if boolean else {PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY}
    at = values = 0
    while at < len(pages):
        header, at = decode(pages, at)
        kind, size = header[1][1], header[3][1]
        body = pages[at : at + size]
        at += size
        if kind == DATA_PAGE:
            page = header[5][1]
            values += page[1][1]
            common = page[2][1] in encodings and page[3][1] == RLE
        elif kind == DATA_PAGE_V2:
            page = header[8][1]
            values += page[1][1]
            common = page[4][1] in encodings
        else:
            common = kind == DICTIONARY_PAGE and header[7][1][2][1] in (PLAIN, PLAIN_DICTIONARY)
        whole = len(body) == size and (4 not in header or zlib.crc32(body) == header[4][1] & 0xFFFFFFFF)
        if not common or not whole:  # readers may look at checksums, the decoding one here does not
            raise _NotTaken
    if values != rows:
        raise _NotTaken


def _bare(source: pa.NativeFile, footer: Struct, groups: Sequence[dict[str, Struct]]) -> Any:
    """The file without logical types: decoded to the values that are stored, which is all that can fail."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    elements = [{n: v for n, v in element.items() if n not in _LOGICAL} for element in footer[2][1][1]]
    described = encode({n: v for n, v in footer.items() if n != 5} | {2: (LIST, (STRUCT, elements))})
    tail = described + len(described).to_bytes(4, "little") + MAGIC
    texts = [name for name, chunk in groups[0].items() if chunk[1][1] == BYTE_ARRAY]
    few = [name for name in texts if all(_all_in_dictionary(group[name]) for group in groups)]
    footer_alone = pq.read_metadata(pa.BufferReader(tail))
    return pq.ParquetFile(source, metadata=footer_alone, read_dictionary=few)


def _all_in_dictionary(metadata: Struct) -> bool:
    """Whether no page holds texts beside the dictionary."""
    pages = metadata[13][1][1] if 13 in metadata else []
    data = [page for page in pages if page[1][1] != DICTIONARY_PAGE]
    return bool(data) and all(page[2][1] in (PLAIN_DICTIONARY, RLE_DICTIONARY) for page in data)


def _require_sound(file: Any, number: int, wanted: dict[str, _Stored], found: dict[str, Struct]) -> None:
    """All values of the row group can be decoded, and are what its statistics and the columns' types say."""
    import pyarrow as pa

    nulls = dict.fromkeys(found, 0)
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=list(found), use_threads=False):
            for name, metadata in found.items():
                values = batch.column(name)
                if isinstance(values, pa.DictionaryArray):
                    values.validate(full=True)  # places beyond the dictionary come unseen else
                nulls[name] += values.null_count
                _require_bounded(values, wanted[name].kind, metadata[12][1])
    except (pa.ArrowException, OSError):
        raise _NotTaken from None
    if any(nulls[name] != metadata[12][1][3][1] for name, metadata in found.items()):
        raise _NotTaken


def _require_bounded(values: pa.Array, kind: pa.DataType, statistics: Struct) -> None:
    """Of the types that Delta's statistics cover: the stored integers lie within the statistics and within the type."""
    import pyarrow.types as types

    dated = types.is_date(kind) or types.is_timestamp(kind)
    if not dated and not types.is_integer(kind):
        return
    pc = arrow_compute()
    short = kind.bit_width < 64
    bounds = pc.min_max(values)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    if least is None:
        return
    for told, inside in (
        (statistics.get(6) or statistics.get(2), lambda low: low <= least),
        (statistics.get(5) or statistics.get(1), lambda high: most <= high),
    ):
        if told and not inside(struct.unpack("<i" if short else "<q", told[1])[0]):
            raise _NotTaken
    if dated and not within_years(kind, least, most):
        raise _NotTaken
