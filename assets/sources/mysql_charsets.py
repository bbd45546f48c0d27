"""Text of the binlog, which is in each column's own character set, as the UTF-8 that the server would send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.sources.mysql_connection import rows
from assets.sources.mysql_lossy_text import loses_text

if TYPE_CHECKING:
    import pymysql

_VALUES = 200
_BYTES = 1 << 18
_UNTOLD = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # MySQL's latin1 is cp1252, and these are control characters


def _latin1() -> list[str]:
    return [chr(i) if i in _UNTOLD else bytes([i]).decode("cp1252") for i in range(256)]


class Charsets:
    """Converts by asking the server itself, so that a full read and the log agree."""

    def __init__(self, opened: pymysql.Connection[Any]) -> None:
        self._opened = opened
        self._table = {i: text for i, text in enumerate(_latin1())}

    def __call__(self, values: pa.Array, charset: str) -> tuple[pa.Array, pa.Array]:
        """Binary values as UTF-8, and the hex of those that lose something in it, else NULL."""
        found = values.to_pylist()
        if charset == "latin1":
            table = self._table
            texts = [v if v is None or v.isascii() else v.decode("latin1").translate(table).encode() for v in found]
            return pa.array(texts, pa.binary()), pa.nulls(len(found), pa.binary())
        known: dict[bytes, tuple[bytes, bytes | None]] = {}
        distinct = [v for v in dict.fromkeys(found) if v is not None]
        start = 0
        while start < len(distinct):
            stop, size = start, 0
            while stop < len(distinct) and stop - start < _VALUES and (size < _BYTES or stop == start):
                size += len(distinct[stop])
                stop += 1
            known.update(self._ask(distinct[start:stop], charset))
            start = stop
        texts = [None if v is None else known[v][0] for v in found]
        lossy = [None if v is None else known[v][1] for v in found]
        return pa.array(texts, pa.binary()), pa.array(lossy, pa.binary())

    def _ask(self, values: list[bytes], charset: str) -> dict[bytes, tuple[bytes, bytes | None]]:
        """As the full read selects a ``converted`` column."""
        items = []
        for value in values:
            literal = f"_{charset} x'{value.hex()}'"
            items.append(f"hex(convert({literal} USING utf8mb4))")
            items.append(f"CASE WHEN {loses_text(literal, charset)} THEN '{value.hex().upper()}' END")
        (answer,) = rows(self._opened, f"SELECT {', '.join(items)}")
        found = {}
        for index, value in enumerate(values):
            text, lossy = answer[2 * index], answer[2 * index + 1]
            found[value] = (bytes.fromhex(text), None if lossy is None else lossy.encode())
        return found
