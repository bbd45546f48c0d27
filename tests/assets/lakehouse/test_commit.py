"""Commits of staged parts: atomic, idempotent by tag, readable by other Delta readers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pydantic import SecretStr

from assets.errors import ConfigurationError, LakehouseError
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse.retention import remove_expired_files
from assets.settings import Settings
from assets.sync import Watermark
from tests.assets.lakehouse.conftest import BRONZE, Stage, data_files, delta_table, live_files


def numbers(start: int, stop: int) -> pa.Table:
    return pa.table({"id": pa.array(range(start, stop), pa.int64()), "name": [f"row {i}" for i in range(start, stop)]})


def ids(lakehouse: LocalLakehouse) -> list[int]:
    with lakehouse.scan(BRONZE) as reader:
        return sorted(reader.read_all()["id"].to_pylist())


def test_a_repeated_tag_adds_nothing(lakehouse: LocalLakehouse, stage: Stage) -> None:
    rows = numbers(0, 10)
    parts = stage("a", rows)
    first = lakehouse.commit(BRONZE, parts, rows.schema, tag="a", replace=False)
    again = lakehouse.commit(BRONZE, parts, rows.schema, tag="a", replace=False)
    assert (first.rows_added, first.repeated, again.repeated) == (10, False, True)
    assert ids(lakehouse) == list(range(10))


def test_replace_swaps_the_content_in_one_commit(lakehouse: LocalLakehouse, stage: Stage) -> None:
    rows, other = numbers(0, 10), numbers(50, 53)
    first = lakehouse.commit(BRONZE, stage("a", rows), rows.schema, tag="a", replace=True)
    second = lakehouse.commit(BRONZE, stage("b", other), other.schema, tag="b", replace=True)
    assert (second.version, second.rows_removed, second.rows_total) == (first.version + 1, 10, 3)
    assert ids(lakehouse) == [50, 51, 52]


def test_rows_of_a_run_are_those_its_commit_added(lakehouse: LocalLakehouse, stage: Stage) -> None:
    first, second = numbers(0, 3), numbers(3, 7)
    lakehouse.commit(BRONZE, stage("a", first), first.schema, tag="a", replace=False)
    lakehouse.commit(BRONZE, stage("b", second), second.schema, tag="b", replace=False)
    with lakehouse.rows_of_run(BRONZE, "b") as reader:
        assert sorted(reader.read_all()["id"].to_pylist()) == [3, 4, 5, 6]


def test_rivals_with_one_tag_store_their_rows_once(lakehouse: LocalLakehouse, stage: Stage) -> None:
    rows = numbers(0, 1000)
    parts = stage("a", rows)
    with ThreadPoolExecutor(6) as pool:
        commits = list(
            pool.map(lambda _: lakehouse.commit(BRONZE, parts, rows.schema, tag="a", replace=False), range(6))
        )
    assert sorted(commit.repeated for commit in commits) == [False] + [True] * 5
    assert ids(lakehouse) == list(range(1000))


def test_a_late_rival_leaves_the_committed_rows_alone(
    lakehouse: LocalLakehouse, lake_settings: Settings, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled attempt wakes up between the rival's commit and its own: its other parts must not replace the rows."""
    winner, loser = numbers(0, 500), numbers(900, 903)
    winning = stage("winner", winner)
    losing = stage("loser", loser)
    base = numbers(1000, 1001)
    lakehouse.commit(BRONZE, stage("base", base), base.schema, tag="base", replace=False)
    rival = LocalLakehouse.from_settings(lake_settings)
    read = lakehouse._snapshot
    woken = []

    def stalled(table: object) -> object:
        snapshot = read(BRONZE)
        if not woken:
            woken.append(True)
            rival.commit(BRONZE, winning, winner.schema, tag="a", replace=False)
        return snapshot

    monkeypatch.setattr(lakehouse, "_snapshot", stalled)
    assert lakehouse.commit(BRONZE, losing, loser.schema, tag="a", replace=False).repeated
    assert ids(rival) == [*range(500), 1000]
    assert live_files(rival, BRONZE) == data_files(rival, BRONZE)


def test_a_kill_before_the_log_entry_leaves_no_orphan_after_the_retry(
    lakehouse: LocalLakehouse, lake_settings: Settings, stage: Stage
) -> None:
    rows = numbers(0, 100)
    parts = stage("a", rows)
    script = (
        "import sys, pyarrow as pa\n"
        "from assets.lakehouse.local import LocalLakehouse\n"
        "from assets.lakehouse.interface import TableId\n"
        "from assets.settings import Settings\n"
        "from assets.sync import Part\n"
        "LocalLakehouse.from_settings(Settings()).commit(\n"
        "    TableId(layer='bronze', connector='shop', table='public.orders'),\n"
        "    [Part.model_validate_json(sys.argv[1])],\n"
        "    pa.schema([('id', pa.int64()), ('name', pa.string())]), tag='a', replace=False)\n"
    )
    given = {
        f"HEADRACE_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in lake_settings
        if name in lake_settings.model_fields_set
    }
    killed = subprocess.run(
        [sys.executable, "-c", script, parts[0].model_dump_json()],
        env={**os.environ, **given, "HEADRACE_FAILPOINTS": "during_bronze_commit=kill"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert lakehouse.state(BRONZE) is None
    assert data_files(lakehouse, BRONZE)
    lakehouse.commit(BRONZE, parts, rows.schema, tag="a", replace=False)
    assert ids(lakehouse) == list(range(100))
    assert live_files(lakehouse, BRONZE) == data_files(lakehouse, BRONZE)


def test_the_watermark_survives_log_clean_up(lakehouse: LocalLakehouse, stage: Stage) -> None:
    for number in range(40):
        rows = numbers(number, number + 1)
        mark = Watermark(cursor="id", value=str(number))
        lakehouse.commit(
            BRONZE, stage(f"r{number}", rows), rows.schema, tag=f"r{number}", replace=False, watermark=mark
        )
    log = f"{lakehouse.uri(BRONZE)}/_delta_log"
    entries = sorted(file.name for file in lakehouse.storage.files(log))
    newest = max(name.split(".")[0] for name in entries if "checkpoint.parquet" in name)
    for name in entries:
        if name.endswith(".json") and name < newest:
            lakehouse.storage.delete(f"{log}/{name}")
    state = lakehouse.state(BRONZE)
    assert state is not None and state.watermark is not None
    assert (state.watermark.value, state.rows, len(state.tags)) == ("39", 40, 40)
    assert lakehouse.commit(BRONZE, (), numbers(0, 0).schema, tag="r0", replace=False).repeated


def test_a_table_without_rows_exists_with_its_schema(lakehouse: LocalLakehouse) -> None:
    schema = numbers(0, 0).schema
    lakehouse.commit(BRONZE, (), schema, tag="a", replace=True, watermark=Watermark(value="x"))
    state = lakehouse.state(BRONZE)
    assert state is not None and state.watermark is not None
    assert (state.rows, state.files, state.watermark.value) == (0, 0, "x")
    assert lakehouse.schema(BRONZE).names == ["id", "name"]
    assert ids(lakehouse) == []


def test_a_new_column_is_null_in_earlier_rows(lakehouse: LocalLakehouse, stage: Stage) -> None:
    old, new = numbers(0, 2), numbers(2, 4).append_column("price", pa.array([1.5, 2.5]))
    lakehouse.commit(BRONZE, stage("a", old), old.schema, tag="a", replace=False)
    lakehouse.commit(BRONZE, stage("b", new), new.schema, tag="b", replace=False)
    with lakehouse.scan(BRONZE) as reader:
        rows = reader.read_all().sort_by("id")
    assert rows["price"].to_pylist() == [None, None, 1.5, 2.5]


def test_a_changed_type_is_refused_with_the_remedy_and_changes_nothing(lakehouse: LocalLakehouse, stage: Stage) -> None:
    old = numbers(0, 2)
    lakehouse.commit(BRONZE, stage("a", old), old.schema, tag="a", replace=False)
    changed = pa.table({"id": ["x"], "name": ["y"]})
    with pytest.raises(LakehouseError, match=r"(?s)column id .* --mode full"):
        lakehouse.commit(BRONZE, stage("b", changed), changed.schema, tag="b", replace=False)
    assert ids(lakehouse) == [0, 1]
    lakehouse.commit(BRONZE, stage("c", changed), changed.schema, tag="c", replace=True)
    with lakehouse.scan(BRONZE) as reader:
        assert reader.read_all().to_pylist() == [{"id": "x", "name": "y"}]


def test_names_that_differ_only_by_case_are_refused(lakehouse: LocalLakehouse, stage: Stage) -> None:
    rows, twin = numbers(0, 1), pa.table({"ID": pa.array([1], pa.int64()), "name": ["x"]})
    both = pa.table({"id": [1], "ID": [2]})
    with pytest.raises(LakehouseError, match="only by case"):
        lakehouse.commit(BRONZE, stage("x", both), both.schema, tag="x", replace=False)
    lakehouse.commit(BRONZE, stage("a", rows), rows.schema, tag="a", replace=False)
    with pytest.raises(LakehouseError, match="only by case"):
        lakehouse.commit(BRONZE, stage("b", twin), twin.schema, tag="b", replace=False)


def test_other_readers_see_the_same_rows(lakehouse: LocalLakehouse, stage: Stage) -> None:
    rows = numbers(0, 200)
    lakehouse.commit(BRONZE, stage("a", rows, numbers(200, 300)), rows.schema, tag="a", replace=False)
    table = delta_table(lakehouse, BRONZE)
    assert duckdb.from_arrow(table.to_pyarrow_dataset()).aggregate("count(*), sum(id)").fetchone() == (
        300,
        sum(range(300)),
    )
    assert sorted(table.to_pyarrow_table()["id"].to_pylist()) == list(range(300))


def test_replaced_files_go_after_the_retention_and_no_sooner(lakehouse: LocalLakehouse, stage: Stage) -> None:
    for number in range(11):  # version 10 makes the checkpoint
        rows = numbers(number, number + 2)
        lakehouse.commit(BRONZE, stage(f"r{number}", rows), rows.schema, tag=f"r{number}", replace=True)
    uri, live = lakehouse.uri(BRONZE), live_files(lakehouse, BRONZE)
    assert len(data_files(lakehouse, BRONZE)) == 11

    def expire(hours: float) -> int:
        return remove_expired_files(lakehouse.storage, uri, 10, {*delta_table(lakehouse, BRONZE).file_uris()}, hours)

    assert expire(1) == 0
    assert expire(0) == 10
    assert data_files(lakehouse, BRONZE) == live
    assert ids(lakehouse) == [10, 11]


def test_a_failing_checkpoint_does_not_fail_the_commit(
    lakehouse: LocalLakehouse, stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("assets.lakehouse.local.keep_up", broken)
    rows = numbers(0, 5)
    assert not lakehouse.commit(BRONZE, stage("a", rows), rows.schema, tag="a", replace=False).repeated
    assert ids(lakehouse) == list(range(5))
    assert "disk full" in caplog.text


def test_a_log_entry_is_written_once(lakehouse: LocalLakehouse) -> None:
    entry = f"{lakehouse.uri(BRONZE)}/_delta_log/{0:020d}.json"
    lakehouse.storage.create(entry, "mine")
    with pytest.raises(FileExistsError):
        lakehouse.storage.create(entry, "another")
    assert lakehouse.storage.read_text(entry) == "mine"


def test_parts_and_tables_on_two_kinds_of_storage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both to folders or both to s3"):
        LocalLakehouse.from_settings(Settings(home=tmp_path, lakehouse_url="s3://b/x", staging_url="/tmp/staging"))
