"""Row images of the binlog as Arrow columns: the same values as a full read's, many rows at a time.

A row image is a bitmap of NULLs and the values in order, each as long as its type says. One Python step a row finds
where rows begin; everything else is done a column at a time with numpy. Text that fits no column type, zero dates among
it, goes through the full read's parser (`mysql_text.RowParser`), so one rule decides for both.
"""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from assets.arrow_compute import arrow_compute
from assets.sources import mysql_binlog_events as log
from assets.sources.mysql_json import json_texts
from assets.sync import Column
from assets.types import arrow_type

_PADDING = 64  # what a NULL at the end may seem to reach: a decimal of 65 digits
_SIZES = {log.TINY: 1, log.YEAR: 1, log.SHORT: 2, log.INT24: 3, log.LONG: 4, log.LONGLONG: 8, log.FLOAT: 4}
_SIZES |= {log.DOUBLE: 8, log.DATE: 3, log.NEWDATE: 3, log.TIMESTAMP: 4, log.DATETIME: 8, log.TIME: 3}
_FRACTIONAL = {log.TIMESTAMP2: 4, log.DATETIME2: 5, log.TIME2: 3}
_COUNTED = frozenset((log.BLOB, log.BLOB_COMPRESSED, log.GEOMETRY, log.JSON, log.VECTOR))
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_TEXTUAL = {log.VARCHAR, log.VAR_STRING, log.STRING, log.BLOB, log.BLOB_COMPRESSED, log.VARCHAR_COMPRESSED}
KINDS = {
    "tinyint": {log.TINY},
    "smallint": {log.SHORT},
    "mediumint": {log.INT24},
    "int": {log.LONG},
    "bigint": {log.LONGLONG},
    "decimal": {log.NEWDECIMAL},
    "float": {log.FLOAT},
    "double": {log.DOUBLE},
    "bit": {log.BIT},
    "year": {log.YEAR},
    "date": {log.DATE, log.NEWDATE},
    "time": {log.TIME, log.TIME2},
    "datetime": {log.DATETIME, log.DATETIME2},
    "timestamp": {log.TIMESTAMP, log.TIMESTAMP2},
    "enum": {log.ENUM},
    "set": {log.SET},
    "json": {log.JSON, log.BLOB},
    "uuid": {log.STRING},
    "inet4": {log.STRING},
    "inet6": {log.STRING},
    "vector": {log.VECTOR, log.VARCHAR},
}
"""By ``information_schema.columns.data_type`` the types in the log. Texts and bytes: `_TEXTUAL`; else geometry."""
_ZEROS = re.compile("0+")
_ESCAPED, _ESCAPES = re.compile(r"''|\\[0nr\\]"), {"''": "'", r"\0": "\0", r"\n": "\n", r"\r": "\r", r"\\": "\\"}
_COMMAS = {"ucs2": b"\0,", "utf16": b"\0,", "utf16le": b",\0", "utf32": b"\0\0\0,"}
_TEXT_NAMES = re.compile(r"(?:n?char|n?varchar|(?:tiny|medium|long)?(?:text|blob)|(?:var)?binary|xmltype)\Z")
Convert = Callable[[pa.Array, str], tuple[pa.Array, pa.Array]]
"""Binary values of a character set as UTF-8, and the hex of those that lose something, else NULL."""


@dataclass(frozen=True)
class LoggedColumn:
    """A wanted column as the table has it now."""

    column: Column
    data_type: str
    charset: str | None

    def is_logged_as(self, kind: int) -> bool:
        if self.data_type in KINDS:
            return kind in KINDS[self.data_type]
        return kind in (_TEXTUAL if _TEXT_NAMES.match(self.data_type) else {log.GEOMETRY})

    @property
    def size(self) -> int:
        return declared_size(self.column.source_type)


def declared_size(source_type: str) -> int:
    """The number in ``datetime(3)``, ``binary(16)``; 0 where there is none."""
    found = re.search(r"\((\d+)\)", source_type)
    return int(found[1]) if found else 0


def members(source_type: str) -> list[str]:
    """The members of ``enum('a','it''s')`` or a set, as far as `tells_members`."""
    quoted = re.findall(r"'((?:[^']|'')*)'", source_type)
    return [_ESCAPED.sub(lambda found: _ESCAPES[found[0]], text) for text in quoted]


def tells_members(source_type: str) -> bool:
    """Whether an enum's or a set's members are as written: the catalogue has ``?`` for characters it cannot hold."""
    return "?" not in source_type


def value_size(kind: int, metadata: int) -> tuple[int, int]:
    """How long a value is: its fixed size, and the width of the length that stands before it otherwise.

    Raises:
        MalformedEventError: an unknown type.
    """
    if kind in _SIZES:
        return _SIZES[kind], 0
    if kind in _FRACTIONAL:
        return _FRACTIONAL[kind] + (metadata + 1) // 2, 0
    if kind == log.NEWDECIMAL:
        precision, scale = metadata & 0xFF, metadata >> 8
        whole, rest = divmod(precision - scale, 9)
        parts, last = divmod(scale, 9)
        return whole * 4 + _DIGIT_BYTES[rest] + parts * 4 + _DIGIT_BYTES[last], 0
    if kind in (log.ENUM, log.SET):
        return metadata, 0
    if kind == log.BIT:
        return (metadata >> 8) + ((metadata & 0xFF) > 0), 0
    if kind in _COUNTED:
        return 0, metadata
    if kind in _TEXTUAL:
        return 0, 2 if metadata > 255 else 1
    raise log.MalformedEventError(f"a column has the unknown type {kind}")


class Images:
    """Row images of one table map, collected from events and taken apart together."""

    def __init__(self, table: log.TableMap) -> None:
        self.table = table
        self._sizes = [value_size(k, m) for k, m in zip(table.types, table.metadata, strict=True)]
        self._walks: dict[bytes, tuple[list[tuple[int, int]], int]] = {}
        self._data: list[bytes] = []
        self._starts: list[int] = []
        self._length = 0

    def add(self, data: bytes) -> int:
        """Take the images of one event; returns how many there are.

        Raises:
            MalformedEventError: they do not end where the event does.
        """
        nulls = (len(self._sizes) + 7) // 8
        place, end, base = 0, len(data), self._length
        starts, walks = self._starts, self._walks
        before = len(starts)
        while place < end:
            starts.append(base + place)
            mask = data[place : place + nulls]
            place += nulls
            walk = walks.get(mask)
            if walk is None:
                walk = walks[mask] = self._walk(mask)
            for skip, width in walk[0]:
                place += skip
                if width == 1:
                    place += 1 + data[place]
                else:
                    place += width + int.from_bytes(data[place : place + width], "little")
            place += walk[1]
        if place != end:
            raise log.MalformedEventError("rows do not end where their event does")
        self._data.append(data)
        self._length += end
        return len(starts) - before

    def _walk(self, mask: bytes) -> tuple[list[tuple[int, int]], int]:
        """Fixed sizes to skip before each length, and after the last one."""
        steps, skip = [], 0
        for index, (size, width) in enumerate(self._sizes):
            if mask[index >> 3] >> (index & 7) & 1:
                continue
            if width:
                steps.append((skip, width))
                skip = 0
            else:
                skip += size
        return steps, skip

    def columns(self, wanted: Sequence[int]) -> dict[int, Values]:
        """Where the values of the wanted columns lie, by their numbers."""
        buffer = np.frombuffer(b"".join(self._data) + bytes(_PADDING), np.uint8)
        starts = np.array(self._starts, np.int64)
        at = starts + (len(self._sizes) + 7) // 8
        found = {}
        for index, (size, width) in enumerate(self._sizes):
            null = (buffer[starts + (index >> 3)] >> (index & 7) & 1).astype(bool)
            if width:
                lengths = np.where(null, 0, little_endian(buffer, at, width))
                begin = np.where(null, at, at + width)
            else:
                lengths, begin = np.where(null, 0, size), at
            if index in wanted:
                kind, metadata = self.table.types[index], self.table.metadata[index]
                found[index] = Values(buffer, begin, lengths, null, kind, metadata, self.table.members[index])
            at = begin + lengths
        return found


@dataclass
class Values:
    """The values of one column: where they lie, and which are NULL."""

    buffer: Any
    begin: Any
    lengths: Any
    null: Any
    kind: int
    metadata: int
    members: tuple[bytes, ...] | None = None

    def of(self, rows: Any) -> Values:
        return replace(self, begin=self.begin[rows], lengths=self.lengths[rows], null=self.null[rows])

    def little(self, size: int, first: int = 0) -> Any:
        return little_endian(self.buffer, self.begin + first, size)

    def big(self, size: int, first: int = 0) -> Any:
        return big_endian(self.buffer, self.begin + first, size)

    def bytes(self) -> pa.Array:
        # one array over the buffer whose even items are the values and whose odd ones lie between them
        offsets = np.empty(2 * self.begin.size, np.int32)
        offsets[0::2], offsets[1::2] = self.begin, self.begin + self.lengths
        if not offsets.size:
            return pa.array([], pa.binary())
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.buffer)]
        items = pa.Array.from_buffers(pa.binary(), offsets.size - 1, buffers)
        return items.take(pa.array(np.arange(0, offsets.size, 2, dtype=np.int32), mask=self.null))


def little_endian(buffer: Any, at: Any, size: int) -> Any:
    value = np.zeros(at.size, np.uint64)
    for byte in range(size):
        value |= buffer[at + byte].astype(np.uint64) << np.uint64(8 * byte)
    return value.astype(np.int64)


def big_endian(buffer: Any, at: Any, size: int) -> Any:
    value = np.zeros(at.size, np.int64)
    for byte in range(size):
        value = (value << 8) | buffer[at + byte].astype(np.int64)
    return value


def decoded(values: Values, logged: LoggedColumn, convert: Convert) -> tuple[pa.Array, pa.Array | None]:
    """A column in its contract type, or as text for the full read's parser; and what ``convert`` lost."""
    kind, column, lossy = arrow_type(logged.column.arrow_type), logged.column, None
    name = logged.data_type
    if name in ("tinyint", "smallint", "mediumint", "int", "bigint"):
        array = _integers(values, _SIZES[values.kind], "unsigned" in column.source_type.lower()).cast(kind)
    elif name == "year":
        numbers = values.little(1)
        numbers = np.where(numbers == 0, 0, numbers + 1900)
        if column.source_type.lower().startswith("year(2)"):
            numbers = numbers % 100
        array = pa.array(numbers, mask=values.null).cast(kind)
    elif name in ("float", "double"):
        size = _SIZES[values.kind]
        raw = np.ascontiguousarray(values.buffer[values.begin[:, None] + np.arange(size)])
        array = pa.array(raw.view(f"<f{size}").reshape(-1), mask=values.null)
    elif name == "decimal":
        array = _decimals(values, kind, zerofill="zerofill" in column.source_type.lower())
    elif name == "bit":
        digits = logged.size or 1
        numbers = values.big(int(values.lengths.max(initial=0))).view(np.uint64)
        array = _texts(values, lambda: [f"{number:0{digits}b}" for number in numbers.tolist()])
    elif name in ("date", "datetime", "timestamp", "time"):
        array = _moments(values, logged, kind)
    elif name in ("enum", "set"):
        array, lossy = _members(values, logged, convert)
    else:
        array, lossy = _strings(values, logged, convert)
    return array, lossy


def _texts(values: Values, make: Callable[[], list[str]]) -> pa.Array:
    return pa.array(make(), pa.string(), mask=values.null)


def _integers(values: Values, size: int, unsigned: bool) -> pa.Array:
    numbers = values.little(size)
    if unsigned:
        return pa.array(numbers.view(np.uint64) if size == 8 else numbers, mask=values.null)
    shift = 64 - 8 * size
    return pa.array((numbers << shift) >> shift, mask=values.null)


# decimals


def _decimals(values: Values, kind: pa.DataType, *, zerofill: bool = False) -> pa.Array:
    """Groups of nine digits in four bytes, those at both ends in fewer; the first bit tells the sign.

    ``zerofill``: text has all its digits, as the server's own has in such a column.
    """
    precision, scale = values.metadata & 0xFF, values.metadata >> 8
    whole, rest = divmod(precision - scale, 9)
    parts, last = divmod(scale, 9)
    negative = values.buffer[values.begin] < 0x80
    groups, place = [], 0
    for digits in [rest] * (rest > 0) + [9] * (whole + parts) + [last] * (last > 0):
        size = _DIGIT_BYTES[digits]
        number = values.big(size, place)
        if place == 0:
            number = number ^ (1 << (8 * size - 1))
        mask = (1 << (8 * size)) - 1
        groups.append((np.where(negative, number ^ mask, number), digits))
        place += size
    if precision <= 18 and pa.types.is_decimal(kind):
        unscaled = np.zeros(values.begin.size, np.int64)
        for number, digits in groups:
            unscaled = unscaled * 10**digits + number
        unscaled = np.where(negative, -unscaled, unscaled)
        wide = np.empty(2 * unscaled.size, np.int64)
        wide[0::2], wide[1::2] = unscaled, unscaled >> 63
        buffers = [pa.py_buffer(np.packbits(~values.null, bitorder="little")), pa.py_buffer(wide)]
        return pa.Array.from_buffers(pa.decimal128(precision, scale), unscaled.size, buffers).cast(kind)
    texts = []
    columns = [number.tolist() for number, _ in groups]
    widths = [digits for _, digits in groups]
    for row, minus in enumerate(negative.tolist()):
        text = "".join(f"{column[row]:0{width}d}" for column, width in zip(columns, widths, strict=True))
        before = text[: precision - scale]
        before = before if zerofill else before.lstrip("0") or "0"
        after = f".{text[precision - scale :]}" if scale else ""
        texts.append(f"{'-' if minus else ''}{before}{after}")
    array = pa.array(texts, pa.string(), mask=values.null)
    return array.cast(kind) if pa.types.is_decimal(kind) else array


def decimal_text(precision: int, scale: int, data: bytes) -> str:
    """One decimal, as JSON holds it."""
    one = Values(
        np.frombuffer(data + bytes(_PADDING), np.uint8),
        np.zeros(1, np.int64),
        np.array([len(data)]),
        np.zeros(1, bool),
        log.NEWDECIMAL,
        precision | scale << 8,
    )
    return str(_decimals(one, pa.string())[0].as_py())


# times


def _fraction(values: Values, first: int) -> Any:
    size = (values.metadata + 1) // 2
    return values.big(size, first) * (1, 10_000, 100, 1)[size]


def _moments(values: Values, logged: LoggedColumn, kind: pa.DataType) -> pa.Array:
    rows = values.begin.size
    fraction = logged.size
    zeros = np.zeros(rows, np.int64)
    if logged.data_type == "time":
        return _texts(values, lambda: _times(values, fraction))
    if logged.data_type == "timestamp":
        new = values.kind == log.TIMESTAMP2
        seconds = values.big(4) if new else values.little(4)
        micros = seconds * 1_000_000 + (_fraction(values, 4) if new else 0)
        none = ~values.null & (micros == 0)
        if not none.any():
            return pc_assume_utc(pa.array(micros, mask=values.null).cast(pa.timestamp("us")))
        stamps = [f"{s}".replace("T", " ") for s in (micros.view("datetime64[us]")).astype(str)]
        zero = "0000-00-00 00:00:00.000000"
        cut = 19 + (1 + fraction if fraction else 0)
        return _texts(values, lambda: [(zero if n else s)[:cut] for n, s in zip(none, stamps, strict=True)])
    hour = minute = second = micro = zeros
    if logged.data_type == "date":
        packed = values.little(3)
        day, month, year = packed & 31, (packed >> 5) & 15, packed >> 9
    elif values.kind == log.DATETIME:
        packed = values.little(8)
        days, clock = packed // 1_000_000, packed % 1_000_000
        year, month, day = days // 10_000, days // 100 % 100, days % 100
        hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    else:
        packed = values.big(5) - (1 << 39)
        months = packed >> 22
        year, month, day = months // 13, months % 13, packed >> 17 & 31
        hour, minute, second, micro = packed >> 12 & 31, packed >> 6 & 63, packed & 63, _fraction(values, 5)
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    date = first.astype("datetime64[D]") + (day - 1)
    there = (year > 0) & (month > 0) & (month <= 12) & (day > 0) & (date.astype("datetime64[M]") == first)
    if (there | values.null).all():
        days = date.view(np.int64)
        if pa.types.is_date(kind):
            return pa.array(days.astype(np.int32), pa.int32(), mask=values.null).cast(kind)
        micros = ((days * 24 + hour) * 60 + minute) * 60 + second
        return pa.array(micros * 1_000_000 + micro, mask=values.null).cast(kind)
    parts = (year, month, day, hour, minute, second, micro)
    if pa.types.is_date(kind):
        days = zip(*(p.tolist() for p in parts[:3]), strict=True)
        return _texts(values, lambda: [f"{y:04d}-{m:02d}-{d:02d}" for y, m, d in days])
    cut = 19 + (1 + fraction if fraction else 0)
    moments = zip(*(p.tolist() for p in parts), strict=True)
    return _texts(
        values,
        lambda: [
            f"{y:04d}-{mo:02d}-{d:02d} {h:02d}:{mi:02d}:{s:02d}.{us:06d}"[:cut] for y, mo, d, h, mi, s, us in moments
        ],
    )


def pc_assume_utc(moments: pa.Array) -> pa.Array:
    return arrow_compute().assume_timezone(moments, "UTC")


def _times(values: Values, fraction: int) -> list[str]:
    if values.kind == log.TIME:
        numbers = values.little(3)
        numbers = (numbers << 40) >> 40
        sizes = np.abs(numbers)
        parts = (numbers < 0, sizes // 10_000, sizes // 100 % 100, sizes % 100, np.zeros_like(sizes))
    else:
        size = (values.metadata + 1) // 2
        packed = values.big(3 + size) - (1 << (8 * (3 + size) - 1))
        negative, sizes = packed < 0, np.abs(packed)  # the fraction's complement goes with that of the whole
        whole, micro = sizes >> 8 * size, (sizes & (1 << 8 * size) - 1) * (1, 10_000, 100, 1)[size]
        parts = (negative, whole >> 12 & 1023, whole >> 6 & 63, whole & 63, micro)
    cut = -6 + fraction if fraction else -7
    texts = []
    for minus, hour, minute, second, micro in zip(*(p.tolist() for p in parts), strict=True):
        text = f"{'-' if minus else ''}{hour:02d}:{minute:02d}:{second:02d}.{micro:06d}"
        texts.append(text[:cut] if cut else text)
    return texts


# texts


def _members(values: Values, logged: LoggedColumn, convert: Convert) -> tuple[pa.Array, pa.Array | None]:
    names, charset = values.members, logged.charset
    if names is None:
        names, charset = tuple(name.encode() for name in members(logged.column.source_type)), None
    masks = np.where(values.null, 0, values.little(int(values.lengths.max(initial=0)))).view(np.uint64)
    numbers, places = np.unique(masks, return_inverse=True)
    most = int(numbers.max(initial=0))
    if (most > len(names)) if logged.data_type == "enum" else (most >> len(names)):
        raise log.MalformedEventError(f"{logged.data_type} {logged.column.name} has more members in the log")
    if logged.data_type == "enum":
        found = [names[number - 1] if number else b"" for number in numbers.tolist()]
    else:
        comma = _COMMAS.get(charset or "", b",")
        found = [comma.join(n for i, n in enumerate(names) if mask >> i & 1) for mask in numbers.tolist()]
    texts, lossy = pa.array(found, pa.binary()), None
    if values.members is not None:
        texts, lossy = _unicode(texts, logged, convert)
    rows = pa.array(places, mask=values.null)
    return texts.take(rows), None if lossy is None else lossy.take(rows)


def _unicode(array: pa.Array, logged: LoggedColumn, convert: Convert) -> tuple[pa.Array, pa.Array | None]:
    """Values in the column's character set as UTF-8, and the hex of those that lose something in it."""
    if logged.column.rule == "converted":
        return convert(array, logged.charset or "")
    return (convert(array, "latin1")[0] if logged.charset == "latin1" else array), None


def _strings(values: Values, logged: LoggedColumn, convert: Convert) -> tuple[pa.Array, pa.Array | None]:
    array = values.bytes()
    if values.kind in (log.BLOB_COMPRESSED, log.VARCHAR_COMPRESSED):
        array = _each(array, decompressed)
    name = logged.data_type
    if name == "json" and values.kind == log.JSON:
        return pa.array(json_texts(array.to_pylist()), pa.string()), None
    if name == "uuid":
        return _each(array, lambda v: str(uuid.UUID(bytes=v.ljust(16, b"\0"))).encode()), None
    if name in ("inet4", "inet6"):
        width = 4 if name == "inet4" else 16
        return _each(array, lambda v: inet_text(v.ljust(width, b"\0")).encode()), None
    if logged.column.rule == "bytes":
        if name == "binary":  # the log leaves zeros at the end out
            width = logged.size  # 0 of BINARY(0)
            array = _each(array, lambda v: v.ljust(width, b"\0"))
        return array, None
    texts, lossy = _unicode(array, logged, convert)
    if texts is not array and name in ("char", "nchar"):
        # bytes: half a surrogate pair of UCS-2 is no UTF-8, which the parser tells
        texts = arrow_compute().replace_substring_regex(texts, " +$", "")
    return texts, lossy


def inet_text(packed: bytes) -> str:
    """As MariaDB prints an address: the longest run of zeros is left out, were it a single one."""
    if len(packed) == 4:
        return ".".join(map(str, packed))
    words = [int.from_bytes(packed[i : i + 2], "big") for i in range(0, 16, 2)]
    length, at = max(
        ((len(run[0]), -run.start()) for run in _ZEROS.finditer("".join("0x"[w > 0] for w in words))), default=(0, 1)
    )
    at = -at
    if at == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return f"::{'ffff:' if length == 5 else ''}{'.'.join(map(str, packed[12:]))}"
    texts = [f"{word:x}" for word in words]
    return f"{':'.join(texts[:at])}::{':'.join(texts[at + length :])}" if length else ":".join(texts)


def _each(array: pa.Array, change: Callable[[bytes], bytes]) -> pa.Array:
    return pa.array([None if value is None else change(value) for value in array.to_pylist()], pa.binary())


def decompressed(value: bytes) -> bytes:
    """A value of a MariaDB column with ``COMPRESSED``."""
    if not value or value[0] == 0:
        return value[1:]
    if value[0] >> 4 != 8:
        raise log.MalformedEventError("a value is compressed by an unknown algorithm")
    start = 1 + (value[0] & 7)
    return zlib.decompress(value[start:], -15 if value[0] & 8 else 15)
