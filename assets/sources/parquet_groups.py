"""Which row groups of a Parquet file may hold a row that a row filter lets pass, told by their columns' statistics.

The filter itself is applied to what was read. A row group is left out only where no value between its columns' bounds,
and no NULL, could make the filter true; where a bound is missing, or would compare otherwise, everything is possible.
Floats are not judged: bounds leave NaN out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

from assets.row_filter import RowFilter

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

    from assets.sync import Column

Outcomes = frozenset[bool | None]
"""What a condition may be for the rows of a group: true, false, unknown (None)."""
ANYTHING: Outcomes = frozenset([True, False, None])
_PER_SECOND = {"milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
_DAY = 86_400_000_000


def group_runs(file: Any, row_filter: RowFilter, columns: Sequence[Column]) -> list[tuple[int, list[int]]]:
    """The row groups to read of a ``pyarrow.parquet.ParquetFile``: rows that are left out, then groups to read.

    Args:
        columns: the data columns under which the file is read; those of the filter are among them.
    """
    judged = _judged(file, row_filter, columns)
    runs: list[tuple[int, list[int]]] = []
    skipped, open_run = 0, False
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if not all(True in _outcomes(part, judged, group) for part in row_filter.parts()):
            skipped, open_run = skipped + group.num_rows, False
        elif open_run:
            runs[-1][1].append(number)
        else:
            runs.append((skipped, [number]))
            skipped, open_run = 0, True
    return runs


class _Bounds:
    """One column of a file: where its statistics are, and how a bound and a literal are put on one scale."""

    def __init__(self, place: int | None, kind: str, unit: str | None = None) -> None:
        self.place, self.kind, self.unit = place, kind, unit

    @property
    def moment(self) -> bool:
        return self.kind in ("date", "timestamp")

    def literal(self, node: exp.Expr) -> Any:
        """Raises ValueError: it is not on the column's scale."""
        import pyarrow as pa

        value = RowFilter.value_of(node)
        if self.moment and isinstance(value, str):
            try:
                if self.kind == "date":
                    return pa.scalar(value).cast(pa.date32()).value * _DAY
                return pa.scalar(value).cast(pa.timestamp("us")).value
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise ValueError from None
        if self.kind == "text" and not isinstance(value, bool):
            return str(value)
        if self.kind == ("bool" if isinstance(value, bool) else "number") and not isinstance(value, str):
            return value
        raise ValueError

    def low_high(self, statistics: Any) -> tuple[Any, Any]:
        """Raises ValueError: there are none that can be compared."""
        if not statistics.has_min_max:
            raise ValueError
        if self.moment:
            ends = [statistics.min_raw, statistics.max_raw]
            if not all(type(end) is int for end in ends):
                raise ValueError
            if self.unit is None:
                return ends[0] * _DAY, ends[1] * _DAY
            second = _PER_SECOND[self.unit]
            return ends[0] * 1_000_000 // second, -(-ends[1] * 1_000_000 // second)
        wanted = {"text": str, "bool": bool, "number": (int, Decimal)}[self.kind]
        low, high = statistics.min, statistics.max
        if not isinstance(low, wanted) or not isinstance(high, wanted) or low > high:
            raise ValueError
        return low, high


def _judged(file: Any, row_filter: RowFilter, columns: Sequence[Column]) -> dict[str, _Bounds]:
    """The filter's columns whose bounds compare as the filter does. One that the file lacks is NULL in each row."""
    kinds = {c.name: c.arrow_type for c in columns}
    schema = file.schema_arrow
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    judged: dict[str, _Bounds] = {}
    for name in row_filter.columns:
        if name not in kinds:
            continue
        if name not in schema.names:
            judged[name] = _Bounds(None, "absent")
        elif paths.count(name) == 1 and schema.names.count(name) == 1:
            place = paths.index(name)
            kind, unit = _scale(schema.field(name).type, file.schema.column(place), kinds[name])
            if kind:
                judged[name] = _Bounds(place, kind, unit)
    return judged


def _scale(kind: pa.DataType, stored: Any, wanted: str) -> tuple[str, str | None]:
    """How a column of a file compares under the contract's type; an empty text where it is not judged."""
    import pyarrow.types as types

    if wanted.startswith(("int", "decimal")) and (types.is_integer(kind) or types.is_decimal(kind)):
        return "number", None
    if wanted == "bool" and types.is_boolean(kind):
        return "bool", None
    if wanted == "string" and (types.is_string(kind) or types.is_large_string(kind)):
        return "text", None
    if not wanted.startswith(("date", "timestamp")):
        return "", None
    scale = "date" if wanted.startswith("date") else "timestamp"
    if types.is_date(kind) and stored.physical_type == "INT32":
        return scale, None
    if scale == "timestamp" and types.is_timestamp(kind) and stored.physical_type == "INT64":
        unit = json.loads(stored.logical_type.to_json()).get("timeUnit")
        return (scale, unit) if unit in _PER_SECOND else ("", None)
    return "", None


def _outcomes(node: exp.Expr, judged: dict[str, _Bounds], group: Any) -> Outcomes:
    from sqlglot import exp

    if isinstance(node, exp.And | exp.Or):
        sides = [_outcomes(side, judged, group) for side in node.flatten()]
        return reduce(_both if isinstance(node, exp.And) else _either, sides)
    if isinstance(node, exp.Paren):
        return _outcomes(node.this, judged, group)
    if isinstance(node, exp.Not):
        return _not(_outcomes(node.this, judged, group))
    bounds = judged.get(node.this.name)
    if bounds is None:
        return ANYTHING
    statistics = None if bounds.place is None else group.column(bounds.place).statistics
    if bounds.place is not None and statistics is None:
        return ANYTHING
    nulls = group.num_rows if statistics is None else statistics.null_count if statistics.has_null_count else None
    only_nulls = nulls == group.num_rows
    # a value that fits no date or time is NULL for the filter
    unknown: Outcomes = frozenset([None]) if bounds.moment or nulls is None or nulls > 0 else frozenset()
    if isinstance(node, exp.Is):
        is_null: Outcomes = frozenset([True]) if unknown else frozenset()
        return is_null if only_nulls else is_null | {False}
    if only_nulls:
        return frozenset([None])
    try:
        return unknown | _compared(node, bounds, *bounds.low_high(statistics))
    except ValueError:
        return ANYTHING


def _compared(node: exp.Expr, bounds: _Bounds, low: Any, high: Any) -> Outcomes:
    """What a comparison may be for a value between two bounds, which need not be values themselves."""
    from sqlglot import exp

    def outcomes(true: bool, false: bool = True) -> Outcomes:
        return frozenset([kind for kind, possible in ((True, true), (False, false)) if possible])

    if isinstance(node, exp.Between):
        least, most = bounds.literal(node.args["low"]), bounds.literal(node.args["high"])
        return outcomes(low <= most and high >= least, low < least or high > most)
    if isinstance(node, exp.In):
        return outcomes(any(low <= bounds.literal(item) <= high for item in node.expressions))
    value = bounds.literal(node.expression)
    if isinstance(node, exp.Like):
        if bounds.kind != "text":
            raise ValueError
        start = re.split(r"[%_\\]", value, maxsplit=1)[0]
        return outcomes(low[: len(start)] <= start <= high[: len(start)])
    if isinstance(node, exp.EQ):
        return outcomes(low <= value <= high)
    if isinstance(node, exp.NEQ):
        return outcomes(True, low <= value <= high)
    if isinstance(node, exp.LT):
        return outcomes(low < value, high >= value)
    if isinstance(node, exp.LTE):
        return outcomes(low <= value, high > value)
    if isinstance(node, exp.GT):
        return outcomes(high > value, low <= value)
    return outcomes(high >= value, low < value)


def _not(side: Outcomes) -> Outcomes:
    return frozenset(None if value is None else not value for value in side)


def _both(one: Outcomes, other: Outcomes) -> Outcomes:
    pairs = product(one, other)
    return frozenset(False if False in pair else None if None in pair else True for pair in pairs)


def _either(one: Outcomes, other: Outcomes) -> Outcomes:
    return _not(_both(_not(one), _not(other)))
