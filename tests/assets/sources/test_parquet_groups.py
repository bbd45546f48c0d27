"""Row groups that a filter leaves out hold no row that it lets pass; and it does leave some out."""

from __future__ import annotations

import io
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.row_filter import RowFilter
from assets.sources.file_values import contract_column, contract_of
from assets.sources.parquet_groups import group_runs
from assets.sync import Column
from assets.types import arrow_type

GROUP = 10


def table() -> pa.Table:
    numbers = list(range(100))
    start = datetime(2024, 1, 1)
    return pa.table(
        {
            "i": pa.array([None if n % 17 == 0 else n for n in numbers], pa.int32()),
            "u": pa.array([2**63 + n for n in numbers], pa.uint64()),
            "n": pa.array([Decimal(n) / 4 for n in numbers], pa.decimal128(10, 2)),
            "f": pa.array([float("nan") if n == 55 else n / 2 for n in numbers], pa.float64()),
            "b": pa.array([n >= 50 for n in numbers]),
            "s": pa.array([f"k{n // 10}\U0001f6b0" if n < 90 else f"kä{n}" for n in numbers]),
            "d": pa.array([date(2024, 1, 1) + timedelta(days=n) for n in numbers]),
            "m": pa.array([start + timedelta(hours=n) for n in numbers], pa.timestamp("ms")),
            "ns": pa.array([(int(start.timestamp()) + n) * 10**9 + n % 3 for n in numbers], pa.timestamp("ns")),
            "z": pa.array(
                [(start + timedelta(days=n)).replace(tzinfo=UTC) for n in numbers], pa.timestamp("us", "UTC")
            ),
            "none": pa.array([None if n < 50 else n for n in numbers], pa.int64()),
            "nested": pa.array([{"i": n} for n in numbers]),
        }
    )


def written(content: pa.Table, **options: Any) -> pq.ParquetFile:
    sink = io.BytesIO()
    pq.write_table(content, sink, row_group_size=GROUP, **options)
    return pq.ParquetFile(pa.BufferReader(sink.getvalue()))


def contract(schema: pa.Schema, **changed: str) -> list[Column]:
    kinds = {f.name: contract_of(f.type) for f in schema} | changed
    return [Column(name=name, source_type="", arrow_type=kind) for name, kind in kinds.items()]


def passing(file: pq.ParquetFile, columns: list[Column], row_filter: RowFilter, group: int) -> int:
    """Rows of a group that the filter lets pass, by the stored values."""
    batch = file.read_row_group(group).combine_chunks()
    arrays = []
    for column in columns:
        if column.name in batch.schema.names:
            arrays.append(contract_column(batch.column(column.name).combine_chunks(), column.arrow_type)[0])
        else:
            arrays.append(pa.nulls(batch.num_rows, arrow_type(column.arrow_type)))
    typed = pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])
    return int(row_filter.mask(typed).true_count)


def left_out(file: pq.ParquetFile, text: str, columns: list[Column] | None = None) -> list[int]:
    """Numbers of the groups that are not read, after a check that none of them has a row that passes."""
    columns = columns or contract(file.schema_arrow)
    parsed = RowFilter.parse(text)
    runs = group_runs(file, parsed, columns)
    read = [number for _, groups in runs for number in groups]
    before = 0
    for skipped, groups in runs:
        assert groups[0] * GROUP == before + skipped
        before = (groups[-1] + 1) * GROUP
    missing = [number for number in range(file.num_row_groups) if number not in read]
    for number in missing:
        assert passing(file, columns, parsed, number) == 0, text
    return missing


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("i >= 25 and i < 41", 7),
        ("not (i < 25 or i > 41)", 7),
        ("i in (3, 77)", 8),
        ("i between 10 and 19", 9),
        ("i is null", 4),
        ("none is not null", 5),
        ("none is null or none > 90", 4),
        ("u = 9223372036854775818", 9),
        ("n >= 20.5 and b = true", 8),
        ("b = false", 5),
        ("s = 'k3\U0001f6b0'", 9),
        ("s like 'k3%' or s like 'kä%'", 8),
        ("s > 'k8'", 8),
        ("d < '2024-01-05'", 9),
        ("m >= '2024-01-03 03:00:00'", 5),
        ("ns <= '2024-01-01 00:00:09'", 9),
        ("z > '2024-03-01'", 6),
        ("f > 40", 0),  # NaN is in no bounds
        ("nested = 'x'", 0),
    ],
)
def test_groups_that_cannot_hold_a_row_of_the_filter_are_left_out(text: str, count: int) -> None:
    assert len(left_out(written(table()), text)) == count


def test_a_column_that_the_file_lacks_is_null_and_one_retyped_is_not_judged() -> None:
    file = written(table())
    columns = contract(file.schema_arrow, i="string", d="timestamp[us]", gone="int64")
    assert len(left_out(file, "gone = 1", columns)) == 10
    assert left_out(file, "gone is null and not gone = 1 or gone is null", columns) == []
    assert left_out(file, "i = '5'", columns) == []
    assert len(left_out(file, "d < '2024-01-05 12:00:00'", columns)) == 9


def test_a_file_without_statistics_is_read_whole() -> None:
    assert left_out(written(table(), write_statistics=False), "i = 3") == []


def test_random_filters_never_leave_a_row_out() -> None:
    chosen = random.Random(4)
    file = written(table())
    literals = {
        "i": ["-1", "0", "33", "57.5", "99", "200"],
        "n": ["-0.25", "3", "12.25", "24.75", "100"],
        "s": ["'k'", "'k3'", "'k3\U0001f6b0'", "'kä95'", "'z'"],
        "d": ["'2023-01-01'", "'2024-01-31'", "'2024-04-09'", "'2025-01-01'"],
        "m": ["'2024-01-01'", "'2024-01-02 05:00:00'", "'2024-02-01'"],
        "ns": ["'2024-01-01 00:00:10'", "'2024-01-01 00:01:39'"],
        "none": ["49", "50", "75"],
    }

    def condition(depth: int) -> str:
        kind = chosen.random()
        if depth and kind < 0.25:
            return f"not ({condition(depth - 1)})"
        if depth and kind < 0.75:
            word = chosen.choice(["and", "or"])
            return f"({condition(depth - 1)} {word} {condition(depth - 1)})"
        column = chosen.choice(list(literals))
        value = chosen.choice
        if kind < 0.8:
            return f"{column} is {value(['', 'not '])}null"
        if kind < 0.85:
            return f"{column} in ({value(literals[column])}, {value(literals[column])})"
        if kind < 0.9:
            return f"{column} between {value(literals[column])} and {value(literals[column])}"
        return f"{column} {value(['=', '<>', '<', '<=', '>', '>='])} {value(literals[column])}"

    assert sum(len(left_out(file, condition(3))) for _ in range(400)) > 400
