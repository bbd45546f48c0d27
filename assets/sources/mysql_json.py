"""MySQL's binary JSON, as the binlog has it, printed as the server prints it.

Format: MySQL's source, ``sql-common/json_binary.h``. (MariaDB's JSON is text.)
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from decimal import Decimal

_OBJECTS, _ARRAYS = (0, 1), (2, 3)
_LITERAL, _INT16, _UINT16, _INT32, _UINT32, _INT64, _UINT64, _DOUBLE, _STRING, _OPAQUE = (*range(4, 13), 15)
_LITERALS = ("null", "true", "false")
_NUMBERS = {_INT16: "<h", _UINT16: "<H", _INT32: "<i", _UINT32: "<I", _INT64: "<q", _UINT64: "<Q"}
_PLAIN_EXPONENTS = range(-14, 16)
_DECIMAL, _TIME, _DATES = 246, 11, {10: 10, 12: 26, 7: 26}


def json_texts(values: Sequence[bytes | None]) -> list[str | None]:
    return [None if value is None else (_value(value[0], value, 1) if value else "null") for value in values]


def _value(kind: int, data: bytes, place: int) -> str:
    if kind in _OBJECTS or kind in _ARRAYS:
        return _container(kind, data, place)
    if kind == _LITERAL:
        return _LITERALS[data[place]]
    if kind in _NUMBERS:
        return str(struct.unpack_from(_NUMBERS[kind], data, place)[0])
    if kind == _DOUBLE:
        return double_text(struct.unpack_from("<d", data, place)[0])
    if kind == _STRING:
        size, place = _length(data, place)
        return json.dumps(data[place : place + size].decode("utf-8", "surrogateescape"), ensure_ascii=False)
    if kind == _OPAQUE:
        size, start = _length(data, place + 1)
        return _opaque(data[place], data[start : start + size])
    raise ValueError(f"JSON of the unknown type {kind}")


def _container(kind: int, data: bytes, start: int) -> str:
    large = kind in (1, 3)
    width, number = (4, "<I") if large else (2, "<H")
    (count,) = struct.unpack_from(number, data, start)
    place = start + 2 * width
    keys = []
    if kind in _OBJECTS:
        for _ in range(count):
            (offset,) = struct.unpack_from(number, data, place)
            (size,) = struct.unpack_from("<H", data, place + width)
            keys.append(data[start + offset : start + offset + size].decode())
            place += width + 2
    inlined = (_LITERAL, _INT16, _UINT16, *((_INT32, _UINT32) if large else ()))
    texts = []
    for _ in range(count):
        inner = data[place]
        if inner in inlined:
            texts.append(_value(inner, data, place + 1))
        else:
            (offset,) = struct.unpack_from(number, data, place + 1)
            texts.append(_value(inner, data, start + offset))
        place += 1 + width
    if kind in _ARRAYS:
        return f"[{', '.join(texts)}]"
    named = (f"{json.dumps(key, ensure_ascii=False)}: {text}" for key, text in zip(keys, texts, strict=True))
    return f"{{{', '.join(named)}}}"


def _length(data: bytes, place: int) -> tuple[int, int]:
    """A length of seven bits a byte, and the place after it."""
    size = shift = 0
    while True:
        byte = data[place]
        size |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return size, place


def double_text(value: float) -> str:
    """The shortest digits; with an exponent from 1e15 and below 1e-15 on (``my_gcvt``)."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text, point = "".join(map(str, digits)), len(digits) + exponent
    minus = "-" if sign else ""
    if text == "0":
        return f"{minus}0.0"
    if point not in _PLAIN_EXPONENTS:
        return f"{minus}{text[0]}{'.' + text[1:] if text[1:] else ''}e{point - 1}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    return f"{minus}{text[:point].ljust(point, '0')}.{text[point:] or '0'}"


def _opaque(kind: int, data: bytes) -> str:
    if kind == _DECIMAL:
        from assets.sources.mysql_binlog_rows import decimal_text

        return decimal_text(data[0], data[1], data[2:])
    if kind in _DATES or kind == _TIME:
        (packed,) = struct.unpack("<q", data)
        minus, packed = packed < 0, abs(packed)
        whole, micro = packed >> 24, packed & 0xFFFFFF
        minute, second = whole >> 6 & 63, whole & 63
        if kind == _TIME:
            return f'"{"-" if minus else ""}{whole >> 12 & 1023:02d}:{minute:02d}:{second:02d}.{micro:06d}"'
        months = whole >> 22
        day = f"{months // 13:04d}-{months % 13:02d}-{whole >> 17 & 31:02d}"
        return f'"{f"{day} {whole >> 12 & 31:02d}:{minute:02d}:{second:02d}.{micro:06d}"[: _DATES[kind]]}"'
    return f'"base64:type{kind}:{base64.b64encode(data).decode()}"'
