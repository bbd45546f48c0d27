"""Which of many versions of a key is the live one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION
from assets.newest_versions import NewestVersions

START = datetime(2026, 11, 30, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def versions(*rows: tuple[Any, Any, int, int, bool]) -> pa.RecordBatch:
    """Key of two columns whose names differ by case alone, position, minute of its load, whether it is a delete."""
    loaded = [START + timedelta(minutes=row[3]) for row in rows]
    gone = [moment if row[4] else None for row, moment in zip(rows, loaded, strict=True)]
    names = ["id", "ID", POSITION, LOADED_AT, DELETED_AT, "number"]
    first, second, positions, *_ = zip(*rows, strict=True)
    kinds = [pa.int64(), pa.string(), pa.int64(), MOMENT, MOMENT, pa.int64()]
    columns = [first, second, positions, loaded, gone, range(len(rows))]
    return pa.RecordBatch.from_arrays([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names)


def live(tmp_path: Path, *batches: pa.RecordBatch) -> tuple[int, list[int]]:
    with NewestVersions(["id", "ID"], iter(batches), memory_limit="64MB", scratch=tmp_path) as newest:
        return newest.count(), [n for batch in newest.live(iter(batches)) for n in batch.column("number").to_pylist()]


def test_of_each_key_the_newest_version_is_live(tmp_path: Path) -> None:
    rows = [(1, "a", 5, 1, False), (1, "A", 6, 1, False), (1, "a", 7, 1, False), (None, None, 1, 1, False)]
    assert live(tmp_path, versions(*rows)) == (3, [1, 2, 3])


def test_a_key_whose_newest_version_is_a_delete_is_not_live(tmp_path: Path) -> None:
    rows = [(1, "a", 5, 1, False), (1, "a", 6, 1, True), (2, "b", 1, 1, True), (2, "b", 2, 1, False)]
    assert live(tmp_path, versions(*rows)) == (1, [3])


def test_the_order_of_the_rows_is_no_matter_and_batches_are_one_table(tmp_path: Path) -> None:
    later = versions((1, "a", 9, 2, False), (2, "b", 9, 2, True))
    earlier = versions((2, "b", 3, 1, False), (1, "a", 3, 1, True))
    assert live(tmp_path, later, earlier) == (1, [0])


@pytest.mark.parametrize("gone", [False, True])
def test_at_one_position_the_later_load_counts_then_the_delete(tmp_path: Path, gone: bool) -> None:
    rows = versions((1, "a", 5, 2, gone), (1, "a", 5, 1, not gone))
    assert live(tmp_path, rows) == ((0, []) if gone else (1, [0]))
    assert live(tmp_path, versions((1, "a", 5, 1, True), (1, "a", 5, 1, False))) == (0, [])


def test_of_no_rows_none_is_live(tmp_path: Path) -> None:
    assert live(tmp_path) == (0, [])
