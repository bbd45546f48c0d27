"""The stand-in's MERGE, which skips files, leaves what pysail's own leaves, which joins them all."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.standins.databricks.merges import merge
from tests.standins.databricks.sql_engine import SqlEngine
from tests.standins.databricks.unity_catalog import UnityCatalog

SCHEMA = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("name", pa.string()), ("state", pa.string())])
CONDITIONS = (
    "t.id = s.id",
    "t.id <=> s.id",
    "t.id <=> s.id AND s.day = t.day",
    "t.id <=> s.id AND (t.state IS NULL) <=> (s.state IS NULL)",
    "t.name = s.name AND t.state IS NOT NULL",
    "CASE WHEN t.state IS NOT NULL THEN 1 END = CASE WHEN s.state IS NOT NULL THEN 1 END AND t.state IS NOT NULL",
)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        # a worker of pytest-xdist has no main file: pyspark takes that for its doctests, and wants a JVM's Spark
        patch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
        engine = SqlEngine(UnityCatalog(tmp_path_factory.mktemp("catalog")))  # its server ends with it
    yield engine._spark
    engine.close()


def rows(chance: random.Random, first: int, count: int, mark: str) -> pa.Table:
    """Each key at most once, as a merge's source and target have to be; one row of NULL keys, with a state."""
    found: list[dict[str, Any]] = [
        {"id": n, "day": date(2026, 1, 1) + timedelta(days=n), "name": f"{mark} {n}", "state": None}
        for n in range(first, first + count)
    ]
    if chance.random() < 0.5:
        found.append({"id": None, "day": None, "name": mark, "state": mark})
    return pa.Table.from_pylist(found, schema=SCHEMA)


def content(folder: Path) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in DeltaTable(folder).to_pyarrow_table().to_pylist()), key=repr)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("seed", range(4))
def test_a_merge_that_skips_files_leaves_what_a_merge_of_all_files_leaves(
    spark: Any, tmp_path: Path, condition: str, seed: int
) -> None:
    chance = random.Random(f"{condition} {seed}")
    target = tmp_path / "target"
    for number in range(4):  # a file each; one of them has the state
        content_of = rows(chance, number * 10, chance.randrange(1, 10), "old")
        if number != seed:
            content_of = content_of.filter(content_of["id"].is_valid())
        write_deltalake(target, content_of, mode="append", schema_mode="merge")
    source = tmp_path / "source"
    write_deltalake(source, rows(chance, chance.randrange(0, 45), chance.randrange(1, 15), "new"))
    shutil.copytree(target, tmp_path / "other")
    using = chance.choice([f"delta.`{source}`", f"(SELECT * FROM delta.`{source}`)"])
    sql = (
        f"MERGE INTO delta.`{{target}}` AS t USING {using} AS s ON {condition}\n"
        "WHEN MATCHED AND s.state IS NOT NULL THEN UPDATE SET t.state = s.state\n"
        "WHEN MATCHED AND s.id % 5 = 0 THEN DELETE\n"
        "WHEN MATCHED THEN UPDATE SET t.name = s.name\n"
        "WHEN NOT MATCHED THEN INSERT (id, day, name, state) VALUES (s.id, s.day, s.name, s.state)"
    )
    version = DeltaTable(target).version()
    merge(spark, sql.format(target=target), str(target), tmp_path / "scratch")
    spark.sql(sql.format(target=tmp_path / "other")).toArrow()
    assert content(target) == content(tmp_path / "other")
    assert DeltaTable(target).version() <= version + 1, "one commit"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_files_that_cannot_match_stay_as_they_are(spark: Any, tmp_path: Path) -> None:
    target, chance = tmp_path / "target", random.Random(1)
    for number in range(3):
        write_deltalake(target, rows(chance, number * 10, 10, "old").slice(0, 10), mode="append")
    before = set(DeltaTable(target).file_uris())
    write_deltalake(tmp_path / "source", rows(chance, 12, 3, "new").slice(0, 3))
    sql = (
        f"MERGE INTO delta.`{target}` AS t USING delta.`{tmp_path / 'source'}` AS s ON t.id = s.id"
        " WHEN MATCHED THEN UPDATE SET t.name = s.name"
    )
    merge(spark, sql, str(target), tmp_path / "scratch")
    after = set(DeltaTable(target).file_uris())
    assert len(before & after) == 2 and len(after) > 2
    (entry,) = DeltaTable(target).history(1)
    assert (entry["operation"], entry["operationMetrics"]["numTargetRowsUpdated"]) == ("MERGE", 3)


def test_rows_that_no_source_row_matches_are_looked_for_in_all_files(spark: Any, tmp_path: Path) -> None:
    target, chance = tmp_path / "target", random.Random(1)
    for number in range(2):
        write_deltalake(target, rows(chance, number * 10, 5, "old").slice(0, 5), mode="append")
    write_deltalake(tmp_path / "source", rows(chance, 12, 1, "new").slice(0, 1))
    sql = (
        f"MERGE INTO delta.`{target}` AS t USING delta.`{tmp_path / 'source'}` AS s ON t.id = s.id"
        " WHEN NOT MATCHED BY SOURCE THEN DELETE"
    )
    merge(spark, sql, str(target), tmp_path / "scratch")
    assert [row[0] for row in content(target)] == [12]
