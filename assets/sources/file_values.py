"""Arrow columns of files under the type contract: what a type becomes, how the types of two files join, the values.

Rules: ``FILES`` in ``assets/types.py``. A value that does not fit its column is handed back as text.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)\Z")
_INTEGERS = {"int16": 5, "int32": 10, "int64": 19}
FIRST_DAY, PAST_DAYS = -719_162, 2_932_897  # 0001-01-01 and 10000-01-01, days since 1970
_DAY_MICROSECONDS = 86_400_000_000


def within_years(kind: pa.DataType, least: int, most: int) -> bool:
    """Whether a date's days, or a timestamp's microseconds, from ``least`` to ``most`` lie in the years 1 to 9999."""
    import pyarrow.types as types

    day = 1 if types.is_date(kind) else _DAY_MICROSECONDS
    return FIRST_DAY * day <= least <= most < PAST_DAYS * day


def contract_of(kind: pa.DataType) -> str:
    """The contract type of a file's Arrow type."""
    import pyarrow as pa
    import pyarrow.types as types

    if isinstance(kind, pa.BaseExtensionType):
        return "string" if kind.extension_name in ("arrow.uuid", "arrow.json") else contract_of(kind.storage_type)
    if types.is_dictionary(kind):
        return contract_of(kind.value_type)
    plain = {
        "bool": "bool",
        "int8": "int16",
        "uint8": "int16",
        "int16": "int16",
        "uint16": "int32",
        "int32": "int32",
        "uint32": "int64",
        "int64": "int64",
        "uint64": "decimal128(20, 0)",
        "halffloat": "float",
        "float": "float",
        "double": "double",
    }
    if str(kind) in plain:
        return plain[str(kind)]
    if types.is_decimal(kind):
        fits = kind.precision <= 38 and 0 <= kind.scale <= kind.precision
        return f"decimal128({kind.precision}, {kind.scale})" if fits else "string"
    if types.is_date(kind):
        return "date32[day]"
    if types.is_timestamp(kind):
        return "timestamp[us, tz=UTC]" if kind.tz else "timestamp[us]"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "binary"
    if str(kind) == "binary_view":
        return "binary"
    return "string"


def joined(one: str, other: str) -> str:
    """The contract type that holds the values of both exactly; text where none does."""
    if one == other:
        return one
    numbers = [_digits(one), _digits(other)]
    if numbers[0] and numbers[1]:
        (whole_a, scale_a, a), (whole_b, scale_b, b) = numbers[0], numbers[1]
        if a == b == "integer":
            return max(one, other, key=lambda name: _INTEGERS[name])
        scale = max(scale_a, scale_b)
        precision = max(whole_a, whole_b) + scale
        return f"decimal128({precision}, {scale})" if precision <= 38 else "string"
    pair = {one, other}
    if pair <= {"float", "double", "int16", "int32"}:  # a double holds every 32-bit integer
        return "float" if pair == {"float", "int16"} else "double"
    return "timestamp[us]" if pair == {"date32[day]", "timestamp[us]"} else "string"


def _digits(name: str) -> tuple[int, int, str] | None:
    if name in _INTEGERS:
        return _INTEGERS[name], 0, "integer"
    match = _DECIMAL.match(name)
    return (int(match[1]) - int(match[2]), int(match[2]), "decimal") if match else None


def contract_column(values: pa.Array, wanted: str) -> tuple[pa.Array, dict[int, str]]:
    """A file's Arrow array under a contract type that its own type joins into.

    Returns:
        The array, and by row number the exact text of each value that does not fit: those are NULL in it.
    """
    import pyarrow as pa
    import pyarrow.types as types

    pc = arrow_compute()
    if isinstance(values, pa.ExtensionArray):
        values = _plain_extension(values)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    target = arrow_type(wanted)
    kind = values.type
    if kind == target and not (types.is_timestamp(kind) or types.is_date(kind)):
        return values, {}
    if types.is_string(target):
        if types.is_large_string(kind) or str(kind) == "string_view":
            return pc.cast(values, target), {}
        if types.is_null(kind):
            return pa.nulls(len(values), target), {}
        if types.is_integer(kind) or types.is_boolean(kind):
            return pc.cast(values, target), {}
        return pa.array([None if v is None else exact_text(v) for v in _python_values(values)], target), {}
    if types.is_timestamp(target) or types.is_date(target):
        return _dated(pc, values, target)
    if types.is_null(kind):
        return pa.nulls(len(values), target), {}
    return pc.cast(values, target), {}


def _plain_extension(values: pa.ExtensionArray) -> pa.Array:
    import uuid

    import pyarrow as pa

    if values.type.extension_name == "arrow.uuid":
        raw = values.storage.to_pylist()
        return pa.array([None if v is None else str(uuid.UUID(bytes=v)) for v in raw], pa.string())
    return values.storage


def _dated(pc: Any, values: pa.Array, target: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Dates and timestamps: years outside 1 to 9999 and fractions below a microsecond do not fit."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = values.type
    if types.is_date(kind):
        days = pc.cast(pc.cast(values, pa.date32()), pa.int32())
        bad = _outside(pc, days, FIRST_DAY, PAST_DAYS)
        if bad is None:
            return pc.cast(values, target), {}
        kept = pc.cast(pc.cast(pc.if_else(bad, None, days), pa.date32()), target)
        return kept, {row: f"{days[row].as_py()} days since 1970-01-01" for row in _rows(bad)}
    numbers = pc.cast(values, pa.int64())
    if kind.unit == "ns":
        whole = pc.divide(numbers, 1000)  # towards zero
        rest = pc.subtract(numbers, pc.multiply(whole, 1000))
        bad = pc.not_equal(rest, 0)
        scale = 1
    else:
        scale = {"s": 1_000_000, "ms": 1000, "us": 1}[kind.unit]
        low, high = FIRST_DAY * _DAY_MICROSECONDS // scale, PAST_DAYS * _DAY_MICROSECONDS // scale
        bad = _outside(pc, numbers, low, high)
        whole = numbers
    if bad is None or not pc.any(bad, min_count=0).as_py():
        return pc.cast(pc.multiply(whole, scale) if scale > 1 else whole, target), {}
    kept = pc.if_else(bad, None, whole)
    unfit = {row: _moment_text(numbers[row].as_py(), kind) for row in _rows(bad)}
    return pc.cast(pc.multiply(kept, scale) if scale > 1 else kept, target), unfit


def _outside(pc: Any, numbers: pa.Array, low: int, past: int) -> pa.Array | None:
    bounds = pc.min_max(numbers)
    if bounds["min"].as_py() is None or (bounds["min"].as_py() >= low and bounds["max"].as_py() < past):
        return None
    return pc.or_(pc.less(numbers, low), pc.greater_equal(numbers, past))


def _rows(mask: pa.Array) -> list[int]:
    return [row for row, flag in enumerate(mask.to_pylist()) if flag]


def _moment_text(number: int, kind: pa.TimestampType) -> str:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    seconds, fraction = divmod(number, per_second)
    digits = f".{fraction:0{len(str(per_second)) - 1}d}" if per_second > 1 else ""
    try:
        text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat(sep=" ") + digits
    except OverflowError:
        return f"{seconds}{digits} seconds since 1970-01-01" + (" UTC" if kind.tz else "")
    return text + ("Z" if kind.tz else "")


def _python_values(values: pa.Array) -> list[Any]:
    """Python values without pandas: nanoseconds as text."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = values.type
    if types.is_timestamp(kind) or types.is_duration(kind) or types.is_time(kind):
        if types.is_timestamp(kind):
            numbers = values.cast(pa.int64()).to_pylist()
            return [None if n is None else _moment_text(n, kind) for n in numbers]
        if types.is_time(kind):
            scale = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
            numbers = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
            return [None if n is None else _time_text(n * scale) for n in numbers]
        return [None if n is None else f"{n} {kind.unit}" for n in values.cast(pa.int64()).to_pylist()]
    if types.is_struct(kind):
        children = [_python_values(values.field(i)) for i in range(kind.num_fields)]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        valid = values.is_valid().to_pylist()
        return [
            dict(zip(names, row, strict=True)) if ok else None
            for ok, row in zip(valid, zip(*children, strict=True) if children else [()] * len(values), strict=True)
        ]
    if types.is_map(kind):
        pairs = values.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        return [None if v is None else [list(pair.values()) for pair in v] for v in _python_values(pairs)]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        flat = _python_values(values.flatten())
        found, at = [], 0
        lengths = arrow_compute().list_value_length(values).to_pylist()
        for length in lengths:
            found.append(None if length is None else flat[at : at + length])
            at += length or 0
        return found
    return values.to_pylist()


def _time_text(nanoseconds: int) -> str:
    seconds, fraction = divmod(nanoseconds, 10**9)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{fraction:09d}".rstrip("0") if fraction else text


def exact_text(value: Any) -> str:
    """A value as text that says it exactly: numbers as JSON does, nested values as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    return _json(value) if isinstance(value, bool | int | float | list | dict) else _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k), ensure_ascii=False)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else json.dumps(str(value))
    return json.dumps(_scalar(value), ensure_ascii=False)
