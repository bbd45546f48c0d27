"""MERGE with what Delta Lake does before it joins, and pysail leaves out.

A source that is a query is computed once (delta-io/delta, ``MergeIntoMaterializeSource.scala``), and files of the
target whose statistics show that no row of theirs can match are skipped
(docs.databricks.com/optimizations/dynamic-file-pruning). pysail joins the rest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

from tests.standins.databricks.sql_text import closing

_MERGE = re.compile(r"\AMERGE\s+INTO\s+(?P<target>delta\.`[^`]+`)\s+(?:AS\s+)?(?P<alias>\w+)\s+USING\s*", re.I)
_SOURCE = re.compile(r"(?P<source>(?:delta\.)?(?:`[^`]+`|\w+))?\s*(?:AS\s+)?(?P<alias>\w+)\s+ON\s", re.I)


@dataclass(frozen=True)
class _Bounds:
    low: int | date | None
    high: int | date | None
    has_nulls: bool

    def meets(self, other: _Bounds, null_safe: bool) -> bool:
        if null_safe and self.has_nulls and other.has_nulls:
            return True
        if None in (self.low, self.high, other.low, other.high):
            return False  # all values of one side are NULL
        return bool(self.low <= other.high and other.low <= self.high)  # type: ignore[operator]


def merge(spark: Any, sql: str, location: str, scratch: Path) -> None:
    """Run a MERGE whose names are resolved, in one commit of the table at ``location``.

    Args:
        spark: pysail's session.
        sql: ``MERGE INTO delta.`…` AS t USING … AS s ON …``.
        scratch: a folder on the file system of the tables.
    """
    head = _MERGE.match(sql)
    folder = scratch / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        if head is None:
            spark.sql(sql).toArrow()
            return
        with _source(spark, sql, head.end(), folder) as (text, alias, rest):
            statement = f"{sql[: head.end()]}{text} AS {alias} ON {rest}"
            kept = _files(spark, location, statement, head["alias"], alias, text)
            if kept is None:
                spark.sql(statement).toArrow()
            else:
                _merge_into(spark, statement, head, location, kept, folder / "target")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _source(spark: Any, sql: str, start: int, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Text and alias of the source, and what follows ON. A query's rows are computed here."""
    text, end = "", start
    if sql[start] == "(":
        end = closing(sql, start) + 1
        text = sql[start:end]
    found = _SOURCE.match(sql, end)
    assert found is not None, sql[end : end + 100]
    text = text or found["source"]
    if text.startswith("("):
        rows = folder / "source.parquet"
        content = spark.sql(f"SELECT * FROM {text}").toArrow()
        pq.write_table(content, rows)
        text = f"parquet.`{rows}`"
    yield text, found["alias"], sql[found.end() :]


def _files(
    spark: Any, location: str, statement: str, target: str, source: str, source_text: str
) -> list[dict[str, Any]] | None:
    """Statistics of the files in which a row can match; None: of all, or what is asked of the others is not known."""
    parsed = sqlglot.parse_one(statement, read="databricks")
    whens = parsed.args["whens"].expressions
    if any(when.args.get("source") for when in whens):  # NOT MATCHED BY SOURCE looks at every row
        return None
    files = pa.table(DeltaTable(location).get_add_actions(flatten=True)).to_pylist()
    kept = files
    for condition in parsed.args["on"].flatten() if isinstance(parsed.args["on"], exp.And) else [parsed.args["on"]]:
        not_null = _not_null(condition, target)
        if not_null:
            nulls = f"null_count.{not_null}"
            kept = [f for f in kept if f.get(nulls) is None or f[nulls] < f["num_records"]]
        elif isinstance(condition, exp.EQ | exp.NullSafeEQ) and (pair := _columns(condition, target, source)):
            bounds = _source_bounds(spark, source_text, pair[1])
            null_safe = isinstance(condition, exp.NullSafeEQ)
            kept = [f for f in kept if (own := _file_bounds(f, pair[0])) is None or bounds is None
                    or own.meets(bounds, null_safe)]  # fmt: skip
    return kept if len(kept) < len(files) else None


def _not_null(condition: Any, target: str) -> str:
    inner = condition.this.this if isinstance(condition, exp.Not) and isinstance(condition.this, exp.Is) else None
    return inner.name if isinstance(inner, exp.Column) and inner.table == target else ""


def _columns(condition: exp.Binary, target: str, source: str) -> tuple[str, str] | None:
    sides = {side.table: side.name for side in (condition.left, condition.right) if isinstance(side, exp.Column)}
    return (sides[target], sides[source]) if sides.keys() == {target, source} else None


def _source_bounds(spark: Any, source: str, column: str) -> _Bounds | None:
    quoted = f"`{column.replace('`', '``')}`"
    asked = f"SELECT min({quoted}), max({quoted}), count(*) - count({quoted}) FROM {source}"
    (row,) = spark.sql(asked).toArrow().to_pylist()
    low, high, nulls = row.values()
    return _Bounds(low, high, nulls > 0) if _ordered(low) and _ordered(high) else None


def _file_bounds(file: dict[str, Any], column: str) -> _Bounds | None:
    nulls, low, high = (file.get(f"{fact}.{column}") for fact in ("null_count", "min", "max"))
    if nulls is None or not (_ordered(low) and _ordered(high)) or (low is None and nulls != file["num_records"]):
        return None
    return _Bounds(low, high, nulls > 0)


def _ordered(value: Any) -> bool:
    """Statistics of other types are cut short (strings), or not ordered by their values (NaN)."""
    return value is None or type(value) in (int, date)


def _merge_into(
    spark: Any, statement: str, head: re.Match[str], location: str, kept: list[dict[str, Any]], shadow: Path
) -> None:
    """Merge into a table of these files only, and commit what that removed and added."""
    table = DeltaTable(location)
    _make_table(table, Path(location), kept, shadow)
    spark.sql(f"{statement[: head.start('target')]}delta.`{shadow}`{statement[head.end('target') :]}").toArrow()
    commit = shadow / "_delta_log" / f"{1:020}.json"
    if not commit.exists():  # nothing was to be changed
        return
    for line in commit.read_text().splitlines():
        if added := json.loads(line).get("add"):
            os.link(shadow / unquote(added["path"]), Path(location) / unquote(added["path"]))
    os.link(commit, Path(location) / "_delta_log" / f"{table.version() + 1:020}.json")


def _make_table(table: DeltaTable, location: Path, kept: list[dict[str, Any]], shadow: Path) -> None:
    (shadow / "_delta_log").mkdir(parents=True)
    protocol, metadata = table.protocol(), table.metadata()
    features = {
        name: sorted(found)
        for name, found in (
            ("readerFeatures", protocol.reader_features),
            ("writerFeatures", protocol.writer_features),
        )
        if found
    }
    actions: list[dict[str, Any]] = [
        {"protocol": {
            "minReaderVersion": protocol.min_reader_version, "minWriterVersion": protocol.min_writer_version, **features
        }},
        {"metaData": {
            "id": str(metadata.id), "format": {"provider": "parquet", "options": {}},
            "schemaString": table.schema().to_json(), "partitionColumns": metadata.partition_columns,
            "configuration": metadata.configuration, "createdTime": metadata.created_time,
        }},
    ]  # fmt: skip
    for file in kept:
        os.link(location / unquote(file["path"]), shadow / unquote(file["path"]))
        modified = int((shadow / unquote(file["path"])).stat().st_mtime * 1000)
        actions.append({"add": {
            "path": file["path"], "size": file["size_bytes"], "modificationTime": modified, "partitionValues": {},
            "dataChange": True, "stats": json.dumps({"numRecords": file["num_records"]}),
        }})  # fmt: skip
    (shadow / "_delta_log" / f"{0:020}.json").write_text("".join(f"{json.dumps(action)}\n" for action in actions))
