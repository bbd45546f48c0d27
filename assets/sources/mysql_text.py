"""The server's text as columns of the contract's types, and the careful reader: PyMySQL's rows, one by one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.arrow_compute import arrow_compute
from assets.errors import UnsupportedTableError
from assets.sources.interface import BATCH_ROWS
from assets.types import arrow_type

if TYPE_CHECKING:
    import pymysql

    from assets.sync import Column

BATCH_BYTES = 8 << 20
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?$"


class RowParser:
    """Turns binary columns, as the server sent them, into batches of the contract.

    Args:
        columns: the table's columns that were selected.
        schema: their fields, and ``_headrace_unfit`` as the last one.
        key: columns whose values have to fit: a row with a NULL for its key could not be told from others.
    """

    def __init__(self, where: str, columns: Sequence[Column], schema: pa.Schema, key: Collection[str] = ()) -> None:
        self._where, self._columns, self._schema, self._key = where, columns, schema, frozenset(key)
        self.unfit_values = 0

    def batch(self, arrays: Sequence[pa.Array], lossy: Sequence[pa.Array] = ()) -> pa.RecordBatch:
        """Parse one batch.

        Args:
            arrays: one binary array a column; one that has its final type already is taken as it is.
            lossy: for each ``converted`` column in turn, the hex of values that do not convert, else NULL.

        Raises:
            UnsupportedTableError: a key's value fits no column type.
        """
        unfit: dict[int, dict[str, str]] = {}
        hexes = iter(lossy)
        typed = []
        for array, column in zip(arrays, self._columns, strict=True):
            misfits: dict[int, str] = {}
            if lossy and column.rule == "converted":
                values = next(hexes)
                misfits = {i: f"0x{v.decode()}" for i, v in enumerate(values.to_pylist()) if v is not None}
            kind = arrow_type(column.arrow_type)
            typed.append(array if array.type == kind and not misfits else _typed(array, kind, misfits))
            for row, text in misfits.items():
                unfit.setdefault(row, {})[column.name] = text
            if misfits and column.name in self._key:
                raise UnsupportedTableError(
                    f"key column {column.name} holds a value that does not fit its type ({column.source_type})",
                    where=self._where,
                    remedy="Correct it at the source, or name other columns with --key.",
                )
        self.unfit_values += sum(len(values) for values in unfit.values())
        rows = len(typed[0]) if typed else 0
        return pa.RecordBatch.from_arrays([*typed, _unfit_array(unfit, rows)], schema=self._schema)


def _unfit_array(unfit: dict[int, dict[str, str]], rows: int) -> pa.Array:
    if not unfit:
        return pa.nulls(rows, pa.string())
    texts: list[str | None] = [None] * rows
    for row, values in unfit.items():
        texts[row] = json.dumps(values, ensure_ascii=False, sort_keys=True)
    return pa.array(texts, pa.string())


def _typed(values: pa.Array, kind: pa.DataType, misfits: dict[int, str]) -> pa.Array:
    """Cast binary values; what fits no value of the type goes into ``misfits`` and is NULL in the result."""
    pc = arrow_compute()
    if misfits:
        values = _without(values, misfits)
    if pa.types.is_binary(kind):
        return values
    try:
        texts = values.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8, in a column that says it is
        found = _not_convertible(values.to_pylist(), _utf8)
        misfits |= {i: f"0x{v.hex().upper()}" for i, v in found.items()}
        texts = _without(values, found).cast(pa.string())
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return texts if pa.types.is_string(kind) else texts.cast(kind)
    fits = pc.match_substring_regex(texts, _DATE if pa.types.is_date(kind) else _MOMENT)
    fits = pc.and_(fits, pc.invert(pc.starts_with(texts, "0000")))
    wrong = {i: texts[i].as_py() for i in pc.indices_nonzero(pc.invert(fits)).to_pylist()}
    texts = _without(texts, wrong) if wrong else texts
    plain = kind if pa.types.is_date(kind) else pa.timestamp("us")
    try:
        moments = texts.cast(plain)
    except pa.ArrowInvalid:  # such as the 31st of February
        parse = date.fromisoformat if pa.types.is_date(kind) else datetime.fromisoformat
        more = _not_convertible(texts.to_pylist(), parse)
        wrong |= more
        moments = _without(texts, more).cast(plain)
    misfits |= wrong
    return pc.assume_timezone(moments, "UTC") if pa.types.is_timestamp(kind) and kind.tz else moments


def _utf8(value: bytes) -> str:
    return value.decode("utf-8")


def _not_convertible(values: Sequence[Any], convert: Any) -> dict[int, Any]:
    found = {}
    for index, value in enumerate(values):
        if value is None:
            continue
        try:
            convert(value)
        except ValueError:
            found[index] = value
    return found


def _without(values: pa.Array, rows: Collection[int]) -> pa.Array:
    """The values with NULL in some rows."""
    pc = arrow_compute()
    keep = bytearray(b"\1" * len(values))
    for row in rows:
        keep[row] = 0
    mask = pc.not_equal(pa.Array.from_buffers(pa.uint8(), len(values), [None, pa.py_buffer(keep)]), 0)
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def text_batches(
    opened: pymysql.Connection[Any], query: str, columns: Sequence[Column], parser: RowParser
) -> Iterator[pa.RecordBatch]:
    """Yield the query's rows: first ``columns``, then a hex column for each ``converted`` one of them."""
    from pymysql.cursors import SSCursor

    decoders, unicode = opened.decoders, opened.use_unicode
    opened.decoders, opened.use_unicode = {}, False
    try:
        with SSCursor(opened) as cursor:
            cursor.execute(query)
            held: list[Any] = []
            size = 0
            while (row := cursor.fetchone()) is not None:
                held.append(row)
                size += sum(len(value) for value in row if value is not None)
                if size >= BATCH_BYTES or len(held) >= BATCH_ROWS:
                    yield _parsed(held, len(columns), parser)
                    held, size = [], 0
            if held:
                yield _parsed(held, len(columns), parser)
    finally:
        opened.decoders, opened.use_unicode = decoders, unicode


def _parsed(rows: Sequence[Sequence[bytes | None]], width: int, parser: RowParser) -> pa.RecordBatch:
    arrays = [pa.array(values, pa.binary()) for values in zip(*rows, strict=True)]
    return parser.batch(arrays[:width], arrays[width:])
