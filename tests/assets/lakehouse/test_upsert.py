"""Upserts by key: one commit, only files that hold touched keys, exact values in rewritten files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from assets.errors import LakehouseError
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN
from assets.lakehouse.local import LocalLakehouse
from assets.settings import Settings
from assets.sync import CommitInfo
from tests.assets.lakehouse.conftest import SILVER, Stage, delta_table, merge_scratch

UTC_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("price", pa.decimal128(38, 10)),
        ("seen", pa.timestamp("us")),
        ("at", UTC_TIME),
        ("day", pa.date32()),
        ("raw", pa.binary()),
        (RUN, pa.string()),
        (LOADED_AT, UTC_TIME),
        (POSITION, pa.int64()),
        (DELETED_AT, UTC_TIME),
    ]
)
LOADED = datetime(2026, 11, 1, tzinfo=UTC)
LATER = datetime(2026, 11, 2, tzinfo=UTC)


def row(number: int | None, name: str = "old", run: str = "base") -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "price": Decimal("1234567890123456789012345678.0123456789"),
        "seen": datetime(9999, 12, 31, 23, 59, 59, 999999),
        "at": datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        "day": date(1, 1, 1),
        "raw": b"\x00\xff",
        RUN: run,
        LOADED_AT: LOADED,
        POSITION: 1,
        DELETED_AT: None,
    }


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def upsert(
    lakehouse: LocalLakehouse, tag: str, rows: Sequence[dict[str, Any]], gone: Sequence[int | None] = ()
) -> CommitInfo:
    key_rows = pa.table(
        {
            "id": pa.array(gone, pa.int64()),
            RUN: pa.array([tag] * len(gone), pa.string()),
            LOADED_AT: pa.array([LATER] * len(gone), UTC_TIME),
            POSITION: pa.array([2] * len(gone), pa.int64()),
        }
    )
    return lakehouse.upsert(
        SILVER, iter(table(rows).to_batches()), iter(key_rows.to_batches()), SCHEMA, key=["id"], tag=tag
    )


def plain(lakehouse: LocalLakehouse) -> bool:
    return "deletionVectors" not in (delta_table(lakehouse, SILVER).protocol().reader_features or ())


def stored(lakehouse: LocalLakehouse, *, live: bool = True) -> list[dict[str, Any]]:
    with lakehouse.scan(SILVER, live=live) as reader:
        return sorted(reader.read_all().to_pylist(), key=lambda r: (r["id"] is None, r["id"]))


@pytest.fixture(params=["rewrites", "marks"])
def lakehouse(lake_settings: Settings, request: pytest.FixtureRequest) -> LocalLakehouse:
    """Files are rewritten, or their rows are marked as gone by deletion vectors."""
    rewrites = {"rewrites": 32, "marks": 0}[request.param]
    return LocalLakehouse.from_settings(lake_settings.model_copy(update={"rewrite_mb": rewrites}))


@pytest.fixture
def loaded(lakehouse: LocalLakehouse, stage: Stage) -> LocalLakehouse:
    """Ids 0 to 9 in one file, 10 to 19 in another, one NULL key."""
    parts = stage("base", table([row(i) for i in range(10)]), table([*(row(i) for i in range(10, 20)), row(None)]))
    lakehouse.commit(SILVER, parts, SCHEMA, tag="base", replace=True)
    return lakehouse


def test_only_files_with_touched_keys_are_rewritten_and_values_stay_exact(loaded: LocalLakehouse) -> None:
    before = set(delta_table(loaded, SILVER).file_uris())
    commit = upsert(loaded, "a", [row(3, "new", "a"), row(100, "new", "a")])
    after = set(delta_table(loaded, SILVER).file_uris())
    assert len(before & after) == (1 if plain(loaded) else 2)
    assert commit.rows_total == 22
    expected = [row(i) if i != 3 else row(3, "new", "a") for i in range(20)] + [row(100, "new", "a"), row(None)]
    assert stored(loaded) == expected
    assert loaded.schema(SILVER).types == SCHEMA.types
    assert upsert(loaded, "a", [row(3, "twice")]).repeated
    assert stored(loaded) == expected


def test_staged_parts_become_the_tables_files_and_only_their_keys_are_read(
    loaded: LocalLakehouse, stage: Stage
) -> None:
    def unread() -> Iterator[pa.RecordBatch]:
        raise AssertionError("the changes were read beside their parts")
        yield

    changed = [[row(3, "new", "a"), row(12, "new", "a")], [row(None, "new", "a"), row(100, "new", "a")]]
    parts = stage("a", *(table(rows).drop_columns([DELETED_AT]) for rows in changed))  # as Bronze has them
    commit = loaded.upsert(SILVER, unread(), iter(()), SCHEMA, key=["id"], tag="a", parts=parts)
    assert commit.rows_total == 22
    new = {3: row(3, "new", "a"), 12: row(12, "new", "a")}
    expected = [new.get(i, row(i)) for i in range(20)] + [row(100, "new", "a"), row(None, "new", "a")]
    assert stored(loaded) == expected and loaded.count_live(SILVER) == 22
    twice = stage("b", table([row(5, "one")]), table([row(5, "other")]))
    with pytest.raises(LakehouseError, match=r"key \(id\) is not unique.*5"):
        loaded.upsert(SILVER, unread(), iter(()), SCHEMA, key=["id"], tag="b", parts=twice)
    assert stored(loaded) == expected


def test_deleted_rows_keep_their_values_and_a_key_that_returns_is_live_again(loaded: LocalLakehouse) -> None:
    upsert(loaded, "a", [], [4, 5, 999])
    assert [r["id"] for r in stored(loaded)] == [i for i in range(20) if i not in (4, 5)] + [None]
    assert loaded.count_live(SILVER) == 19
    gone = stored(loaded, live=False)[4]
    assert gone == {**row(4), RUN: "a", LOADED_AT: LATER, POSITION: 2, DELETED_AT: LATER}
    upsert(loaded, "b", [row(4, "back", "b")])
    assert loaded.count_live(SILVER) == 20
    assert [r for r in stored(loaded, live=False) if r["id"] == 4] == [row(4, "back", "b")]


def test_null_keys_match_null_keys(loaded: LocalLakehouse) -> None:
    upsert(loaded, "a", [row(None, "new", "a")])
    assert [r["name"] for r in stored(loaded) if r["id"] is None] == ["new"]


def test_a_key_that_occurs_twice_is_refused_by_name_and_changes_nothing(loaded: LocalLakehouse) -> None:
    with pytest.raises(LakehouseError, match=r"key \(id\) is not unique.*7"):
        upsert(loaded, "a", [row(7, "x"), row(7, "y")])
    assert loaded.count_live(SILVER) == 21
    assert [r["name"] for r in stored(loaded) if r["id"] == 7] == ["old"]


def test_an_upsert_leaves_no_scratch_file(loaded: LocalLakehouse, lake_settings: Settings) -> None:
    loaded.clear_staging("shop", "public.orders")
    upsert(loaded, "a", [row(1, "new", "a")])
    assert merge_scratch(loaded, lake_settings.home_path) == []
