"""Thrift's compact protocol as Parquet's footers and page headers use it: structs as trees of field numbers.

A struct is a dict of field number to (type, value). Values are int, bool, float, bytes and struct; a list's value is a
pair, the type of its elements and them. What is decoded is encoded again as it was, fields unknown here included.
"""

from __future__ import annotations

import struct
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
MOST_LEVELS = 32
"""Structs within structs; Parquet needs six."""

Struct = dict[int, tuple[int, Any]]


def decode(data: bytes | memoryview, start: int = 0) -> tuple[Struct, int]:
    """The struct that begins at ``start``, and where it ends.

    Raises:
        ValueError: there is none.
    """
    try:
        return _struct(data, start, 0)
    except (IndexError, struct.error):
        raise ValueError("the data ends within a struct") from None


def encode(fields: Struct, last: int = 0) -> bytes:
    """``last``: the number of the field that the struct has before these."""
    out = bytearray()
    _put_struct(out, fields, last)
    return bytes(out)


def encode_list_head(kind: int, count: int) -> bytes:
    """What comes before a list's elements, for a list whose elements were encoded one by one."""
    out = bytearray()
    _put_list_head(out, kind, count)
    return bytes(out)


def varint(value: int) -> bytes:
    out = bytearray()
    _put_varint(out, value)
    return bytes(out)


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _integer(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _struct(data: bytes | memoryview, at: int, level: int) -> tuple[Struct, int]:
    if level > MOST_LEVELS:
        raise ValueError("structs are nested too deeply")
    fields: Struct = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        kind, step = head & 0x0F, head >> 4
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        if kind in (TRUE, FALSE):
            fields[number] = (kind, kind == TRUE)
        else:
            value, at = _value(data, at, kind, level)
            fields[number] = (kind, value)


def _value(data: bytes | memoryview, at: int, kind: int, level: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _integer(data, at)
    if kind == BINARY:
        length, at = _varint(data, at)
        past = at + length
        if past > len(data):
            raise ValueError("the data ends within a text")
        return bytes(data[at:past]), past
    if kind == STRUCT:
        return _struct(data, at, level + 1)
    if kind in (LIST, SET):
        head = data[at]
        at += 1
        count, inner = head >> 4, head & 0x0F
        if count == 15:
            count, at = _varint(data, at)
        items = []
        for _ in range(count):
            item, at = _value(data, at, inner, level)
            items.append(item)
        return (inner, items), at
    if kind == BYTE:
        return data[at], at + 1
    if kind in (TRUE, FALSE):  # in a list each takes a byte
        return data[at] == TRUE, at + 1
    if kind == DOUBLE:
        return struct.unpack_from("<d", data, at)[0], at + 8
    raise ValueError(f"type {kind} is not used by Parquet")


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_integer(out: bytearray, value: int) -> None:
    _put_varint(out, (value << 1) ^ (value >> 63))


def _put_struct(out: bytearray, fields: Struct, last: int = 0) -> None:
    for number in sorted(fields):
        kind, value = fields[number]
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        if 0 < number - last < 16:
            out.append(number - last << 4 | kind)
        else:
            out.append(kind)
            _put_integer(out, number)
        last = number
        if kind not in (TRUE, FALSE):
            _put_value(out, kind, value)
    out.append(0)


def _put_list_head(out: bytearray, kind: int, count: int) -> None:
    if count < 15:
        out.append(count << 4 | kind)
    else:
        out.append(0xF0 | kind)
        _put_varint(out, count)


def _put_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _put_integer(out, value)
    elif kind == BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _put_struct(out, value)
    elif kind in (LIST, SET):
        inner, items = value
        _put_list_head(out, inner, len(items))
        for item in items:
            _put_value(out, inner, item)
    elif kind == BYTE:
        out.append(value)
    elif kind in (TRUE, FALSE):
        out.append(TRUE if value else FALSE)
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    else:
        raise ValueError(f"type {kind} is not used by Parquet")
