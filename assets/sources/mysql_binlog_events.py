"""The binlog's events, as far as the changes of tables need them: MySQL's and MariaDB's.

Formats: MySQL's source documentation, "Binary log events"; MariaDB's, "Replication protocol". The library
``mysql-replication`` serves for GTID sets only (`mysql_gtids`): its decoders drop compressed events unsaid and change
values, which ``tests/assets/sources/test_binlog_library.py`` measures.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

QUERY, STOP, ROTATE, EXECUTE_LOAD, FORMAT, XID, TABLE_MAP = 2, 3, 4, 18, 15, 16, 19
INCIDENT, GTID, ANONYMOUS, XA_PREPARE, PARTIAL_UPDATE, PAYLOAD = 26, 33, 34, 38, 39, 40
MARIADB_GTID, QUERY_COMPRESSED = 162, 165
INSERTS, UPDATES, DELETES = frozenset((23, 30, 166, 169)), frozenset((24, 31, 167, 170)), frozenset((25, 32, 168, 171))
ROWS = INSERTS | UPDATES | DELETES
COMPRESSED_ROWS = frozenset(range(166, 172))
_SECOND_VERSION = frozenset((30, 31, 32, 169, 170, 171))
# user variables, numbers of statements, annotations, lists of GTIDs, heartbeats, checkpoints: they change no row
HARMLESS = frozenset((STOP, 5, 13, 14, 17, 27, 29, 35, 36, 41, 160, 161, 163, 164))
IGNORABLE = 0x80

TINY, SHORT, LONG, FLOAT, DOUBLE, TIMESTAMP, LONGLONG, INT24 = 1, 2, 3, 4, 5, 7, 8, 9
DATE, TIME, DATETIME, YEAR = range(10, 14)
NEWDATE, VARCHAR, BIT, TIMESTAMP2, DATETIME2, TIME2 = range(14, 20)
BLOB_COMPRESSED, VARCHAR_COMPRESSED, VECTOR = 140, 141, 242
JSON, NEWDECIMAL, ENUM, SET, BLOB, VAR_STRING, STRING, GEOMETRY = 245, 246, 247, 248, 252, 253, 254, 255
_ONE_BYTE = frozenset((FLOAT, DOUBLE, 249, 250, 251, BLOB, GEOMETRY, JSON, TIMESTAMP2, DATETIME2, TIME2, VECTOR))
_TWO_BYTES = frozenset((VARCHAR, VAR_STRING, STRING, NEWDECIMAL, BIT, ENUM, SET, VARCHAR_COMPRESSED))
_COLUMN_NAMES, _SET_MEMBERS, _ENUM_MEMBERS = 4, 5, 6

HEADER = struct.Struct("<IBIIIH")


class MalformedEventError(ValueError):
    """Bytes that are no event of the format."""


class Event(NamedTuple):
    """One event. ``end`` is the position after it, 0 where the server made it up; the body is without its checksum."""

    timestamp: int
    kind: int
    server_id: int
    end: int
    flags: int
    body: bytes


def parse_event(data: bytes, checksummed: bool) -> Event:
    """An event as the server sends it.

    Raises:
        MalformedEventError: its length or checksum is wrong.
    """
    if len(data) < HEADER.size:
        raise MalformedEventError("an event is cut short")
    timestamp, kind, server_id, size, end, flags = HEADER.unpack_from(data)
    if size != len(data):
        raise MalformedEventError("an event has another length than it says")
    stop = len(data)
    if checksummed:
        stop -= 4
        if not ends_with_checksum(data):
            raise MalformedEventError("the checksum of an event is wrong")
    return Event(timestamp, kind, server_id, end, flags, data[HEADER.size : stop])


def ends_with_checksum(data: bytes) -> bool:
    return zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")


def describes_checksums(data: bytes) -> bool:
    """Whether the events after this format description carry checksums; it itself ends with one if so."""
    version = data[HEADER.size + 2 : HEADER.size + 52].partition(b"\0")[0].decode("latin1")
    digits = [int("".join(c for c in part if c.isdigit()) or 0) for part in version.split("-")[0].split(".")[:3]]
    knows = tuple(digits) >= ((5, 3, 0) if "maria" in version.lower() else (5, 6, 1))
    return knows and data[-5] == 1


def parse_rotate(body: bytes) -> tuple[str, int]:
    """The file that follows, and the position in it."""
    return body[8:].decode(), int.from_bytes(body[:8], "little")


def mariadb_gtid(event: Event) -> str:
    sequence, domain = struct.unpack_from("<QI", event.body)
    return f"{domain}-{event.server_id}-{sequence}"


def mysql_gtid(body: bytes) -> tuple[bytes, int]:
    """The server's UUID and the transaction's number."""
    return body[1:17], int.from_bytes(body[17:25], "little")


class Statement(NamedTuple):
    schema: str
    text: str


def parse_query(event: Event) -> Statement:
    body = event.body
    _, _, schema_size, _, status_size = struct.unpack_from("<IIBHH", body)
    start = 13 + status_size
    text = body[start + schema_size + 1 :]
    if event.kind == QUERY_COMPRESSED:
        text = inflated(text)
    return Statement(body[start : start + schema_size].decode("utf-8", "replace"), text.decode("utf-8", "replace"))


def inflated(data: bytes) -> bytes:
    """MariaDB's compressed part of an event (``log_bin_compress``)."""
    if not data or data[0] & 0xF0 != 0x80:
        raise MalformedEventError("a compressed event has an unknown algorithm")
    start = 1 + (data[0] & 7)
    content = zlib.decompress(data[start:])
    if len(content) != int.from_bytes(data[1:start], "big"):
        raise MalformedEventError("a compressed event has another length than it says")
    return content


def parse_payload(body: bytes) -> Iterator[Event]:
    """The events inside a compressed transaction of MySQL (``binlog_transaction_compression``)."""
    import pyarrow as pa

    place, fields = 0, {}
    while True:
        field, place = packed_integer(body, place)
        if field == 0:
            break
        size, place = packed_integer(body, place)
        fields[field] = packed_integer(body, place)[0]
        place += size
    data = body[place : place + fields.get(1, len(body) - place)]
    if fields.get(2, 255) == 0:
        data = pa.decompress(data, fields[3], codec="zstd", asbytes=True)
    elif fields.get(2, 255) != 255:
        raise MalformedEventError("a transaction is compressed by an unknown algorithm")
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place + 9 : place + 13], "little")
        if size < HEADER.size:
            raise MalformedEventError("an event is cut short")
        yield parse_event(data[place : place + size], False)
        place += size


def packed_integer(data: bytes, place: int) -> tuple[int, int]:
    """A length-encoded integer, and the place after it."""
    first = data[place]
    if first < 251:
        return first, place + 1
    width = {252: 2, 253: 3, 254: 8}.get(first)
    if width is None:
        raise MalformedEventError("a length is NULL")
    return int.from_bytes(data[place + 1 : place + 1 + width], "little"), place + 1 + width


def _packed_bytes(data: bytes, place: int) -> tuple[bytes, int]:
    """Bytes after their length, and the place after them."""
    size, place = packed_integer(data, place)
    return data[place : place + size], place + size


def xa_prepared(body: bytes) -> tuple[bool, str]:
    """Whether it commits in one phase, and the transaction's name as ``XA COMMIT`` writes it in the log."""
    _, global_size, branch_size = struct.unpack_from("<III", body, 1)
    name, branch = body[13 : 13 + global_size], body[13 + global_size : 13 + global_size + branch_size]
    return body[0] != 0, f"X'{name.hex()}',X'{branch.hex()}',{int.from_bytes(body[1:5], 'little')}"


# tables and rows


@dataclass(frozen=True)
class TableMap:
    """A table as the log describes it before its rows.

    Args:
        types: a column each, as is ``metadata``: a number that belongs to the type.
        names: the columns', where the log has them.
        members: of each column that is an enum or a set, in the column's character set, where the log has them.
    """

    schema: str
    table: str
    types: tuple[int, ...]
    metadata: tuple[int, ...]
    names: tuple[str, ...] | None
    members: tuple[tuple[bytes, ...] | None, ...]


def table_id(body: bytes) -> int:
    return int.from_bytes(body[:6], "little")


def table_name(body: bytes) -> tuple[bytes, bytes]:
    """Schema and table of a table map, without parsing the rest."""
    size = body[8]
    start = 10 + size
    return body[9 : 9 + size], body[start + 1 : start + 1 + body[start]]


def parse_table_map(body: bytes) -> TableMap:
    return _parse_table_map(body[8:])


@lru_cache(maxsize=256)
def _parse_table_map(body: bytes) -> TableMap:
    size = body[0]
    schema, place = body[1 : 1 + size].decode(), 2 + size
    size = body[place]
    table, place = body[place + 1 : place + 1 + size].decode(), place + 2 + size
    count, place = packed_integer(body, place)
    kinds, place = list(body[place : place + count]), place + count
    size, place = packed_integer(body, place)
    end = place + size
    metadata = []
    for index, kind in enumerate(kinds):
        width = 2 if kind in _TWO_BYTES else 1 if kind in _ONE_BYTE or kind == BLOB_COMPRESSED else 0
        value = int.from_bytes(body[place : place + width], "little")
        if kind == STRING:
            first, second = body[place], body[place + 1]
            if first in (ENUM, SET):
                kinds[index], value = first, second
            else:  # a length of up to 1023 hides its upper bits in the type
                value = second | (((first & 0x30) ^ 0x30) << 4)
        metadata.append(value)
        place += width
    if place != end:
        raise MalformedEventError("a table is described in an unknown way")
    place = end + (count + 7) // 8
    names = None
    told: dict[int, Iterator[tuple[bytes, ...]]] = {}
    while place < len(body):
        field = body[place]
        data, place = _packed_bytes(body, place + 1)
        if field == _COLUMN_NAMES:
            names = tuple(_names(data))
        elif field in (_SET_MEMBERS, _ENUM_MEMBERS):
            told[SET if field == _SET_MEMBERS else ENUM] = _members(data)
    members = tuple(next(told[kind], None) if kind in told else None for kind in kinds)
    return TableMap(schema, table, tuple(kinds), tuple(metadata), names, members)


def _names(data: bytes) -> Iterator[str]:
    place = 0
    while place < len(data):
        name, place = _packed_bytes(data, place)
        yield name.decode()


def _members(data: bytes) -> Iterator[tuple[bytes, ...]]:
    place = 0
    while place < len(data):
        count, place = packed_integer(data, place)
        found = []
        for _ in range(count):
            member, place = _packed_bytes(data, place)
            found.append(member)
        yield tuple(found)


class Rows(NamedTuple):
    """Rows of one event: which columns each image has (one bit a column, an update has two images), and the images."""

    table_id: int
    columns: int
    present: tuple[bytes, ...]
    data: bytes


def parse_rows(event: Event) -> Rows:
    body = event.body
    place = 8
    if event.kind in _SECOND_VERSION:
        place += int.from_bytes(body[8:10], "little")
    columns, place = packed_integer(body, place)
    width = (columns + 7) // 8
    images = 2 if event.kind in UPDATES else 1
    present = tuple(body[place + i * width : place + (i + 1) * width] for i in range(images))
    data = body[place + images * width :]
    return Rows(table_id(body), columns, present, inflated(data) if event.kind in COMPRESSED_ROWS else data)
