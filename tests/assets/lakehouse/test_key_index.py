"""Key indexes: an upsert finds its rows by them, whatever the keys are, and as it does without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.lakehouse import key_index, key_merge, retention
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN
from assets.lakehouse.key_index import KEY_INDEXES, indexed_file
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse.storage import FolderStorage
from assets.settings import Settings
from tests.assets.lakehouse.conftest import SILVER, Stage, live_files
from tests.assets.lakehouse.test_upsert import LATER, LOADED, UTC_TIME

LEAST, MOST = -(1 << 63), (1 << 63) - 1
RUN_ROWS = 64
Key = tuple[Any, ...]


@pytest.fixture(autouse=True)
def small_files_are_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several runs each."""
    monkeypatch.setattr(key_index, "INDEXED_ROWS", 1)
    monkeypatch.setattr(key_index, "RUN_ROWS", RUN_ROWS)


@pytest.fixture
def lakehouse(lake_settings: Settings) -> LocalLakehouse:
    return LocalLakehouse.from_settings(lake_settings.model_copy(update={"rewrite_mb": 0}))


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files of which an upsert reads the stored keys."""
    read: list[str] = []

    def counted(storage: Any, address: str, *rest: Any) -> Iterator[tuple[int, pa.RecordBatch]]:
        read.append(address.rsplit("/", 1)[-1])
        return numbered(storage, address, *rest)

    numbered = key_index.numbered_batches
    for module in (key_index, key_merge):
        monkeypatch.setattr(module, "numbered_batches", counted)
    return read


def schema_of(types: list[pa.DataType]) -> pa.Schema:
    key = [pa.field(f"k{i}", kind) for i, kind in enumerate(types)]
    stamps = [(RUN, pa.string()), (LOADED_AT, UTC_TIME), (POSITION, pa.int64()), (DELETED_AT, UTC_TIME)]
    return pa.schema([*key, pa.field("value", pa.int64()), *(pa.field(*stamp) for stamp in stamps)])


def rows_of(rows: dict[Key, int], schema: pa.Schema) -> pa.Table:
    names = schema.names
    stamps = {RUN: "run", LOADED_AT: LOADED, POSITION: 1, DELETED_AT: None}
    return pa.Table.from_pylist(
        [{**dict(zip(names, key, strict=False)), "value": value, **stamps} for key, value in rows.items()], schema
    )


def upsert(
    lakehouse: LocalLakehouse, schema: pa.Schema, tag: str, rows: dict[Key, int], gone: Sequence[Key] = ()
) -> None:
    deletes = rows_of(dict.fromkeys(gone, 0), schema)
    deletes = deletes.set_column(
        deletes.schema.get_field_index(LOADED_AT), LOADED_AT, pa.array([LATER] * len(gone), UTC_TIME)
    )
    key = [name for name in schema.names if name.startswith("k")]
    batches = iter(rows_of(rows, schema).to_batches())
    lakehouse.upsert(SILVER, batches, iter(deletes.to_batches()), schema, key=key, tag=tag)


def load(lakehouse: LocalLakehouse, schema: pa.Schema, rows: dict[Key, int]) -> None:
    upsert(lakehouse, schema, "base", rows)
    lakehouse.index_keys(SILVER, [name for name in schema.names if name.startswith("k")])


def stored(lakehouse: LocalLakehouse) -> dict[Key, int]:
    with lakehouse.scan(SILVER) as reader:
        rows = reader.read_all()
    width = rows.schema.names.index("value")
    columns = [column.to_pylist() for column in rows.columns[: width + 1]]
    found = {values[:width]: values[width] for values in zip(*columns, strict=True)}
    assert len(found) == rows.num_rows, "a key is there twice"
    return found


def indexes(lakehouse: LocalLakehouse) -> list[str]:
    return [file.name for file in lakehouse.storage.files(f"{lakehouse.uri(SILVER)}/{KEY_INDEXES}")]


def days(number: int) -> date:
    return date(1, 1, 1) + timedelta(days=number)


def moments(number: int) -> datetime:
    return datetime(1900, 1, 1, tzinfo=UTC) + timedelta(microseconds=number * 7919)


NUMBERS: list[tuple[str, list[pa.DataType], Callable[[int], Key], bool]] = [
    ("int64", [pa.int64()], lambda i: (i * 3 - 200,), True),
    ("int64, the ends", [pa.int64()], lambda i: (LEAST + i if i % 2 else MOST - i,), False),
    ("int64, nearly half of them", [pa.int64()], lambda i: (LEAST + i if i % 2 else -1 - i,), True),
    ("int16 and int32", [pa.int16(), pa.int32()], lambda i: (i % 7 - 3, i // 7 - 40), True),
    ("two int64 that are far apart", [pa.int64(), pa.int64()], lambda i: (i << 54, i), False),
    ("date", [pa.date32()], lambda i: (days(i * 2),), True),
    ("timestamp", [UTC_TIME], lambda i: (moments(i),), True),
    ("decimal(38, 0), small", [pa.decimal128(38, 0)], lambda i: (Decimal(i * 10**15 - 10**17),), True),
    (
        "decimal(20, 2) and date",
        [pa.decimal128(20, 2), pa.date32()],
        lambda i: (Decimal(i % 9) / 4, days(i // 9)),
        True,
    ),
    ("decimal(38, 0), of 20 digits", [pa.decimal128(38, 0)], lambda i: (Decimal(10**19 + i),), False),
    ("text", [pa.string()], lambda i: (f"k{i}",), False),
    ("text and int64", [pa.string(), pa.int64()], lambda i: (f"k{i % 3}", i), False),
]


@pytest.mark.parametrize("order", ["ascending", "shuffled"])
@pytest.mark.parametrize(
    ("types", "key_of", "found"), [case[1:] for case in NUMBERS], ids=[case[0] for case in NUMBERS]
)
def test_random_upserts_by_every_kind_of_key_leave_what_a_dictionary_holds(
    tmp_path: Path,
    read_files: list[str],
    types: list[pa.DataType],
    key_of: Callable[[int], Key],
    found: bool,
    order: str,
) -> None:
    lakehouse = LocalLakehouse(str(tmp_path / "lake"), str(tmp_path / "staging"), tmp_path / "scratch", rewrite_bytes=0)
    chance = random.Random(f"{types} {order}")
    schema = schema_of(types)
    numbers = list(range(300))
    if order == "shuffled":
        chance.shuffle(numbers)
    expected = {key_of(number): 0 for number in numbers}
    load(lakehouse, schema, expected)
    serves = "string" not in map(str, types)
    assert {indexed_file(name) for name in indexes(lakehouse)} == (live_files(lakehouse, SILVER) if serves else set())
    for number in range(8):
        read_files.clear()
        known = live_files(lakehouse, SILVER)
        if serves:  # a file that has no index yet is read once
            known &= {indexed_file(name) for name in indexes(lakehouse)}
        changed = {key_of(n): number + 1 for n in chance.sample(range(360), 30)}
        gone = [key_of(n) for n in chance.sample(range(360), 10)]
        upsert(lakehouse, schema, f"run-{number}", changed, [key for key in gone if key not in changed])
        for key in gone:
            expected.pop(key, None)
        expected |= changed
        assert stored(lakehouse) == expected
        assert bool(known & set(read_files)) is (bool(known) and not found)
    assert lakehouse.count_live(SILVER) == len(expected)


def test_null_keys_are_found_although_no_index_holds_them(lakehouse: LocalLakehouse) -> None:
    schema = schema_of([pa.int64()])
    expected: dict[Key, int] = {(number,): 0 for number in range(100)}
    load(lakehouse, schema, expected)
    upsert(lakehouse, schema, "null", {(None,): 1, (5000,): 1})
    upsert(lakehouse, schema, "again", {(None,): 2, (7,): 2, (9000,): 2})
    assert stored(lakehouse) == expected | {(None,): 2, (5000,): 1, (7,): 2, (9000,): 2}
    upsert(lakehouse, schema, "gone", {}, [(None,), (8,)])
    assert (None,) not in stored(lakehouse) and (8,) not in stored(lakehouse)


def test_decimals_beyond_64_bits_are_found_beside_smaller_ones(lakehouse: LocalLakehouse) -> None:
    schema = schema_of([pa.decimal128(38, 0)])
    small, large = (Decimal(5),), (Decimal(5 + (1 << 64)),)  # alike in their lower 64 bits
    upsert(lakehouse, schema, "small", {small: 1})
    upsert(lakehouse, schema, "large", {large: 1})
    upsert(lakehouse, schema, "both", {large: 2})
    assert stored(lakehouse) == {small: 1, large: 2}
    upsert(lakehouse, schema, "other", {small: 3})
    assert stored(lakehouse) == {small: 3, large: 2}


def test_a_key_that_a_file_holds_twice_is_found_at_both_places(lakehouse: LocalLakehouse, stage: Stage) -> None:
    """Once it is replaced it is there once."""
    schema = schema_of([pa.int64()])
    twice = pa.concat_tables([rows_of({(n,): v for n in range(100)}, schema) for v in (1, 2)])
    lakehouse.commit(SILVER, stage("base", twice), schema, tag="base", replace=True)
    upsert(lakehouse, schema, "a", {(number,): 3 for number in range(100)})
    assert stored(lakehouse) == {(number,): 3 for number in range(100)}


def test_places_of_codes_that_repeat() -> None:
    codes = np.array([3, 5, 5, 5, 8, 9, 9, 12], dtype=np.int64)
    wanted = np.array([1, 3, 5, 7, 9, 12, 13], dtype=np.int64)
    places, which = key_index._places(codes, wanted)
    pairs = list(zip(places.tolist(), wanted[which].tolist(), strict=True))
    assert pairs == [(0, 3), (1, 5), (2, 5), (3, 5), (5, 9), (6, 9), (7, 12)]


def test_indexes_that_are_lost_or_damaged_are_made_again(
    lakehouse: LocalLakehouse, caplog: pytest.LogCaptureFixture
) -> None:
    schema = schema_of([pa.int64()])
    expected: dict[Key, int] = {(number,): 0 for number in range(300)}
    load(lakehouse, schema, expected)
    folder = f"{lakehouse.uri(SILVER)}/{KEY_INDEXES}"
    (name,) = indexes(lakehouse)
    with lakehouse.storage.open_input(f"{folder}/{name}") as opened:
        whole = opened.read()
    codes = pq.read_metadata(pa.BufferReader(whole)).row_group(0).column(0)
    middle = codes.data_page_offset + codes.total_compressed_size - 9
    damages = [
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        whole[: len(whole) // 2],
        whole.replace(b'"rows": 64', b'"rows": 63'),
        whole.replace(b'"span"', b'"wide"'),  # as of another version
        b"",
    ]
    for number, damaged in enumerate(damages):
        assert damaged != whole
        with lakehouse.storage.open_output(f"{folder}/{name}") as file:
            file.write(damaged)
        expected[(number,)] = number + 1
        caplog.clear()
        upsert(lakehouse, schema, f"run-{number}", {(number,): number + 1})
        assert stored(lakehouse) == expected
        assert f"{name} is made again" in caplog.text
        (name,) = (other for other in indexes(lakehouse) if indexed_file(other) == indexed_file(name))
    lakehouse.storage.delete_folder(folder)
    upsert(lakehouse, schema, "lost", {(200,): 9})
    assert stored(lakehouse) == expected | {(200,): 9}


def test_an_index_of_the_key_under_other_types_is_not_taken(lakehouse: LocalLakehouse) -> None:
    narrow, wide = schema_of([pa.decimal128(10, 1)]), schema_of([pa.decimal128(12, 2)])
    load(lakehouse, narrow, {(Decimal(n) / 2,): 0 for n in range(100)})
    (file,) = lakehouse._existing(SILVER).files
    names = [
        key_index.KeyIndexes(lakehouse.storage, "t", pa.schema([schema.field("k0")]))._suffix
        for schema in (narrow, wide)
    ]
    assert names[0] != names[1] and indexes(lakehouse)[0].startswith(file.path + names[0])


def test_an_index_goes_with_its_data_file(lakehouse: LocalLakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHECKPOINT_EVERY", 1)
    schema = schema_of([pa.int64()])
    load(lakehouse, schema, {(number,): 0 for number in range(100)})
    (first,) = indexes(lakehouse)
    draft = f"{lakehouse.uri(SILVER)}/{KEY_INDEXES}/{first}.tmp"  # of a process that died
    with lakehouse.storage.open_output(draft) as file:
        file.write(b"begun")
    upsert(lakehouse, schema, "half", {(number,): 1 for number in range(50)})  # a third is marked: written anew
    assert indexed_file(first) not in live_files(lakehouse, SILVER) and first in indexes(lakehouse)
    lakehouse._retention_hours = -1  # as if it were later
    upsert(lakehouse, schema, "last", {(number,): 2 for number in range(60, 70)})
    left = {indexed_file(name) for name in indexes(lakehouse)}
    assert left and left <= live_files(lakehouse, SILVER)


def test_two_upserts_at_once_that_index_the_same_file_both_hold(tmp_path: Path) -> None:
    """Each writes an index under a name of its own."""
    lakehouse = LocalLakehouse(str(tmp_path / "lake"), str(tmp_path / "staging"), tmp_path / "scratch", rewrite_bytes=0)
    schema = schema_of([pa.int64()])
    load(lakehouse, schema, {(number,): 0 for number in range(100)})
    lakehouse.storage.delete_folder(f"{lakehouse.uri(SILVER)}/{KEY_INDEXES}")
    files = lakehouse._existing(SILVER).files
    key = pa.schema([schema.field("k0")])
    both = [key_index.KeyIndexes(FolderStorage(), lakehouse.uri(SILVER), key) for _ in range(2)]
    assert [one._address_of(files[0]) for one in both] == [None, None]
    for one in both:
        one.add(files)
    assert len(indexes(lakehouse)) == 2
    upsert(lakehouse, schema, "a", {(3,): 1})
    assert stored(lakehouse)[(3,)] == 1
