"""Objects of a bucket as tables: each version of an object is in Bronze and Silver once, in whatever order it comes."""

from __future__ import annotations

import gzip
import io
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.lakehouse.interface import TableId
from assets.sources.file_reading import TableFile
from tests.behaviour.bucket import Bucket
from tests.servers.s3_server import S3Server

LAYERS = ("bronze", "silver")


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    return Bucket(s3_server, tmp_path / "home")


def test_new_overwritten_late_and_deleted_objects_are_each_applied_once(bucket: Bucket) -> None:
    lake = bucket.installation
    bucket.put("orders/b.parquet", pa.table({"id": [1, 2, 3], "v": ["a", "b", "c"]}))
    bucket.put("orders/c.parquet", pa.table({"id": [4], "v": ["d"]}))
    first = lake.sync("files.orders")
    assert (first.mode, first.rows_read, first.equal) == ("full", 4, True)

    nothing = lake.sync("files.orders")
    assert (nothing.mode, nothing.rows_read, nothing.equal) == ("incremental", 0, True)
    assert lake.bronze_rows("files.orders") == 4

    # listed late under an earlier name, one overwritten by a shorter content, one gone
    bucket.put("orders/a.parquet", pa.table({"id": [10], "v": ["late"]}))
    bucket.put("orders/b.parquet", pa.table({"id": [1], "v": ["new"]}))
    bucket.delete("orders/c.parquet")
    second = lake.sync("files.orders")
    assert (second.rows_read, second.rows_deleted, second.equal) == (2, 2, False)
    assert "--deletes keys" in second.reason
    third = lake.sync("files.orders", deletes="keys")
    assert (third.rows_read, third.rows_deleted, third.equal) == (0, 1, True)
    assert lake.silver("files.orders", "_file", "id", "v") == [
        ("orders/a.parquet", 10, "late"),
        ("orders/b.parquet", 1, "new"),
    ]
    assert len(lake.silver("files.orders", "id", live=False)) == 5, "deletes are soft"
    again = lake.sync("files.orders", deletes="keys")
    assert (again.rows_read, again.rows_deleted, again.equal) == (0, 0, True)
    assert lake.verify("files.orders").equal

    bucket.put("orders/c.parquet", pa.table({"id": [4, 5], "v": ["back", "more"]}))
    assert lake.sync("files.orders", deletes="keys").equal
    assert lake.verify("files.orders").equal
    assert len(lake.silver("files.orders", "id")) == 4


def test_formats_and_compressions_read_alike(bucket: Bucket) -> None:
    lake = bucket.installation
    import zstandard

    text = 'id,code,amount,day\n1,007,1.50,2024-02-29\n2,"a,\nb",,\n'
    bucket.put("t/1.csv", text)
    bucket.put("t/2.csv.gz", gzip.compress(text.encode()))
    bucket.put("t/3.tsv.zst", zstandard.compress(text.replace('"a,\nb"', '"a,\nb"').replace(",", "\t").encode()))
    bucket.put("t/4.jsonl", '{"id": 1, "code": "007", "amount": 1.50, "day": "x"}\n{"id": 12345678901234567890}\n')
    bucket.put("t/5.parquet", pa.table({"id": pa.array([7], pa.int16()), "code": ["p"]}))
    bucket.put("t/_SUCCESS", "")
    result = lake.sync("files.t")
    assert (result.rows_read, result.equal, result.unfit_values) == (9, True, 0)
    assert lake.types("files.t") == {
        "_file": "string",
        "_row": "int64",
        "_file_version": "string",
        "id": "decimal128(38, 0)",
        "code": "string",
        "amount": "decimal128(38, 2)",
        "day": "string",
    }
    rows = lake.silver("files.t", "_file", "_row", "code", "day")
    assert rows[:2] == [("t/1.csv", 0, "007", "2024-02-29"), ("t/1.csv", 1, "a,\nb", None)]
    assert rows[4][2:] == ("007", "2024-02-29") and rows[-1][2:] == ("p", None)
    assert lake.verify("files.t").equal


def test_the_users_key_lets_the_newest_object_win(bucket: Bucket) -> None:
    import time

    lake = bucket.installation
    lake.configure(bucket.config(tables=[{"name": "people", "glob": "people/*.csv", "key": ["id"]}]))
    bucket.put("people/2.csv", "id,name\n1,old\n2,two\n1,old again\n")
    time.sleep(1.1)  # an object's age has seconds
    bucket.put("people/1.csv", "id,name\n1,new\n")
    first = lake.sync("files.people")
    assert (first.rows_read, first.equal) == (2, True)
    assert lake.silver("files.people", "id", "name") == [(1, "new"), (2, "two")]
    time.sleep(1.1)
    bucket.put("people/3.csv", "id,name\n2,newer\n3,three\n")
    second = lake.sync("files.people")
    assert (second.mode, second.rows_read) == ("incremental", 2)
    assert lake.silver("files.people", "id", "name") == [(1, "new"), (2, "newer"), (3, "three")]
    bucket.delete("people/3.csv")
    third = lake.sync("files.people", deletes="keys")
    assert (third.rows_deleted, third.equal) == (1, True)
    assert lake.silver("files.people", "id", "name") == [(1, "new"), (2, "two")]
    assert lake.verify("files.people").equal


def test_int96_timestamps_keep_every_nanosecond_beside_the_column(bucket: Bucket) -> None:
    sink = io.BytesIO()
    moments = pa.array([1_000_000_001, 2_000_000_000, None], pa.timestamp("ns"))
    nested = pa.array([[3_000_000_003], [], None], pa.list_(pa.timestamp("ns")))
    pq.write_table(pa.table({"at": moments, "all": nested}), sink, use_deprecated_int96_timestamps=True)
    bucket.put("t/1.parquet", sink.getvalue())
    result = bucket.installation.sync("files.t")
    assert (result.rows_read, result.unfit_values, result.equal) == (3, 1, True)
    rows = bucket.installation.silver("files.t", "_row", "at", "all", "_headrace_unfit")
    assert rows == [
        (0, None, '["1970-01-01 00:00:03.000000003"]', '{"at": "1970-01-01 00:00:01.000000001"}'),
        (1, datetime(1970, 1, 1, 0, 0, 2), "[]", None),
        (2, None, None, None),
    ]
    assert bucket.installation.verify("files.t").equal


def test_an_overwritten_object_of_a_filtered_table_leaves_no_row_of_its_earlier_version(bucket: Bucket) -> None:
    lake = bucket.installation
    bucket.put("orders/a.parquet", pa.table({"id": list(range(10)), "v": [0, 1] * 5}))
    bucket.put("orders/b.parquet", pa.table({"id": [20, 21, 22], "v": [0, 0, 1]}))
    first = lake.sync("files.orders", row_filter="v = 1")
    assert (first.rows_silver, first.equal) == (5 + 1, True)

    bucket.put("orders/a.parquet", pa.table({"id": list(range(8)), "v": [1, 0, 1, 1, 0, 0, 0, 0]}))
    second = lake.sync("files.orders")
    assert (second.mode, second.rows_read, second.rows_deleted) == ("incremental", 3, 4)
    assert lake.silver("files.orders", "_row", "id") == [(0, 0), (2, 2), (2, 22), (3, 3)]
    assert lake.verify("files.orders").equal

    bucket.delete("orders/b.parquet")
    bucket.put("orders/a.parquet", pa.table({"id": [0], "v": [0]}))
    lake.sync("files.orders", deletes="keys")
    assert lake.silver("files.orders", "id") == []
    assert lake.verify("files.orders").equal
    bucket.put("orders/a.parquet", pa.table({"id": [0, 1], "v": [0, 1]}))
    lake.sync("files.orders")
    assert lake.silver("files.orders", "id") == [(1,)]


def test_a_filter_reads_only_the_row_groups_that_may_hold_its_rows(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = bucket.installation
    sink = io.BytesIO()
    days = [date(2024, 1 + n // 10, 1 + n % 10) for n in range(60)]
    pq.write_table(pa.table({"id": range(60), "day": days}), sink, row_group_size=10)
    bucket.put("orders/a.parquet", sink.getvalue())
    read: list[Any] = []
    exact = TableFile._exact_batches

    def noted(self: TableFile, file: Any, groups: Any) -> Any:
        read.append(groups)
        return exact(self, file, groups)

    with monkeypatch.context() as patch:
        patch.setattr(TableFile, "_exact_batches", noted)
        wanted = "day between '2024-02-05' and '2024-03-02' or id = 59"
        result = lake.sync("files.orders", row_filter=wanted)
    assert read == [[1, 2], [5]]
    assert (result.rows_read, result.equal) == (6 + 2 + 1, True)
    assert lake.silver("files.orders", "_row", "id") == [(n, n) for n in [*range(14, 22), 59]]
    assert lake.bronze_rows("files.orders") == 9
    assert lake.verify("files.orders").equal


def test_values_are_verified_through_another_decoder_than_that_of_the_sync(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = bucket.installation
    columns: dict[str, pa.Array] = {
        "i8": pa.array([-128, None, 127], pa.int8()),
        "u64": pa.array([0, None, 2**64 - 1], pa.uint64()),
        "d": pa.array([Decimal("-0.01"), None, Decimal("9" * 36 + ".99")], pa.decimal128(38, 2)),
        "f": pa.array([float("nan"), -0.0, float("inf")], pa.float32()),
        "s": pa.array(["", None, "é\0🚰"]),
        "b": pa.array([b"", None, b"\0\xff"]),
        "day": pa.array([date(1, 1, 1), None, date(9999, 12, 31)]),
        "at": pa.array([datetime(1, 1, 1), None, datetime(9999, 12, 31, 23, 59, 59, 999999)], pa.timestamp("us")),
        "utc": pa.array([datetime(1969, 12, 31), None, datetime(2024, 2, 29)], pa.timestamp("us", tz="UTC")),
    }
    bucket.put("plain/a.parquet", pa.table(columns))
    bucket.put("plain/b.parquet", pa.table({"i8": pa.array(range(100_000), pa.int32())}))
    bucket.put("nested/a.parquet", pa.table({"l": [[1, 2], None], "ns": pa.array([1, 2], pa.timestamp("ns"))}))
    assert lake.sync("files.plain").equal
    assert lake.sync("files.nested").equal

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the decoder of a sync")

    with monkeypatch.context() as patch:
        patch.setattr(TableFile, "_parquet_pieces", refused)
        compared = lake.verify("files.plain")
        assert (compared.equal, compared.source_rows) == (True, 100_003)
    assert lake.verify("files.nested").equal, "no other decoder gives nested values: that of the sync"


def orders(first: int, rows: int, note: str) -> pa.Table:
    numbers = range(first, first + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "Note To": [None if n % 7 == 0 else f"{note} {n}" for n in numbers],  # another name in Bronze and Silver
            "price": pa.array([Decimal(n) / 100 for n in numbers], pa.decimal128(12, 2)),
            "at": pa.array([datetime(2024, 1, 1, n % 24) for n in numbers], pa.timestamp("us", tz="UTC")),
        }
    )


def test_row_groups_that_need_no_look_are_stored_as_they_are(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket.installation
    decoded: list[str] = []
    exact, source = TableFile._exact_batches, TableFile._source

    def noted(self: TableFile, file: Any, groups: Any) -> Any:
        decoded.append(self.found.key)
        return exact(self, file, groups)

    monkeypatch.setattr(TableFile, "_exact_batches", noted)
    bucket.put("orders/a.parquet", orders(0, 30_000, "a"))
    bucket.put("orders/b.parquet", orders(30_000, 20_000, "b"))
    bucket.put("orders/small.parquet", orders(50_000, 100, "small"))
    bucket.put("orders/other.parquet", orders(60_000, 20_000, "no price").drop_columns(["price"]))
    first = lake.sync("files.orders")
    assert decoded == ["orders/small.parquet"]
    assert (first.mode, first.rows_read, first.equal, first.unfit_values) == ("full", 70_100, True, 0)
    assert lake.verify("files.orders").equal

    bucket.put("orders/a.parquet", orders(0, 20_000, "new"))
    bucket.put("orders/c.parquet", orders(90_000, 20_000, "c"))
    bucket.delete("orders/b.parquet")
    decoded.clear()
    second = lake.sync("files.orders", deletes="keys")
    assert decoded == []
    assert (second.mode, second.rows_read, second.rows_deleted) == ("incremental", 40_000, 10_000 + 20_000)
    assert second.equal
    assert lake.verify("files.orders").equal
    assert ("new 1", Decimal("0.01")) in lake.silver("files.orders", "note_to", "price")

    # overwritten between the listing and the read
    newest = iter([orders(0, 25_000, "newest")])

    def overwritten(self: TableFile) -> Any:
        if self.found.key == "orders/a.parquet" and (content := next(newest, None)):
            bucket.put("orders/a.parquet", content)
        return source(self)

    bucket.put("orders/a.parquet", orders(0, 20_000, "newer"))
    monkeypatch.setattr(TableFile, "_source", overwritten)
    third = lake.sync("files.orders")
    assert decoded == []
    assert (third.rows_read, third.equal) == (25_000, True)
    assert lake.verify("files.orders").equal

    lake.sync("files.orders", mode="full", row_filter="id >= 10")
    assert set(decoded) == {f"orders/{name}.parquet" for name in ("a", "c", "other", "small")}, "each row is looked at"
    assert lake.verify("files.orders").equal


def test_excluded_columns_are_left_in_the_files_and_silver_shares_the_parts(bucket: Bucket) -> None:
    lake = bucket.installation
    bucket.put("orders/a.parquet", orders(0, 20_000, "a").rename_columns(["id", "note", "price", "at"]))
    bucket.put("orders/b.parquet", orders(20_000, 10, "b").rename_columns(["id", "note", "price", "at"]))
    result = lake.sync("files.orders", columns={"exclude": ["price"]})
    assert (result.rows_read, result.equal) == (20_010, True)
    assert lake.verify("files.orders").equal
    tables = [TableId.model_validate({"layer": layer, "connector": "src", "table": "files.orders"}) for layer in LAYERS]
    for table in tables:
        assert "price" not in lake.steps.lakehouse.schema(table).names

    def files() -> list[set[int]]:
        return [{f.stat().st_ino for f in Path(lake.steps.lakehouse.uri(t)).glob("*.parquet")} for t in tables]

    bronze, silver = files()
    assert bronze == silver and len(bronze) == 2

    bucket.put("orders/a.parquet", orders(0, 18_000, "new").rename_columns(["id", "note", "price", "at"]))
    merged = lake.sync("files.orders")
    assert (merged.rows_read, merged.rows_deleted, merged.equal) == (18_000, 2_000, True)
    assert lake.verify("files.orders").equal
    added = files()[0] - bronze
    assert len(added & files()[1]) == 1, "what was merged by key is shared, too; the deletes are Bronze's alone"
