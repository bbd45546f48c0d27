"""A quick first look for touched keys: which row groups can hold any, and which rows may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

    Numbers = npt.NDArray[np.int64]

_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, as in Fibonacci hashing


class KeyFilter:
    """Lets pass every row whose value in one key column is among the touched ones, and few others.

    Args:
        column: the key column's name in the table.
        values: the touched keys' values in it.
    """

    def __init__(self, column: str, values: pa.Array) -> None:
        self.column = column
        self._nulls = values.null_count > 0
        self._values = arrow_compute().drop_null(values).unique()
        self._numbers: Numbers | None = None
        if _is_integer(values.type):
            self._number_values()

    def _number_values(self) -> None:
        import numpy as np

        self._numbers = np.sort(np.asarray(self._values).astype(np.int64))
        # at least 16 places a value: one row in 16 passes in vain
        bits = max(10, int(len(self._numbers) * 16 - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._places = np.zeros(1 << bits, dtype=bool)
        self._places[self._place_of(self._numbers)] = True

    def _place_of(self, numbers: Numbers) -> Any:
        import numpy as np

        return (numbers.view(np.uint64) * np.uint64(_MIX)) >> self._shift

    def may_hold(self, low: Any, high: Any) -> bool:
        """Whether a touched value may lie from ``low`` to ``high``."""
        if self._numbers is None or self._nulls or not isinstance(low, int) or not isinstance(high, int):
            return True
        return bool(self._numbers.searchsorted(low) < self._numbers.searchsorted(high, side="right"))

    def groups(self, footer: pq.FileMetaData) -> list[int]:
        """The row groups of a file that may hold a touched value."""
        columns = [footer.schema.column(index).path for index in range(footer.num_columns)]
        index = columns.index(self.column) if self.column in columns else None

        def bounds(group: int) -> tuple[Any, Any]:
            found = footer.row_group(group).column(index).statistics if index is not None else None
            if found is None or not found.has_min_max or self._numbers is None:
                return None, None
            return found.min, found.max

        return [group for group in range(footer.num_row_groups) if self.may_hold(*bounds(group))]

    def passing(self, column: pa.Array) -> pa.Array:
        """One flag a row, as an Arrow boolean array."""
        import numpy as np
        import pyarrow as pa

        pc = arrow_compute()
        if self._numbers is None:
            found = pc.is_in(column, value_set=self._values)
            return pc.or_(found, pc.is_null(column)) if self._nulls else found
        filled = column.fill_null(0) if column.null_count else column
        found = pa.array(self._places[self._place_of(np.asarray(filled).astype(np.int64, copy=False))])
        return pc.or_(found, pc.is_null(column)) if self._nulls and column.null_count else found


def _is_integer(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_signed_integer(kind)
