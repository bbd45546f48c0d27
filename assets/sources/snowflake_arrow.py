"""Snowflake's Arrow result batches as batches of the contract: the fast form, and the careful one that reads text.

Times always travel as digits: the driver's own time columns are 64-bit nanoseconds, which end in the year 2262.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.arrow_compute import arrow_compute
from assets.errors import UnsupportedTableError
from assets.sources.interface import BATCH_ROWS
from assets.sources.snowflake_names import exact, quoted
from assets.sources.snowflake_snapshot import MOMENT
from assets.types import arrow_type

if TYPE_CHECKING:
    from snowflake.connector.cursor import SnowflakeCursor

    from assets.sync import Column

_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6}(0{1,3})?)?$"


def selected(column: Column, *, careful: bool = False) -> str:
    """A column as it is selected, by its rule. ``careful``: numbers and dates as text too."""
    name, kind = quoted(exact(column.name)), column.source_type
    if column.rule == "moment":
        return f"TO_VARCHAR({name}, '{MOMENT}')"
    if column.rule == "instant":
        return f"TO_VARCHAR(CONVERT_TIMEZONE('UTC', {name}), '{MOMENT}')"
    if column.rule == "json":
        cast = {"VARIANT": name, "VECTOR": f"{name}::ARRAY"}.get(kind, f"{name}::VARIANT")
        return f"TO_JSON({cast})"
    if column.rule == "ewkb":
        return f"ST_ASEWKB({name})"
    if column.rule == "text" and kind.startswith("TIME("):
        digits = int(kind[5:-1])
        return f"TO_VARCHAR({name}, 'HH24:MI:SS{f'.FF{digits}' if digits else ''}')"
    if column.rule == "text":
        return f"{name}::VARCHAR"
    if kind == "DATE":
        return f"TO_VARCHAR({name}, 'YYYY-MM-DD')"
    if careful and kind.startswith("NUMBER"):
        return f"{name}::VARCHAR"
    return name


class ArrowParser:
    """Turns result batches, whose columns are in the order of ``columns``, into batches of the contract.

    Args:
        schema: the columns' fields, and ``_headrace_unfit`` as the last one.
        key: columns whose values have to fit: a row with a NULL for its key could not be told from others.
    """

    def __init__(self, where: str, columns: Sequence[Column], schema: pa.Schema, key: Collection[str] = ()) -> None:
        self._where, self._columns, self._schema, self._key = where, columns, schema, frozenset(key)
        self.unfit_values = 0

    def batch(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """Parse one batch.

        Raises:
            UnsupportedTableError: a key's value fits no column type.
        """
        unfit: dict[int, dict[str, str]] = {}
        typed = []
        for array, column in zip(arrays, self._columns, strict=True):
            misfits: dict[int, str] = {}
            typed.append(_typed(array, arrow_type(column.arrow_type), misfits))
            for row, text in misfits.items():
                unfit.setdefault(row, {})[column.name] = text
            if misfits and column.name in self._key:
                raise UnsupportedTableError(
                    f"key column {column.name} holds a value that does not fit its type ({column.source_type})",
                    where=self._where,
                    remedy="Correct it at the source, or name other columns with --key.",
                )
        self.unfit_values += sum(len(values) for values in unfit.values())
        count = len(typed[0]) if typed else 0
        texts: list[str | None] = [None] * count if unfit else []
        for row, values in unfit.items():
            texts[row] = json.dumps(values, ensure_ascii=False, sort_keys=True)
        misfit_column = pa.array(texts, pa.string()) if unfit else pa.nulls(count, pa.string())
        return pa.RecordBatch.from_arrays([*typed, misfit_column], schema=self._schema)


def _typed(values: pa.Array, kind: pa.DataType, misfits: dict[int, str]) -> pa.Array:
    """Cast values; what fits no value of the type goes into ``misfits`` and is NULL in the result."""
    if values.type == kind:
        return values
    pc = arrow_compute()
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if not is_text or not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return _number(values, kind) if pa.types.is_decimal(kind) else values.cast(kind)
    texts = values.cast(pa.string())
    fits = pc.match_substring_regex(texts, _DATE if pa.types.is_date(kind) else _MOMENT)
    fits = pc.and_(fits, pc.invert(pc.starts_with(texts, "0000")))
    wrong = {i: texts[i].as_py() for i in pc.indices_nonzero(pc.invert(fits)).to_pylist()}
    texts = _without(texts, wrong) if wrong else texts
    plain = kind if pa.types.is_date(kind) else pa.timestamp("us")
    if not pa.types.is_date(kind):
        texts = pc.utf8_slice_codeunits(texts, 0, 26)
    try:
        moments = texts.cast(plain)
    except pa.ArrowInvalid:  # such as the 31st of February
        parse = date.fromisoformat if pa.types.is_date(kind) else datetime.fromisoformat
        more = {i: t for i, t in enumerate(texts.to_pylist()) if t is not None and not _parses(parse, t)}
        wrong |= more
        moments = _without(texts, more).cast(plain)
    misfits |= wrong
    return pc.assume_timezone(moments, "UTC") if pa.types.is_timestamp(kind) and kind.tz else moments


def _number(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Integers of any width, decimals and digits as a decimal of the column's own precision."""
    if pa.types.is_integer(values.type):
        values = values.cast(pa.decimal128(19, 0))
    return values.cast(kind)


def _parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _without(values: pa.Array, places: Collection[int]) -> pa.Array:
    """The values with NULL in some places."""
    pc = arrow_compute()
    keep = bytearray(b"\1" * len(values))
    for place in places:
        keep[place] = 0
    mask = pc.not_equal(pa.Array.from_buffers(pa.uint8(), len(values), [None, pa.py_buffer(keep)]), 0)
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def result_batches(cursor: SnowflakeCursor) -> Iterator[list[pa.Array]]:
    """The columns of a result, a bounded number of rows at a time. A few of its chunks are fetched ahead."""
    return columns_of(cursor.fetch_arrow_batches())


def columns_of(tables: Iterable[pa.Table]) -> Iterator[list[pa.Array]]:
    """The columns of a result's pieces, a bounded number of rows at a time."""
    for table in tables:
        for batch in table.to_batches(BATCH_ROWS):
            if batch.num_rows:
                yield batch.columns
