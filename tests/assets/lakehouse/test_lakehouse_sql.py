"""Queries over the lakehouse read what they may read, and reach nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from assets.errors import NotFoundError
from assets.lakehouse.interface import DELETED_AT
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse_sql import LakehouseSql, QueryError, table_address, tables_of
from tests.assets.lakehouse.conftest import BRONZE, SILVER, Stage

NAME = "silver.shop__public__orders"


@pytest.fixture
def sql(lakehouse: LocalLakehouse, stage: Stage, tmp_path: Path) -> LakehouseSql:
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("city", pa.string()),
            ("total", pa.decimal128(12, 2)),
            (DELETED_AT, pa.timestamp("us", "UTC")),
        ]
    )
    rows = [{"id": n, "city": ["Rome", "Oslo"][n % 2], "total": n, DELETED_AT: None} for n in range(100)]
    rows.append({"id": 1000, "city": "gone", "total": 1, DELETED_AT: 0})
    parts = stage("r1", pa.Table.from_pylist(rows, schema=schema))
    lakehouse.commit(SILVER, parts, schema, tag="r1", replace=True)
    tables = {table_address(table): table for table in (SILVER, BRONZE)}
    return LakehouseSql(lakehouse, tables, memory_limit="256MB", scratch=tmp_path / "scratch")


def test_a_query_reads_live_rows_with_joins_ctes_and_bound_values(sql: LakehouseSql) -> None:
    result = sql.query(
        f"WITH big AS (SELECT * FROM {NAME} WHERE id >= $low) "
        f"SELECT a.city, count(*) AS n, sum(b.total) AS s FROM big a JOIN {NAME} b USING (id) GROUP BY 1 ORDER BY 1",
        {"low": 90},
    )
    assert result.columns == ("city", "n", "s")
    assert result.rows == (("Oslo", 5, "475.00"), ("Rome", 5, "470.00"))
    assert result.tables == (NAME,)
    assert sql.query(f"SELECT count(*) FROM {NAME}").rows == ((100,),)


def test_more_rows_than_asked_for_are_cut_and_it_is_said(sql: LakehouseSql) -> None:
    result = sql.query(f"SELECT id FROM {NAME} ORDER BY id", max_rows=3)
    assert (result.rows, result.truncated) == (((0,), (1,), (2,)), True)


@pytest.mark.parametrize(
    "query",
    [
        f"DROP TABLE {NAME}",
        f"SELECT 1; DROP TABLE {NAME}",
        "INSERT INTO x SELECT 1",
        f"COPY {NAME} TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db'",
        "PRAGMA version",
        f"WITH x AS (DELETE FROM {NAME} RETURNING *) SELECT * FROM x",
        "SET enable_external_access = true",
        "SELEC 1",
        "",
    ],
)
def test_anything_but_one_select_is_refused(sql: LakehouseSql, query: str) -> None:
    with pytest.raises(QueryError):
        sql.query(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 't')",
        "SELECT * FROM sqlite_scan('/etc/passwd', 't')",
    ],
)
def test_files_and_the_network_are_out_of_reach(sql: LakehouseSql, query: str) -> None:
    with pytest.raises(QueryError):
        sql.query(query)


@pytest.mark.parametrize(
    "query", ["SELECT * FROM '/etc/passwd'", 'SELECT * FROM "x.csv"', "SELECT * FROM silver.nothing"]
)
def test_a_table_that_is_not_there_is_named(sql: LakehouseSql, query: str) -> None:
    with pytest.raises(NotFoundError, match="there is no table"):
        sql.query(query)


def test_a_table_outside_the_allowed_names_is_refused(
    sql: LakehouseSql, lakehouse: LocalLakehouse, tmp_path: Path
) -> None:
    narrow = LakehouseSql(
        lakehouse, {NAME: SILVER}, memory_limit="256MB", scratch=tmp_path / "scratch", allowed=["gold.*"]
    )
    with pytest.raises(QueryError, match="may not be read here"):
        narrow.query(f"SELECT 1 FROM {NAME}")


def test_a_query_that_takes_too_long_is_ended(sql: LakehouseSql) -> None:
    with pytest.raises(QueryError, match="longer than"):
        sql.query("SELECT count(*) FROM range(1000000) a, range(1000000) b", max_seconds=0.3)


def test_the_tables_of_a_query_are_found_without_running_it() -> None:
    assert tables_of("WITH a AS (SELECT * FROM silver.x) SELECT * FROM a JOIN gold.y ON true") == ("gold.y", "silver.x")
