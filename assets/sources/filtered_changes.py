"""A row filter over the changes of a log: a row is judged before and after its change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from assets.row_filter import RowFilter
from assets.sources.interface import ChangeBatch

if TYPE_CHECKING:
    import pyarrow as pa


def passing(change: ChangeBatch, row_filter: RowFilter | None) -> ChangeBatch:
    """The rows of the filter. Where there is one, the log tells whole rows: nothing is missing."""
    if row_filter is None:
        return change
    passes = row_filter.mask(change.rows)
    return ChangeBatch(change.rows.filter(passes), change.op, change.positions.filter(passes))


def gone(
    row_filter: RowFilter | None,
    moved: Any,
    before: Callable[[], pa.RecordBatch],
    after: Callable[[], pa.RecordBatch],
) -> Any:
    """Which updated rows are deletes of what they were: they moved to another key, or left the filter.

    Args:
        moved: a numpy mask of the rows whose key is another one.
        before, after: the whole rows, asked for where there is a filter.
    """
    if row_filter is None:
        return moved
    passed, passes = (row_filter.mask(rows()).to_numpy(zero_copy_only=False) for rows in (before, after))
    return passed & (moved | ~passes)
