"""A first load of many Parquet files: a sample plans it, each file is asked once, and none is read under columns that
it does not fit."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.sources.object_files import LOOKED_AT_FIRST
from assets.sources.object_store import StoredObject
from assets.sources.s3 import S3Store
from assets.sync import TableResult
from assets.table_planning import plan_table
from tests.behaviour.bucket import Bucket
from tests.servers.s3_server import S3Server

TABLE = "files.t"
FILES, ROWS = 80, 20
UNSEEN = 1
"""The number of a file that is not in the sample: every other one is, about."""
TOLD = "columns came that a sample of the files did not show"


@lru_cache
def rows_of(number: int) -> pa.Table:
    text = np.random.default_rng(number).bytes(20_000).hex()  # so that 80 files are some MiB
    return pa.table(
        {
            "id": np.arange(number * ROWS, (number + 1) * ROWS),
            "n": pa.array(range(ROWS), pa.int32()),
            "text": [text[row * 2_000 : (row + 1) * 2_000] for row in range(ROWS)],
        }
    )


ODD = {
    "a new column": rows_of(UNSEEN).append_column("extra", pa.array(["x"] * ROWS)),
    "a wider type": rows_of(UNSEEN).set_column(1, "n", pa.array([2**40 + row for row in range(ROWS)])),
    "another type": rows_of(UNSEEN).set_column(1, "n", pa.array([f"n{row}" for row in range(ROWS)])),
}


@pytest.fixture(params=["whole", "in chunks"])
def bucket(
    request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bucket:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    bucket = Bucket(s3_server, tmp_path / "home", **({"chunk_mb": 1} if request.param == "in chunks" else {}))
    for number in range(FILES):
        bucket.put(f"t/{number:02d}.parquet", rows_of(number))
    return bucket


def loaded(bucket: Bucket, moves: list[int] | None = None) -> TableResult:
    """A first load by the steps, in chunks where the plan says so. ``moves``: what the last step reported."""

    def progress(rows: int, size: int) -> None:
        if moves is not None:
            moves.append(rows)

    lake = bucket.installation
    work = lake.work(TABLE)
    plan = lake.steps.open_window(work)
    assert plan.table.sampled
    assert plan.chunked == (lake.steps.settings.chunk_mb == 1)
    if not plan.chunked:
        return lake.finish(work, lake.steps.extract(work, plan, 1, progress))
    read = lake.steps.begin_chunks(work, plan, 1)
    for number in range(read.chunks):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    lake.steps.finish_chunks(work, read.uri, 1)  # its result was lost: the step comes again
    return lake.finish(work, lake.steps.finish_chunks(work, read.uri, 2, progress))


def test_each_file_is_asked_once_and_those_of_the_sample_twice(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    read = S3Store.read

    def counted(store: S3Store, found: StoredObject, start: int, length: int) -> bytes:
        asked[found.key] += 1
        return read(store, found, start, length)

    monkeypatch.setattr(S3Store, "read", counted)
    result = loaded(bucket)
    assert (result.equal, result.rows_read, result.rows_silver) == (True, FILES * ROWS, FILES * ROWS)
    assert Counter(asked.values()) == {2: LOOKED_AT_FIRST, 1: FILES - LOOKED_AT_FIRST}
    assert asked[f"t/{UNSEEN:02d}.parquet"] == 1
    assert TOLD not in result.reason
    lake = bucket.installation
    nothing = lake.sync(TABLE)
    assert (nothing.mode, nothing.rows_read, nothing.equal) == ("incremental", 0, True)
    assert sum(asked.values()) == FILES + LOOKED_AT_FIRST, "what was learned by reading is known"
    assert lake.verify(TABLE).equal is True


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_file_that_the_samples_columns_do_not_hold_has_the_load_planned_anew(bucket: Bucket, odd: pa.Table) -> None:
    bucket.put(f"t/{UNSEEN:02d}.parquet", odd)
    moves: list[int] = []
    result = loaded(bucket, moves)
    assert moves.count(0) >= FILES, "the step lives while it asks all files"
    assert (result.equal, result.rows_read, result.unfit_values) == (True, FILES * ROWS, 0)
    assert TOLD in result.reason
    lake = bucket.installation
    kind = {"a new column": "int32", "a wider type": "int64", "another type": "string"}
    (name,) = [name for name, table in ODD.items() if table is odd]
    assert lake.types(TABLE)["n"] == kind[name]
    assert lake.bronze_rows(TABLE) == FILES * ROWS
    if name == "a new column":
        found = {(id, extra) for id, extra in lake.silver(TABLE, "id", "extra") if extra}
        assert found == {(id, "x") for id in range(UNSEEN * ROWS, (UNSEEN + 1) * ROWS)}
    assert lake.verify(TABLE).equal is True
    nothing = lake.sync(TABLE)
    assert (nothing.mode, nothing.rows_read, nothing.equal) == ("incremental", 0, True)


def test_a_file_with_another_column_that_comes_while_chunks_are_read_is_part_of_the_load(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    bucket = Bucket(s3_server, tmp_path / "home", chunk_mb=1)
    for number in range(FILES):
        bucket.put(f"t/{number:02d}.parquet", rows_of(number))
    lake = bucket.installation
    work = lake.work(TABLE)
    read = lake.steps.begin_chunks(work, lake.steps.open_window(work), 1)
    for number in range(read.chunks):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    bucket.put("t/late.parquet", ODD["a new column"])
    result = lake.finish(work, lake.steps.finish_chunks(work, read.uri, 1))
    assert (result.equal, result.rows_read) == (True, (FILES + 1) * ROWS)
    assert lake.verify(TABLE).equal is True


def test_where_columns_are_named_all_files_tell_theirs_first(bucket: Bucket) -> None:
    bucket.put(f"t/{UNSEEN:02d}.parquet", ODD["a new column"])
    lake = bucket.installation
    plan = lake.steps.open_window(lake.work(TABLE, row_filter="extra = 'x'"))
    assert not plan.table.sampled
    result = lake.sync(TABLE, row_filter="extra = 'x'")
    assert (result.equal, result.rows_silver) == (True, ROWS)


def test_the_plan_of_a_first_load_estimates_its_rows_by_the_sample(bucket: Bucket) -> None:
    lake = bucket.installation
    plan = plan_table(lake.settings, lake.steps.catalog, lake.steps.lakehouse, lake.work(TABLE))
    assert plan.error is None and plan.rows is not None
    assert abs(plan.rows - FILES * ROWS) < ROWS
    assert bool(plan.chunks) == (lake.settings.chunk_mb == 1)
