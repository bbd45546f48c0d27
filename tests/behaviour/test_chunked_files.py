"""Large tables of files in chunks: each file once, whatever died and whatever was stored in between."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.settings import Settings
from assets.sync import ChunkedRead, TableSync, WindowPlan
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.bucket import Bucket
from tests.behaviour.test_table_options import assert_nowhere
from tests.behaviour.worker_runs import activity_tries, missed_soon
from tests.servers.s3_server import S3Server

TABLE = "files.orders"
FILES, ROWS = 9, 1_500
WHOLE_ROWS = 20_000
"""A row group of so many is stored as it is."""
ALL_ROWS = WHOLE_ROWS + (FILES - 1) * ROWS


@lru_cache
def rows_of(number: int, rows: int = ROWS) -> pa.Table:
    random = np.random.default_rng(number)
    width = 600_000 // max(rows, ROWS)
    text = random.bytes(rows * width // 2).hex()
    return pa.table(
        {
            "id": np.arange(number * 1_000_000, number * 1_000_000 + rows),
            "price": random.random(rows),
            "note": [text[row * width : (row + 1) * width] for row in range(rows)],
        }
    )


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Parquet files of about half a MiB, read in chunks of 1 MiB."""
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    bucket = Bucket(s3_server, tmp_path / "home", chunk_mb=1)
    bucket.put("orders/00.parquet", rows_of(0, WHOLE_ROWS))
    for number in range(1, FILES):
        bucket.put(f"orders/{number:02d}.parquet", rows_of(number))
    return bucket


def begun(bucket: Bucket) -> tuple[TableSync, WindowPlan, ChunkedRead]:
    steps = bucket.installation.steps
    work = bucket.installation.work(TABLE)
    plan = steps.open_window(work)
    assert plan.chunked
    read = steps.begin_chunks(work, plan, 1)
    assert read.chunks >= 4
    return work, plan, read


def streams(bucket: Bucket, manifest: str) -> dict[str, int]:
    """Rows of the manifest's parts by the stream that wrote them."""
    found: dict[str, int] = {}
    for part in bucket.installation.steps.lakehouse.read_manifest(manifest).parts:
        stream = Path(part.uri).parent.name.rpartition("-a")[0]
        found[stream] = found.get(stream, 0) + part.rows
    return found


def ids(bucket: Bucket) -> set[tuple[str, int]]:
    return {(file, id // 1_000_000) for file, id in bucket.installation.silver(TABLE, "_file", "id")}


def test_every_file_is_in_one_chunk_and_nothing_is_read_again(bucket: Bucket) -> None:
    lake = bucket.installation
    work, _, read = begun(bucket)
    for number in range(read.chunks):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    manifest = lake.steps.finish_chunks(work, read.uri, 1)
    found = streams(bucket, manifest)
    assert set(found) == {f"chunk-{number}" for number in range(read.chunks)}
    assert sum(found.values()) == ALL_ROWS
    result = lake.finish(work, manifest)
    assert (result.equal, result.rows_read, result.rows_silver) == (True, ALL_ROWS, ALL_ROWS)
    assert lake.verify(TABLE).equal is True
    nothing = lake.sync(TABLE)
    assert (nothing.mode, nothing.rows_read, nothing.equal) == ("incremental", 0, True)


def test_protected_values_of_files_are_in_no_chunk(bucket: Bucket) -> None:
    lake, choice = bucket.installation, {"hash": ["note"], "mask": ["price"]}
    assert lake.steps.open_window(lake.work(TABLE, columns=choice)).chunked
    result = lake.sync(TABLE, columns=choice)
    assert (result.equal, result.rows_read) == (True, ALL_ROWS)
    assert lake.verify(TABLE).equal is True
    assert all(len(note) == 64 and price == "***" for note, price in lake.silver(TABLE, "note", "price"))
    assert_nowhere(lake, *(rows_of(number)["note"][0].as_py()[:40].encode() for number in range(1, FILES)))


def test_a_filtered_table_is_read_in_chunks_and_stays_exact_when_files_are_overwritten_meanwhile(
    bucket: Bucket,
) -> None:
    lake = bucket.installation
    work = lake.work(TABLE, row_filter="id >= 3000100")
    plan = lake.steps.open_window(work)
    assert plan.chunked
    read = lake.steps.begin_chunks(work, plan, 1)
    for number in range(read.chunks - 1):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    bucket.put("orders/04.parquet", rows_of(50, 10))
    bucket.put("orders/05.parquet", rows_of(1, 10))
    bucket.delete(f"orders/{FILES - 1:02d}.parquet")
    lake.steps.extract_chunk(work, read.uri, read.chunks - 1, 1)
    result = lake.finish(work, lake.steps.finish_chunks(work, read.uri, 1))
    rows = (ROWS - 100) + 10 + (FILES - 7) * ROWS
    assert (result.equal, result.rows_read, result.rows_silver) == (True, rows, rows)
    assert {file for file, _ in ids(bucket)} == {f"orders/{number:02d}.parquet" for number in (3, 4, 6, 7)}
    assert lake.verify(TABLE).equal is True
    bucket.put("orders/06.parquet", rows_of(6, 7))
    bucket.put("orders/07.parquet", rows_of(2, 10))
    after = lake.sync(TABLE)
    assert (after.mode, after.rows_read, after.rows_deleted) == ("incremental", 7, 2 * ROWS - 7)
    assert (after.equal, after.rows_silver, lake.verify(TABLE).equal) == (True, rows - 2 * ROWS + 7, True)
    nothing = lake.sync(TABLE)
    assert (nothing.rows_read, nothing.equal, nothing.rows_silver) == (0, True, after.rows_silver)
    bucket.delete("orders/03.parquet")
    assert lake.sync(TABLE).equal is False
    left = lake.sync(TABLE, deletes="keys")
    assert (left.equal, left.rows_silver, lake.verify(TABLE).equal) == (True, 17, True)


def test_only_what_was_overwritten_deleted_or_added_meanwhile_is_read_again(bucket: Bucket) -> None:
    lake = bucket.installation
    work, _, read = begun(bucket)
    for number in range(read.chunks - 1):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    bucket.put("orders/00.parquet", rows_of(50, 10))
    bucket.delete(f"orders/{FILES - 1:02d}.parquet")
    bucket.put("orders/late.parquet", rows_of(99, 1))
    lake.steps.extract_chunk(work, read.uri, read.chunks - 1, 1)
    manifest = lake.steps.finish_chunks(work, read.uri, 1)
    again = {name: rows for name, rows in streams(bucket, manifest).items() if name.endswith("-again")}
    assert set(again) == {"chunk-0-again", f"chunk-{read.chunks}-again"}
    assert again[f"chunk-{read.chunks}-again"] == 1
    result = lake.finish(work, manifest)
    rows = (FILES - 2) * ROWS + 11
    assert (result.equal, result.rows_read, result.rows_silver) == (True, rows, rows)
    assert ids(bucket) == {("orders/00.parquet", 50), ("orders/late.parquet", 99)} | {
        (f"orders/{number:02d}.parquet", number) for number in range(1, FILES - 1)
    }
    assert lake.verify(TABLE).equal is True
    assert lake.sync(TABLE, deletes="keys").rows_read == 0


def test_an_end_that_died_begins_again_with_what_is_noted(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket.installation
    work, _, read = begun(bucket)
    for number in range(read.chunks - 2):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    bucket.put("orders/00.parquet", rows_of(50, 10))
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "during_finish_chunks=error")
    with pytest.raises(Exception, match="during_finish_chunks"):
        lake.steps.finish_chunks(work, read.uri, 1)
    monkeypatch.delenv("HEADRACE_FAILPOINTS")
    bucket.put("orders/01.parquet", rows_of(51, 10))
    manifest = lake.steps.finish_chunks(work, read.uri, 2)
    assert lake.finish(work, manifest).equal is True
    assert lake.verify(TABLE).equal is True
    assert {("orders/00.parquet", 50), ("orders/01.parquet", 51)} < ids(bucket)


def test_a_file_with_a_column_that_came_meanwhile_is_left_for_the_next_sync(bucket: Bucket) -> None:
    lake = bucket.installation
    work, _, read = begun(bucket)
    bucket.put("orders/03.parquet", rows_of(3).append_column("colour", pa.array(["red"] * ROWS)))
    for number in range(read.chunks):
        lake.steps.extract_chunk(work, read.uri, number, 1)
    manifest = lake.steps.finish_chunks(work, read.uri, 1)
    assert lake.finish(work, manifest).rows_read == ALL_ROWS - ROWS
    second = lake.sync(TABLE)
    assert (second.rows_read, second.equal) == (ROWS, True)
    assert {colour for (colour,) in lake.silver(TABLE, "colour")} == {None, "red"}
    assert lake.verify(TABLE).equal is True


def test_a_key_of_the_users_own_and_increments_are_read_as_a_whole(bucket: Bucket) -> None:
    lake = bucket.installation
    lake.configure(bucket.config(tables=[{"name": "orders", "glob": "orders/*", "key": ["id"]}]))
    assert lake.steps.open_window(lake.work(TABLE)).chunked is False
    lake.configure(bucket.config())
    assert lake.sync(TABLE).equal is True
    bucket.put("orders/13.parquet", rows_of(13))
    plan = lake.steps.open_window(lake.work(TABLE))
    assert (plan.mode, plan.chunked) == ("incremental", False)


def test_a_worker_killed_in_a_chunk_leaves_the_finished_chunks(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed_soon(monkeypatch, tmp_path)
    monkeypatch.setenv("HEADRACE_CHUNK_MB", "1")
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "after_chunk_note=kill,during_finish_chunks=error")
    lake, settings = bucket.installation, Settings()
    with LocalStack(settings).start(temporal=True, worker=True, dagster=False) as stack:
        (result,) = Headrace(settings=settings).sync("src", [TABLE]).tables
        tries = activity_tries(stack.temporal_address, str(result.workflow_id))["extract_chunk"]
    attempts = [attempt for _, attempt in tries]
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ALL_ROWS)
    assert {path.name for path in (tmp_path / "fired").iterdir()} == {"after_chunk_note"}
    assert attempts.count(2) <= 2  # two were being read
    assert lake.verify(TABLE).equal is True
