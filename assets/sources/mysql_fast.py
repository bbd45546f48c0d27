"""The fast reader: the protocol's text rows are taken from the socket in bulk and split into columns with numpy.

A row is a packet (three bytes of length, one of sequence), its values follow each other, each behind its length. One
Python step a packet finds the rows of a buffer; everything else is done a column at a time: lengths and NULLs by numpy,
values gathered and cast by Arrow. Every packet has to end where its last value ends, or the read fails. Rows of one
buffer are split in a thread of their own while the next buffer is read, as the server waits for a reader that does not.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pymysql.protocol import MysqlPacket

from assets.arrow_compute import arrow_compute
from assets.errors import SourceUnreachableError
from assets.fetch_ahead import worked_on_meanwhile
from assets.sources.interface import CarefulReadNeeded
from assets.sources.mysql_lossy_text import LOST
from assets.sources.mysql_text import RowParser
from assets.types import arrow_type

if TYPE_CHECKING:
    import pymysql

    from assets.sync import Column

BUFFER_BYTES = 4 << 20
_LONGEST_PACKET = 0xFFFFFF
_NULL, _TWO, _THREE, _EIGHT = 251, 252, 253, 254
_EOF, _ERROR = 254, 255
_YEAR_ONE = {"date32[day]": -719_162, "timestamp[us]": -62_135_596_800_000_000}


def fast_batches(
    opened: pymysql.Connection[Any], query: str, columns: Sequence[Column], parser: RowParser
) -> Iterator[pa.RecordBatch]:
    """Yield the query's rows, whose select list is ``columns``.

    Raises:
        CarefulReadNeeded: a row is longer than a packet, or text may have lost characters in its conversion.
        SourceUnreachableError: the connection ended, or what came is no row.
    """
    stream = _PacketStream(opened, query)
    # closing them drops the connection where the rest of the rows was not skipped
    with closing(stream.buffers()) as buffers:
        try:
            yield from worked_on_meanwhile(buffers, lambda rows: _parse(*rows, columns, parser))
        except CarefulReadNeeded:  # of rows before those that were read last
            stream.skip_rest()
            raise


def _parse(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, columns: Sequence[Column], parser: RowParser
) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    position = starts
    for column in columns:
        values, position = _column(data, position)
        if column.rule == "converted" and _may_have_lost(values):
            raise CarefulReadNeeded
        arrays.append(_quick(values, arrow_type(column.arrow_type)))
    if not np.array_equal(position, ends):
        raise SourceUnreachableError("the server sent rows of another shape than it announced")
    return parser.batch(arrays)


class _PacketStream:
    """The rows of one unbuffered query, as buffers of whole packets."""

    def __init__(self, opened: Any, query: str) -> None:
        self._opened = opened
        self._rest = b""
        self._complete = False
        opened.query(query, unbuffered=True)

    def buffers(self) -> Generator[tuple[np.ndarray, np.ndarray, np.ndarray], None, None]:
        """Yield bytes, and where each row starts and ends in them."""
        opened, head = self._opened, Struct("<I").unpack_from
        buffer = bytearray(BUFFER_BYTES)
        # what was read ahead with the description of the columns comes first; then the socket is asked directly, as
        # readinto1 would wait for more than there is
        ahead = opened._rfile.read(len(opened._rfile.peek(1)))
        buffer[: len(ahead)] = ahead
        held = position = 0
        starts: list[int] = []
        try:
            while not self._complete:
                if held == len(buffer):
                    buffer = buffer + bytearray(len(buffer))  # a packet larger than the buffer
                got = len(ahead)
                if not got:
                    with memoryview(buffer) as view:
                        got = opened._rfile.raw.readinto(view[held:])
                ahead = b""
                if not got:
                    raise SourceUnreachableError("the server closed the connection while rows were read")
                held += got
                append = starts.append
                while position + 4 <= held:
                    size = head(buffer, position)[0] & _LONGEST_PACKET
                    if size == _LONGEST_PACKET:
                        self._rest = bytes(buffer[position:held])
                        self.skip_rest()
                        raise CarefulReadNeeded
                    if position + 4 + size > held:
                        break
                    append(position)
                    position += 4 + size
                self._complete = position == held and bool(starts) and self._ends(buffer, starts, held)
                if not self._complete and (held < BUFFER_BYTES or not starts):
                    continue
                if self._complete:
                    starts.pop()
                self._rest = bytes(buffer[position:held])
                if starts:
                    begins = np.array(starts, np.int64)
                    data = np.frombuffer(buffer, np.uint8)
                    sizes = data[begins].astype(np.int64) | (data[begins + 1].astype(np.int64) << 8)
                    begins += 4
                    yield data, begins, begins + (sizes | (data[begins - 2].astype(np.int64) << 16))
                    del data
                held, position, starts = len(self._rest), 0, []
                buffer = bytearray(BUFFER_BYTES)
                buffer[:held] = self._rest
        finally:
            result = opened._result
            if result is not None:
                result.unbuffered_active = False
                opened._result = None
            if not self._complete:
                opened._force_close()  # the rest of the rows is not waited for

    def skip_rest(self) -> None:
        """Read to the end of the rows, so that the connection serves another query in its snapshot."""
        held = io.BytesIO(self._rest)

        def read(size: int) -> bytes:
            data = held.read(size)
            more = self._opened._rfile.read(size - len(data)) if len(data) < size else b""
            if len(data) + len(more) < size:
                raise SourceUnreachableError("the server closed the connection while rows were read")
            return data + more

        continued = False
        while not self._complete:
            size = int.from_bytes(read(4)[:3], "little")
            packet = read(size)
            if not continued and size and size < 9 and packet[0] == _EOF:
                self._complete = True
            elif not continued and size and packet[0] == _ERROR:
                MysqlPacket(packet, "utf8").raise_for_error()
            continued = size == _LONGEST_PACKET

    def _ends(self, buffer: bytearray, starts: list[int], held: int) -> bool:
        """Whether the last packet is the end of the rows; an error of the server is raised."""
        last = starts[-1] + 4
        if buffer[last] == _ERROR:
            MysqlPacket(bytes(buffer[last:held]), "utf8").raise_for_error()
        return buffer[last] == _EOF and held - last < 9


def _column(data: np.ndarray, position: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """One column's values, and where the next column's begin."""
    first = data[position]
    lengths = first.astype(np.int64)
    begin = position + 1
    nulls = None
    if lengths.size and first.max() >= _NULL:
        nulls = first == _NULL
        lengths[nulls] = 0
        for mark, width in ((_TWO, 2), (_THREE, 3), (_EIGHT, 8)):
            rows = np.flatnonzero(first == mark)
            if rows.size:
                size = np.zeros(rows.size, np.int64)
                for byte in range(width):
                    size |= data[position[rows] + 1 + byte].astype(np.int64) << (8 * byte)
                lengths[rows] = size
                begin[rows] += width
        if not nulls.any():
            nulls = None
    end = begin + lengths
    # one array over the buffer whose even items are the values and whose odd ones lie between them
    offsets = np.empty(2 * position.size, np.int32)
    offsets[0::2], offsets[1::2] = begin, end
    items = pa.Array.from_buffers(pa.binary(), offsets.size - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    even = pa.array(np.arange(0, offsets.size, 2, dtype=np.int32), mask=nulls)
    return items.take(even), end


def _quick(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values cast where all of them fit; else as they are, for the parser that looks at each."""
    if pa.types.is_binary(kind):
        return values
    pc = arrow_compute()
    plain = pa.timestamp("us") if pa.types.is_timestamp(kind) else kind
    try:
        typed = values.cast(pa.string()).cast(plain)
    except pa.ArrowInvalid:
        return values
    if pa.types.is_date(plain) or pa.types.is_timestamp(plain):
        lowest = pc.min(typed.view(pa.int32() if pa.types.is_date(plain) else pa.int64())).as_py()
        if lowest is not None and lowest < _YEAR_ONE[str(plain)]:
            return values
        if pa.types.is_timestamp(kind) and kind.tz:
            return pc.assume_timezone(typed, "UTC")
    return typed


def _may_have_lost(values: pa.Array) -> bool:
    pc = arrow_compute()
    return any(pc.any(pc.match_substring(values, lost)).as_py() for lost in LOST)
