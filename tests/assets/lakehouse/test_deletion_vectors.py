"""Rows that are marked as gone: read alike by every reader that knows deletion vectors, and gathered in time."""

from __future__ import annotations

import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import QueryBuilder
from deltalake.exceptions import DeltaProtocolError

from assets.errors import CommitConflictError, LakehouseError
from assets.lakehouse import local, retention, table_merge
from assets.lakehouse.delta_log import DataFile, read_snapshot
from assets.lakehouse.interface import DELETED_AT
from assets.lakehouse.local import LocalLakehouse
from assets.settings import Settings
from tests.assets.lakehouse.conftest import SILVER, Stage, data_files, delta_table
from tests.assets.lakehouse.test_upsert import LATER, SCHEMA, row, stored, table, upsert


@pytest.fixture
def lakehouse(lake_settings: Settings) -> LocalLakehouse:
    return LocalLakehouse.from_settings(lake_settings.model_copy(update={"rewrite_mb": 0}))


@pytest.fixture
def loaded(lakehouse: LocalLakehouse, stage: Stage) -> LocalLakehouse:
    """Ids 0 to 99 in one file, 100 to 199 in another."""
    parts = stage("base", table([row(i) for i in range(100)]), table([row(i) for i in range(100, 200)]))
    lakehouse.commit(SILVER, parts, SCHEMA, tag="base", replace=True)
    return lakehouse


def by_delta_rs(lakehouse: LocalLakehouse) -> list[dict[str, Any]]:
    rows = pa.table(delta_table(lakehouse, SILVER).scan()).cast(SCHEMA).to_pylist()
    return sorted(rows, key=lambda r: r["id"])


def vectors(lakehouse: LocalLakehouse) -> set[str]:
    folder = lakehouse.uri(SILVER)
    return {file.name for file in lakehouse.storage.files(folder, "deletion_vector_")}


def files(lakehouse: LocalLakehouse) -> list[DataFile]:
    snapshot = read_snapshot(lakehouse.storage, lakehouse.uri(SILVER), DELETED_AT)
    assert snapshot is not None
    return snapshot.files


def test_random_upserts_and_deletes_leave_what_a_plain_dictionary_holds(loaded: LocalLakehouse) -> None:
    chance = random.Random(7)
    expected = {i: row(i) for i in range(200)}
    for number in range(13):  # past a checkpoint
        tag = f"run-{number}"
        keys = set(chance.sample(range(260), 12))
        gone = set(chance.sample(sorted(keys), 4))
        upsert(loaded, tag, [row(key, tag, tag) for key in keys - gone], sorted(gone))
        expected |= {key: row(key, tag, tag) for key in keys - gone}
        for key in gone & expected.keys():
            if expected[key][DELETED_AT] is None:
                stamp = {"_headrace_run": tag, "_headrace_loaded_at": LATER, "_headrace_position": 2, DELETED_AT: LATER}
                expected[key] = expected[key] | stamp
        rows = [expected[key] for key in sorted(expected)]
        assert stored(loaded, live=False) == rows
        live = [r for r in rows if r[DELETED_AT] is None]
        assert loaded.count_live(SILVER) == len(live)
        state = loaded.state(SILVER)
        assert state is not None
        assert state.rows == len(rows)
        assert upsert(loaded, tag, [row(0, "never")]).repeated
    assert by_delta_rs(loaded) == rows
    assert any(file.vector for file in files(loaded))
    assert len(files(loaded)) < 13  # small files are gathered


def test_other_readers_read_it_right_or_refuse_it_and_a_full_load_makes_it_plain_again(
    loaded: LocalLakehouse, stage: Stage
) -> None:
    upsert(loaded, "a", [row(3, "new", "a")], [150])
    upsert(loaded, "b", [row(3, "newer", "b"), row(4, "newer", "b")])
    expected = stored(loaded, live=False)
    assert [r["name"] for r in expected[2:6]] == ["old", "newer", "newer", "old"]
    assert by_delta_rs(loaded) == expected
    opened = delta_table(loaded, SILVER)
    counted = QueryBuilder().register("t", opened).execute("SELECT count(*) AS n, count(DISTINCT id) AS d FROM t")
    assert pa.table(counted).to_pylist() == [{"n": 200, "d": 200}]
    with pytest.raises(DeltaProtocolError):
        opened.to_pyarrow_table()
    loaded.commit(SILVER, stage("c", table([row(1)])), SCHEMA, tag="c", replace=True)
    assert delta_table(loaded, SILVER).to_pyarrow_table().num_rows == 1
    assert "delta.enableDeletionVectors" not in delta_table(loaded, SILVER).metadata().configuration
    upsert(loaded, "d", [row(1, "again", "d")])
    assert [r["name"] for r in stored(loaded)] == ["again"]
    assert by_delta_rs(loaded) == stored(loaded)


@pytest.mark.slow
def test_spark_sql_reads_it(tmp_path: Path, loaded: LocalLakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    # pyspark takes a main module without a file, which is what a worker of pytest-xdist has, for one of its doctests
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    if not loaded.uri(SILVER).startswith("/"):
        pytest.skip("the Spark SQL engine is given no access to the S3 server")
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    upsert(loaded, "a", [row(i, "new", "a") for i in range(0, 200, 9)], [1, 2])
    place = tmp_path / "plain"  # without the characters that are special in patterns
    shutil.copytree(loaded.uri(SILVER), place)
    server = SparkConnectServer()
    server.start()
    assert server.listening_address is not None
    host, port = server.listening_address
    builder: Any = SparkSession.builder
    spark = builder.remote(f"sc://{host}:{port}").create()
    try:
        (counted,) = spark.sql(
            f"SELECT count(*), count(DISTINCT id), count_if(name = 'new') FROM delta.`{place}`"
        ).collect()
        assert tuple(counted) == (200, 200, 23)
    finally:
        spark.stop()
        server.stop()


def test_a_rival_commit_between_loses_nothing_and_leaves_no_vector_behind(
    loaded: LocalLakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = local.write_commit
    rivals = iter(["rival"])

    def slow(*arguments: Any, **options: Any) -> int:
        if tag := next(rivals, None):
            upsert(loaded, tag, [row(3, "rival", tag)])
        return written(*arguments, **options)

    monkeypatch.setattr(local, "write_commit", slow)
    upsert(loaded, "a", [row(4, "mine", "a")])
    assert [r["name"] for r in stored(loaded)[3:5]] == ["rival", "mine"]
    assert by_delta_rs(loaded) == stored(loaded)
    assert len(vectors(loaded)) == 2
    used = {file.vector.file for file in files(loaded) if file.vector}
    assert used <= vectors(loaded)


def test_a_commit_that_never_wins_removes_only_its_own_files(
    loaded: LocalLakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = data_files(loaded, SILVER)

    def refused(*_: Any, **__: Any) -> int:
        raise CommitConflictError("a rival", where="here")

    monkeypatch.setattr(local, "write_commit", refused)
    with pytest.raises(CommitConflictError):
        upsert(loaded, "a", [row(4, "mine", "a")])
    assert data_files(loaded, SILVER) == before
    assert vectors(loaded) == set()


def test_a_try_that_died_leaves_no_vector(loaded: LocalLakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(local, "write_commit", dies)
        upsert(loaded, "a", [row(4, "mine", "a")])
    assert len(vectors(loaded)) == 1
    upsert(loaded, "a", [row(4, "mine", "a")])
    assert len(vectors(loaded)) == 1
    assert by_delta_rs(loaded) == stored(loaded)


def test_sparse_files_are_rewritten_and_unused_vectors_go_after_the_retention(loaded: LocalLakehouse) -> None:
    upsert(loaded, "a", [row(i, "new", "a") for i in range(20)])
    marked = {file.path for file in files(loaded) if file.vector}
    assert len(marked) == 1
    upsert(loaded, "b", [row(i, "new", "b") for i in range(20, 40)])
    assert not any(file.vector for file in files(loaded) if file.path in marked)
    upsert(loaded, "c", [row(150, "new", "c")])
    assert by_delta_rs(loaded) == stored(loaded)
    version = delta_table(loaded, SILVER).version()
    delta_table(loaded, SILVER).create_checkpoint()
    live = set(delta_table(loaded, SILVER).file_uris())
    folder = loaded.uri(SILVER)
    assert retention.remove_expired_files(loaded.storage, folder, version, live, 1) == 0
    assert len(vectors(loaded)) == 2
    time.sleep(1.1)  # S3 tells whole seconds
    assert retention.remove_expired_files(loaded.storage, folder, version, live, 0) > 0
    assert vectors(loaded) == {file.vector.file for file in files(loaded) if file.vector}
    assert by_delta_rs(loaded) == stored(loaded)


def test_a_damaged_vector_is_told_and_never_read_past(loaded: LocalLakehouse) -> None:
    upsert(loaded, "a", [row(4, "mine", "a")])
    (name,) = vectors(loaded)
    address = f"{loaded.uri(SILVER)}/{name}"
    with loaded.storage.open_input(address) as opened:
        content = bytearray(opened.read())
    content[-6] ^= 1
    with loaded.storage.open_output(address) as file:
        file.write(bytes(content))
    with pytest.raises(LakehouseError, match="damaged"):
        stored(loaded)


def test_small_tables_are_rewritten_and_large_ones_marked() -> None:
    def file(number: int, size: int, **options: Any) -> DataFile:
        return DataFile(f"f{number}", size, 1000, **options)

    touched = {f"f{n}": local.TouchedRows.none() for n in range(2)}
    small, large = [file(0, 10), file(1, 10), file(2, 999)], [file(0, 60), file(1, 60)]
    assert table_merge.files_to_rewrite(small, touched, 100, plain=True) == {"f0", "f1"}
    assert table_merge.files_to_rewrite(large, touched, 100, plain=True) == set()
    assert table_merge.files_to_rewrite(small, touched, 100, plain=False) == set()
    many = [file(n, 10) for n in range(table_merge.GATHERED_FILES)] + [file(99, 9 << 20)]
    assert table_merge.files_to_rewrite(many, touched, 100, plain=False) == {f.path for f in many[:-1]}
