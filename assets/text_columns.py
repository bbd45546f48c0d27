"""Types of columns that come as text (CSV, JSON, REST): found over all values, and applied so that no value changes.

A type is chosen only where every value of the column keeps its meaning: a leading zero, a plus sign, an integer of any
size, an offset, a seventh fractional digit keep a column text. Rules: ``TEXT_RULES`` in ``assets/types.py``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute

if TYPE_CHECKING:
    import pyarrow as pa

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = _YEAR + r"-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_TIME = r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
PATTERNS = {
    "int": r"^(?:0|-?[1-9][0-9]{0,17})$",
    "digits": r"^-?[1-9][0-9]{18,37}$",
    "decimal": r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$",
    "bool": r"^(?:true|false)$",
    "date": f"^{_DATE}$",
    "timestamp": f"^{_DATE}{_TIME}$",
    "instant": f"^{_DATE}{_TIME}(?:Z|[+]00:?00)$",
    "float": r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?[0-9]{1,4}$",
}
"""RE2 and Python spelling of each kind. Everything else is text."""
_NUMBERS = frozenset({"int", "digits", "decimal", "float"})
# What a declared type takes besides: the user says what the text means.
_DECLARED = {
    "int": re.compile(r"[+-]?[0-9]{1,40}\Z"),
    "number": re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\Z"),
    "bool": {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False},
}
_DOUBLE_DIGITS = 15  # every decimal number of so few digits prints back from a double
MAX_DIGITS = 38


def double_is_exact(text: str) -> bool:
    """Whether the number prints back from a double as the same number."""
    try:
        return Decimal(repr(float(text))) == Decimal(text)
    except (ArithmeticError, ValueError):
        return False


@dataclass
class ColumnFacts:
    """What the values of one column have shown so far; merges with the facts of other files."""

    kinds: set[str] = field(default_factory=set)
    whole_digits: int = 0
    scale: int = 0
    one_scale: bool = True
    double_exact: bool = True

    def observe(self, values: pa.Array) -> None:
        """Take a text array's values; NULLs say nothing."""
        pc = arrow_compute()
        if "text" in self.kinds:
            return
        left = values.drop_null()
        if len(left) > 1000:
            left = pc.unique(left)
        # the kinds already seen first: mostly one of them takes all
        for kind in sorted(PATTERNS, key=lambda name: name not in self.kinds):
            if not len(left):
                return
            mask = pc.match_substring_regex(left, PATTERNS[kind])
            if not pc.any(mask).as_py():
                continue
            found = left.filter(mask)
            left = left.filter(pc.invert(mask))
            if kind in ("date", "timestamp", "instant") and not _days_exist(pc, found):
                self.kinds.add("text")
                return
            if kind == "digits" and _fit_int64(pc, found):
                self.whole_digits = max(self.whole_digits, 19)
                self.kinds.add("int")
                continue
            self.kinds.add(kind)
            if kind in _NUMBERS:
                self._measure(pc, kind, found)
        if len(left):
            self.kinds.add("text")

    def _measure(self, pc: Any, kind: str, found: pa.Array) -> None:
        if kind == "float":
            self.double_exact = self.double_exact and all(double_is_exact(text) for text in found.to_pylist())
            return
        plain = pc.replace_substring(found, "-", "")
        lengths = pc.utf8_length(plain)
        digits = lengths
        if kind == "decimal":
            if pc.any(pc.match_substring_regex(found, r"^-0\.0+$")).as_py():
                self.kinds.add("text")  # a decimal has no negative zero
                return
            point = pc.find_substring(plain, ".")
            scales = pc.subtract(pc.subtract(lengths, point), 1)
            low, high = pc.min(scales).as_py(), pc.max(scales).as_py()
            if low != high or self.scale not in (0, high):
                self.one_scale = False
            self.scale = max(self.scale, high)
            digits = pc.subtract(lengths, 1)
            lengths = point
        self.whole_digits = max(self.whole_digits, pc.max(lengths).as_py())
        if self.double_exact and pc.max(digits).as_py() > _DOUBLE_DIGITS:
            long = found.filter(pc.greater(digits, _DOUBLE_DIGITS))
            self.double_exact = all(double_is_exact(text) for text in long.to_pylist())

    def merge(self, other: ColumnFacts) -> None:
        if self.scale and other.scale and self.scale != other.scale:
            self.one_scale = False
        self.kinds |= other.kinds
        self.whole_digits = max(self.whole_digits, other.whole_digits)
        self.scale = max(self.scale, other.scale)
        self.one_scale = self.one_scale and other.one_scale
        self.double_exact = self.double_exact and other.double_exact

    def arrow_type(self) -> str:
        """The contract type that holds every value exactly."""
        kinds = self.kinds
        if kinds == {"int"}:
            return "int64"
        if kinds and kinds <= _NUMBERS:
            fits = self.whole_digits + self.scale <= MAX_DIGITS
            if "float" not in kinds and self.one_scale and fits:
                return f"decimal128({MAX_DIGITS}, {self.scale})"
            if self.double_exact:
                return "double"
            return f"decimal128({MAX_DIGITS}, {self.scale})" if "float" not in kinds and fits else "string"
        single = {
            "bool": "bool",
            "date": "date32[day]",
            "timestamp": "timestamp[us]",
            "instant": "timestamp[us, tz=UTC]",
        }
        return single.get(next(iter(kinds)), "string") if len(kinds) == 1 else "string"

    def dump(self) -> dict[str, Any]:
        return {
            "kinds": sorted(self.kinds),
            "whole": self.whole_digits,
            "scale": self.scale,
            "one": self.one_scale,
            "exact": self.double_exact,
        }

    @classmethod
    def load(cls, stored: dict[str, Any]) -> ColumnFacts:
        return cls(set(stored["kinds"]), stored["whole"], stored["scale"], stored["one"], stored["exact"])


def _fit_int64(pc: Any, values: pa.Array) -> bool:
    import pyarrow as pa

    try:
        pc.cast(values, pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _days_exist(pc: Any, values: pa.Array) -> bool:
    import pyarrow as pa

    try:
        pc.cast(pc.utf8_slice_codeunits(values, 0, 10), pa.date32())
    except pa.ArrowInvalid:
        return False
    return True


_MEANS = {
    "bool": ("bool",),
    "int64": ("int", "digits"),
    "double": ("int", "digits", "decimal", "float"),
    "date32[day]": ("date",),
    "timestamp[us]": ("timestamp",),
    "timestamp[us, tz=UTC]": ("instant",),
}


def typed_column(values: pa.Array, arrow_type: pa.DataType, declared: bool = False) -> tuple[pa.Array, dict[int, str]]:
    """A text array under a contract type.

    Args:
        declared: the user named the type, so other spellings of its values count too (``007``, ``+1``, ``yes``).

    Returns:
        The typed array, and by row number the exact text of each value that does not fit: those are NULL in it.
    """
    import pyarrow as pa

    pc = arrow_compute()
    if arrow_type == pa.string():
        return values, {}
    kinds = _MEANS.get(str(arrow_type), ("int", "digits", "decimal") if pa.types.is_decimal(arrow_type) else ())
    pattern = "|".join(f"(?:{PATTERNS[kind]})" for kind in kinds)
    if pattern and pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py():
        try:
            return pc.cast(values, arrow_type), {}
        except pa.ArrowInvalid:
            pass  # a day that is not there, a number too large: value by value
    items: list[Any] = []
    unfit: dict[int, str] = {}
    for row, text in enumerate(values.to_pylist()):
        value = None if text is None else parsed(text, arrow_type, declared)
        if value is None and text is not None:
            unfit[row] = text
        items.append(value)
    return pa.array(items, arrow_type), unfit


def parsed(text: str, arrow_type: pa.DataType, declared: bool = False) -> Any:
    """One value in plain Python, or None where the text is no value of the type. The slow twin of `typed_column`."""
    import pyarrow.types as types

    try:
        if types.is_string(arrow_type):
            return text
        if types.is_boolean(arrow_type):
            return _DECLARED["bool"].get(text.strip().lower()) if declared else {"true": True, "false": False}.get(text)
        if types.is_integer(arrow_type):
            fits = _DECLARED["int"].match(text) if declared else _matches(text, ("int", "digits"))
            value = int(text) if fits else None
            bits = arrow_type.bit_width - 1
            return value if value is not None and -(1 << bits) <= value < 1 << bits else None
        if types.is_decimal(arrow_type):
            if not (_DECLARED["number"].match(text) if declared else _matches(text, ("int", "digits", "decimal"))):
                return None
            return _decimal(text, arrow_type.precision, arrow_type.scale)
        if types.is_floating(arrow_type):
            if not (_DECLARED["number"].match(text) if declared else _matches(text, tuple(_NUMBERS))):
                return None
            return float(text) if declared or double_is_exact(text) else None
        if types.is_date(arrow_type):
            return date.fromisoformat(text) if _matches(text, ("date",)) else None
        if types.is_timestamp(arrow_type):
            return _moment(text, arrow_type.tz is not None, declared)
        if types.is_binary(arrow_type):
            return text.encode()
    except (ValueError, InvalidOperation, OverflowError):
        return None
    return None


def _matches(text: str, kinds: tuple[str, ...]) -> bool:
    return any(re.fullmatch(PATTERNS[kind][1:-1], text) for kind in kinds)


def _decimal(text: str, precision: int, scale: int) -> Decimal | None:
    value = Decimal(text)
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return None
    kept = "".join(map(str, digits)).rstrip("0") or "0"
    dropped = len(digits) - len(kept) if kept != "0" else 0
    if kept != "0" and exponent + dropped < -scale:
        return None
    whole = len(digits) + exponent
    return value.quantize(Decimal(1).scaleb(-scale)) if whole <= precision - scale else None


def _moment(text: str, zoned: bool, declared: bool) -> datetime | None:
    if not zoned:
        if declared and _matches(text, ("date",)):
            return datetime.fromisoformat(text)
        return datetime.fromisoformat(text) if _matches(text, ("timestamp",)) else None
    if _matches(text, ("instant",)):
        return datetime.fromisoformat(text)
    if declared:
        moment = datetime.fromisoformat(text)
        fraction = re.search(r"\.([0-9]+)", text)
        if moment.tzinfo is not None and (fraction is None or len(fraction[1]) <= 6):
            return moment.astimezone(UTC)
    return None


class Written(str):
    """A number, or another value that its form tells, as it was written; a plain ``str`` is a string."""

    __slots__ = ()


def json_value(text: str | bytes) -> Any:
    """Parse JSON and keep every number's own digits.

    Raises:
        ValueError: it is no JSON; NaN and Infinity are none.
    """
    return json.loads(text, parse_int=Written, parse_float=Written, parse_constant=no_constant)


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def json_text(value: Any) -> str:
    """Compact JSON of a value of `json_value`, its numbers as they were written."""
    if isinstance(value, Written):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def cell_text(value: Any) -> str | None:
    """A JSON value as the text of a column: a string as it is, everything else as JSON."""
    return None if value is None else str(value) if isinstance(value, str) else json_text(value)


def observe_json(facts: ColumnFacts, values: list[Any]) -> None:
    """Take the JSON values of one column: only numbers and booleans are typed, a string stays one."""
    import pyarrow as pa

    numbers: list[str] = []
    for value in values:
        if isinstance(value, bool):
            facts.kinds.add("bool")
        elif isinstance(value, Written):
            numbers.append(str(value))
        elif value is not None:
            facts.kinds.add("text")
    if numbers:
        facts.observe(pa.array(numbers, pa.string()))


def json_column(values: list[Any], arrow_type: pa.DataType, declared: bool = False) -> tuple[pa.Array, dict[int, str]]:
    """JSON values under a contract type; the rest as `typed_column`. A string is no number unless that is declared."""
    import pyarrow as pa

    texts = [cell_text(value) for value in values]
    if arrow_type == pa.string() or declared:
        return typed_column(pa.array(texts, pa.string()), arrow_type, declared)
    kind = bool if arrow_type == pa.bool_() else Written
    pairs = enumerate(zip(values, texts, strict=True))
    misfits = {row: text for row, (value, text) in pairs if text is not None and type(value) is not kind}
    for row in misfits:
        texts[row] = None
    array, unfit = typed_column(pa.array(texts, pa.string()), arrow_type)
    return array, misfits | unfit
