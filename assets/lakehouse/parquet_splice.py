"""Parquet parts made of column chunks that a source's files hold already, and of chunks written here beside them.

A part has the schema of a part written from Arrow, with two liberties that Delta's readers give: a column may be
REQUIRED, and a short decimal an integer. Files that differ in these, or in the program that wrote them, go to parts of
their own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from assets.encoded_rows import EncodedChunk, EncodedRows
from assets.lakehouse.storage import StagingStorage
from assets.parquet_format import BYTE_ARRAY, MAGIC, PLAIN, RLE, RLE_DICTIONARY
from assets.sync import Part
from assets.thrift_compact import BINARY, I32, I64, LIST, STRUCT, Struct, decode, encode, encode_list_head, varint

if TYPE_CHECKING:
    import pyarrow as pa

OPEN_PARTS = 4
MADE_CHUNKS = 256
"""Chunks that are kept because the next row group may have the same."""
_OFFSETS = (9, 11)
_KEPT = frozenset([1, 2, 4, 5, 6, 7, 9, 11, 12, 13, 16])
"""ColumnMetaData without what points elsewhere (bloom filters, index pages) and key-value pairs."""
Signature = tuple[Any, ...]


class SplicedParts:
    """The parts being written, one for each kind of file that came.

    Args:
        new_address: gives each part its address.
        part_rows, part_bytes: a part that has as much is finished.
    """

    def __init__(
        self,
        storage: StagingStorage,
        schema: pa.Schema,
        new_address: Callable[[], str],
        part_rows: int,
        part_bytes: int,
    ) -> None:
        self._storage, self._schema, self._new_address = storage, schema, new_address
        self._part_rows, self._part_bytes = part_rows, part_bytes
        self._chunks: OwnChunks | None = None
        self._open: dict[Signature, _OpenPart] = {}
        self.written: list[Part] = []

    def add(self, rows: EncodedRows) -> None:
        self._chunks = self._chunks or OwnChunks(self._schema)
        chunks = self._chunks.of(rows)
        signature = (rows.created_by, *(_shape(chunk.element) for chunk in chunks))
        part = self._open.get(signature)
        if part is None:
            if len(self._open) == OPEN_PARTS:
                self._finish(next(iter(self._open)))
            elements = [chunk.element for chunk in chunks]
            part = self._open[signature] = _OpenPart(self._storage, self._new_address(), elements, rows.created_by)
        part.add(rows, chunks)
        if part.rows >= self._part_rows or part.nbytes >= self._part_bytes:
            self._finish(signature)

    def _finish(self, signature: Signature) -> None:
        self.written.append(self._open.pop(signature).finish())

    def finish(self) -> None:
        for signature in list(self._open):
            self._finish(signature)

    def discard(self, error: BaseException) -> None:
        """What is being written does not appear."""
        while self._open:
            self._open.popitem()[1].discard(error)


def _shape(element: Struct) -> tuple[Any, ...]:
    """What may differ between files: physical type, its length, repetition."""
    return tuple(element[number][1] if number in element else None for number in (1, 2, 3))


class OwnChunks:
    """All columns of a row group under a part's schema: the source's chunks, others written here."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._schema = schema
        written = _written(pa.Table.from_batches([], schema), [])
        self._elements = {element[4][1].decode(): element for element in written[0][2][1][1][1:]}
        self._made: dict[tuple[str, int, int], EncodedChunk] = {}

    def of(self, rows: EncodedRows) -> list[EncodedChunk]:
        """In the order of the schema."""
        import pyarrow as pa

        def chunk(field: pa.Field) -> EncodedChunk:
            name = field.name
            if name in rows.chunks:
                return self._as_own(name, rows.chunks[name])
            if name in rows.numbers:
                return self._counted(name, rows.numbers[name], rows.num_rows)
            value = rows.constants.get(name)
            stored = None if value is None else _stored(pa.scalar(value, field.type))
            return _one_value(stored, rows.num_rows, self._elements[name])

        return [chunk(field) for field in self._schema]

    def _as_own(self, name: str, chunk: EncodedChunk) -> EncodedChunk:
        """The column as the part's schema says it, its physical type, length and repetition as they are."""
        element = {n: field for n, field in self._elements[name].items() if n not in (1, 2, 3)}
        element |= {n: field for n, field in chunk.element.items() if n in (1, 2, 3)}
        return EncodedChunk(chunk.data, chunk.start, chunk.metadata, element)

    def _counted(self, name: str, first: int, rows: int) -> EncodedChunk:
        """A column that counts rows."""
        import pyarrow as pa

        made = self._made.get((name, first, rows))
        if made is None:
            footer, content = _written(pa.table({name: pa.arange(first, first + rows)}), [name])
            metadata = footer[4][1][1][0][1][1][1][0][3][1]
            start = metadata[9][1]
            made = EncodedChunk(content[start : start + metadata[7][1]], start, metadata, self._elements[name])
            if len(self._made) > MADE_CHUNKS:
                self._made.clear()
            self._made[name, first, rows] = made
        return made


def _stored(value: pa.Scalar) -> bytes:
    """A text, integer or timestamp as Parquet's statistics hold it."""
    import pyarrow.types as types

    return value.as_py().encode() if types.is_string(value.type) else struct.pack("<q", value.cast("int64").as_py())


def _one_value(value: bytes | None, rows: int, element: Struct) -> EncodedChunk:
    """A column that holds one value in every row, or NULL: a dictionary of it, and one run that points to it."""
    run = varint(rows << 1)
    levels = run + (b"\0" if value is None else b"\1")
    body = len(levels).to_bytes(4, "little") + levels
    pages, start = [], len(MAGIC)
    statistics: Struct = {3: (I64, rows if value is None else 0)}
    if value is not None:
        body += b"\1" + run + b"\0"  # places of one bit
        entry = len(value).to_bytes(4, "little") + value if element[1][1] == BYTE_ARRAY else value
        pages.append(encode({1: (I32, 2), **_sizes(entry), 7: (STRUCT, {1: (I32, 1), 2: (I32, PLAIN)})}) + entry)
        start += len(pages[0])
        statistics |= {5: (BINARY, value), 6: (BINARY, value)}
    encoding = PLAIN if value is None else RLE_DICTIONARY
    page: Struct = {1: (I32, rows), 2: (I32, encoding), 3: (I32, RLE), 4: (I32, RLE)}
    pages.append(encode({1: (I32, 0), **_sizes(body), 5: (STRUCT, page)}) + body)
    data = b"".join(pages)
    metadata: Struct = {
        1: element[1],
        2: (LIST, (I32, [PLAIN, RLE, RLE_DICTIONARY])),
        4: (I32, 0),
        5: (I64, rows),
        6: (I64, len(data)),
        7: (I64, len(data)),
        9: (I64, start),
        12: (STRUCT, statistics),
    }
    if value is not None:
        metadata[11] = (I64, len(MAGIC))
    return EncodedChunk(memoryview(data), len(MAGIC), metadata, element)


def _sizes(body: bytes) -> Struct:
    return {2: (I32, len(body)), 3: (I32, len(body))}


def _written(table: pa.Table, numbers: Sequence[str]) -> tuple[Struct, memoryview]:
    """A table as a Parquet file of one row group, and its footer. ``numbers``: columns that count rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, table.num_rows),
        compression="snappy",
        store_schema=False,
        use_dictionary=False,
        # steps of one take no space, and every reader of Delta has it: Spark since 3.3
        column_encoding={name: "DELTA_BINARY_PACKED" for name in numbers},
    )
    content = memoryview(sink.getvalue()).cast("B")
    length = int.from_bytes(content[-8:-4], "little")
    return decode(content[-8 - length : -8])[0], content


class _OpenPart:
    """One Parquet file being written."""

    def __init__(self, storage: StagingStorage, address: str, elements: Sequence[Struct], created_by: bytes) -> None:
        self._storage, self._address = storage, address
        self._elements, self._created_by = elements, created_by
        self._groups: list[bytes] = []
        self.rows = self.nbytes = 0
        self._stack = ExitStack()
        self._file = self._stack.enter_context(storage.open_output(address))
        self._at = self._write(MAGIC)

    def _write(self, data: bytes | memoryview) -> int:
        self._file.write(data)
        return len(data)

    def add(self, rows: EncodedRows, chunks: Sequence[EncodedChunk]) -> None:
        columns, first = [], self._at
        for element, chunk in zip(self._elements, chunks, strict=True):
            moved = self._at - chunk.start
            metadata = {number: field for number, field in chunk.metadata.items() if number in _KEPT}
            metadata |= {n: (I64, metadata[n][1] + moved) for n in _OFFSETS if n in metadata and metadata[n][1]}
            metadata[3] = (LIST, (BINARY, [element[4][1]]))
            columns.append({2: (I64, 0), 3: (STRUCT, metadata)})
            self._at += self._write(chunk.data)
        group: Struct = {
            1: (LIST, (STRUCT, columns)),
            2: (I64, sum(chunk.metadata[6][1] for chunk in chunks)),
            3: (I64, rows.num_rows),
            5: (I64, first),
            6: (I64, self._at - first),
        }
        self._groups.append(encode(group))
        self.rows += rows.num_rows
        self.nbytes += rows.nbytes

    def finish(self) -> Part:
        with self._stack:
            footer = self._footer()
            for piece in (footer, len(footer).to_bytes(4, "little"), MAGIC):
                self._write(piece)
        return Part(uri=self._address, rows=self.rows, bytes=self._storage.stat(self._address).size)

    def _footer(self) -> bytes:
        """Struct by struct: the row groups are encoded already."""
        root: Struct = {4: (BINARY, b"schema"), 5: (I32, len(self._elements))}
        before: Struct = {
            1: (I32, 2),
            2: (LIST, (STRUCT, [root, *self._elements])),
            3: (I64, self.rows),
        }
        after: Struct = {7: (LIST, (STRUCT, [{1: (STRUCT, {})} for _ in self._elements]))}
        if self._created_by:
            after[6] = (BINARY, self._created_by)
        groups = encode_list_head(STRUCT, len(self._groups)) + b"".join(self._groups)
        # a struct ends with a zero byte; field 4 is a list, one after field 3
        return encode(before)[:-1] + bytes([1 << 4 | LIST]) + groups + encode(after, last=4)

    def discard(self, error: BaseException) -> None:
        self._stack.__exit__(type(error), error, error.__traceback__)
