"""Values of files and APIs under the contract: typed where that is exact, text where it is not, never changed."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import SourceAccessError
from assets.sources.file_values import contract_column, contract_of, joined
from assets.sources.parquet_int96 import finest, int96_columns
from assets.text_columns import ColumnFacts, parsed, typed_column
from assets.types import arrow_type


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", None, "0"], "int64"),
        (["9223372036854775807"], "int64"),
        (["9223372036854775808", "1"], "decimal128(38, 0)"),
        (["1" * 39], "string"),
        (["007", "1"], "string"),
        (["+5"], "string"),
        (["-0"], "string"),
        ([" 1"], "string"),
        (["1\n"], "string"),
        (["1.70", "-2.25", "3"], "decimal128(38, 2)"),
        (["-0.00"], "string"),
        (["1.5", "2.25"], "double"),
        (["0.30000000000000004", "1e-5"], "double"),
        (["0.300000000000000041", "1e-5"], "string"),
        (["true", "false"], "bool"),
        (["True"], "string"),
        (["2024-02-29"], "date32[day]"),
        (["2023-02-29"], "string"),
        (["0000-01-01"], "string"),
        (["2024-02-29", "2024-02-29 10:00"], "string"),
        (["2024-02-29T10:00:00.123456", "2024-02-29 10:00"], "timestamp[us]"),
        (["2024-02-29 10:00:00.1234567"], "string"),
        (["2024-02-29T10:00:00Z"], "timestamp[us, tz=UTC]"),
        (["2024-02-29T10:00:00+02:00"], "string"),
        (["1", "2024-02-29"], "string"),
        (["", "1"], "string"),
        ([None], "string"),
    ],
)
def test_a_text_column_gets_the_type_that_changes_no_value(values: list[str | None], kind: str) -> None:
    facts = ColumnFacts()
    for value in values:
        part = ColumnFacts()
        part.observe(pa.array([value], pa.string()))
        facts.merge(ColumnFacts.load(part.dump()))
    whole = ColumnFacts()
    whole.observe(pa.array(values, pa.string()))
    assert facts.arrow_type() == whole.arrow_type() == kind
    typed, unfit = typed_column(pa.array(values, pa.string()), arrow_type(kind))
    assert unfit == {}
    assert typed.to_pylist() == [None if v is None else parsed(v, arrow_type(kind)) for v in values]


@pytest.mark.parametrize("kind", ["int64", "decimal128(5, 2)", "date32[day]", "timestamp[us]", "bool", "double"])
def test_a_text_that_does_not_fit_a_type_is_handed_back(kind: str) -> None:
    typed, unfit = typed_column(pa.array(["nonsense", None]), arrow_type(kind))
    assert (typed.to_pylist(), unfit) == ([None, None], {0: "nonsense"})
    assert typed_column(pa.array(["1.255"]), arrow_type("decimal128(5, 2)"))[1] == {0: "1.255"}
    assert typed_column(pa.array(["007"]), arrow_type("int64"), declared=True)[0].to_pylist() == [7]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([2**64 - 1], pa.uint64()), Decimal(2**64 - 1)),
        (pa.array([255], pa.uint8()), 255),
        (pa.array([Decimal("1.5")], pa.decimal256(50, 20)), "1.50000000000000000000"),
        (pa.array([1_000_000_000], pa.timestamp("ns")), datetime(1970, 1, 1, 0, 0, 1)),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([[1, None]], pa.list_(pa.int64())), "[1,null]"),
        (pa.array([{"a": Decimal("1.10"), "b": b"\0"}]), '{"a":1.10,"b":"AA=="}'),
        (pa.array([3_600_000_000], pa.time64("us")), "01:00:00"),
        (pa.array([None], pa.null()), None),
        (pa.array([date(2024, 2, 29)]), date(2024, 2, 29)),
    ],
)
def test_parquet_types_follow_the_contract(array: pa.Array, expected: Any) -> None:
    typed, unfit = contract_column(array, contract_of(array.type))
    assert (typed.to_pylist(), unfit) == ([expected], {})


def test_times_that_no_column_holds_stand_as_text() -> None:
    typed, unfit = contract_column(pa.array([1_000_000_001, 5000, None], pa.timestamp("ns")), "timestamp[us]")
    assert unfit == {0: "1970-01-01 00:00:01.000000001"}
    assert typed.to_pylist() == [None, datetime(1970, 1, 1, 0, 0, 0, 5), None]
    far = pa.array([300_000_000_000], pa.timestamp("s"))
    assert contract_column(far, "timestamp[us]")[1] == {0: "300000000000 seconds since 1970-01-01"}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("int16", "int64", "int64"),
        ("int64", "decimal128(10, 2)", "decimal128(21, 2)"),
        ("decimal128(38, 0)", "decimal128(10, 2)", "string"),
        ("float", "int32", "double"),
        ("int64", "double", "string"),
        ("date32[day]", "timestamp[us]", "timestamp[us]"),
        ("timestamp[us]", "timestamp[us, tz=UTC]", "string"),
        ("bool", "int16", "string"),
    ],
)
def test_types_of_two_files_join_into_one_that_holds_both(one: str, other: str, both: str) -> None:
    assert joined(one, other) == joined(other, one) == both


def read_int96(columns: dict[str, pa.Array], unit: str) -> tuple[pa.Table, list[str]]:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, use_deprecated_int96_timestamps=True)
    with pq.ParquetFile(pa.BufferReader(buffer.getvalue()), coerce_int96_timestamp_unit=unit) as file:
        return file.read().combine_chunks(), int96_columns(file)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        # a fraction below a microsecond is kept, whole ones are read for all years
        ([1, 10**18 + 1000, None], pa.timestamp("ns"), pa.timestamp("ns")),
        ([1000, -1000, None], pa.timestamp("ns"), pa.timestamp("us")),
        ([-(10**16), 253370764800 * 10**6], pa.timestamp("us"), pa.timestamp("us")),
        ([[1], None, [], [None]], pa.list_(pa.timestamp("ns")), pa.list_(pa.timestamp("ns"))),
        ([{"x": 2000}, None], pa.struct([("x", pa.timestamp("ns"))]), pa.struct([("x", pa.timestamp("us"))])),
    ],
)
def test_an_int96_column_is_read_in_the_unit_that_holds_all_its_values(
    values: list[Any], kind: pa.DataType, expected: pa.DataType
) -> None:
    array = pa.array(values, kind)
    (coarse, names), (fine, _) = (read_int96({"v": array}, unit) for unit in ("us", "ns"))
    assert names == ["v"]
    found = finest(coarse["v"].chunk(0), fine["v"].chunk(0), "file, column v")
    assert found.type.equals(expected) or str(found.type).replace("element", "item") == str(expected)
    if pa.types.is_timestamp(kind):
        scale = 1 if found.type == kind else 1000
        assert [None if v is None else v * scale for v in found.cast(pa.int64()).to_pylist()] == values


def test_int96_values_that_no_unit_holds_together_are_refused() -> None:
    # what the reader makes of 1 ns and of the year 9999
    coarse = pa.array([0, 253370764800 * 10**6], pa.timestamp("us"))
    far = (253370764800 * 10**9 + 2**63) % 2**64 - 2**63
    with pytest.raises(SourceAccessError, match="finer than a microsecond"):
        finest(coarse, pa.array([1, far], pa.timestamp("ns")), "file, column v")


def test_a_map_of_fine_timestamps_stands_as_json() -> None:
    array = pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.timestamp("ns")))
    wanted = contract_of(array.type)
    found, unfit = contract_column(array, wanted)
    assert (found.to_pylist(), unfit) == (['[["a","1970-01-01 00:00:00.000000001"]]', None, "[]"], {})
