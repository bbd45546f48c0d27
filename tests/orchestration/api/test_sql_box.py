"""The SQL box: reads Silver, and reaches nothing else, whatever is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from orchestration import sql_box
from orchestration.headrace import Headrace
from tests.orchestration.stored import set_aside, store

ROWS = pa.table({"id": list(range(500)), "city": ["Rome", "Oslo"] * 250})
NAME = "silver.shop__public__orders"


def ask(client: TestClient, query: str, **more: Any) -> Any:
    return client.post("/sql", json={"query": query} | more)


def test_it_answers_over_silver_with_its_limits(client: TestClient, hr: Headrace) -> None:
    store(hr, ROWS)
    found = ask(client, f"SELECT city, count(*) n FROM {NAME} GROUP BY 1 ORDER BY 1").json()
    assert (found["columns"], found["rows"], found["truncated"]) == (
        ["city", "n"],
        [["Oslo", 250], ["Rome", 250]],
        False,
    )
    cut = ask(client, f"SELECT id FROM {NAME}", max_rows=7).json()
    assert (len(cut["rows"]), cut["truncated"]) == (7, True)
    joined = ask(client, f"WITH a AS (SELECT * FROM {NAME}) SELECT count(*) FROM a JOIN {NAME} b USING (id)").json()
    assert joined["rows"] == [[500]], "a table that is named twice is read twice"


ESCAPES = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json_auto('/etc/passwd')",
    "SELECT * FROM parquet_scan('{home}/x.parquet')",
    "SELECT * FROM parquet_metadata('{home}/x.parquet')",
    "SELECT * FROM glob('{home}/*')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "{home}/secret.csv"',
    "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 't')",
    "SELECT * FROM sqlite_scan('{home}/catalog.db', 'users')",
    "SELECT * FROM delta_scan('{home}')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('read_text')",
    "SELECT getenv('HOME')",
    "SELECT * FROM (COPY (SELECT 1) TO '{home}/out.csv')",
    "COPY (SELECT 1) TO '{home}/out.csv'",
    "COPY x FROM '/etc/passwd'",
    "EXPORT DATABASE '{home}/out'",
    "IMPORT DATABASE '{home}/out'",
    "ATTACH '{home}/catalog.db' AS c (TYPE sqlite)",
    "DETACH rows",
    "USE rows",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:1'",
    "PRAGMA database_list",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "CALL pragma_version()",
    "CREATE TABLE x AS SELECT 1",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE MACRO f() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "INSERT INTO {name} SELECT * FROM {name}",
    "UPDATE {name} SET city = 'x'",
    "DELETE FROM {name}",
    "DROP TABLE {name}",
    "TRUNCATE {name}",
    "VACUUM",
    "CHECKPOINT",
    "EXPLAIN ANALYZE SELECT 1",
    "DESCRIBE {name}",
    "SUMMARIZE {name}",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "BEGIN",
    "SELECT 1; SELECT * FROM read_text('/etc/passwd')",
    "SELECT 1 /* ; */ ; DROP TABLE {name}",
    "SELECT * FROM bronze.shop__public__orders",
    "SELECT * FROM quarantine.shop__public__orders",
    "SELECT * FROM gold.shop__x",
    "SELECT * FROM silver.shop__none",
    'SELECT * FROM silver."../../catalog.db"',
]


@pytest.mark.parametrize("query", ESCAPES)
def test_files_network_settings_and_other_layers_are_out_of_reach(
    client: TestClient, hr: Headrace, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = hr.settings.home_path
    (home / "secret.csv").write_text("a\ncanary-in-a-file\n")
    monkeypatch.setenv("HEADRACE_CANARY", "canary-in-the-environment")
    # without tables of its own the query is refused before a process starts, or by the process; both are cheap enough
    answer = ask(client, query.format(home=home, name=NAME))
    assert answer.status_code in (404, 422), answer.text
    assert "canary" not in answer.text.replace(str(home / "secret.csv"), "") and "root:" not in answer.text
    assert not (home / "out.csv").exists() and not (home / "out").exists()


def test_what_duckdb_itself_tells_holds_no_secret(
    client: TestClient, hr: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(hr, ROWS)
    set_aside(
        hr, "shop", "public.orders", {"key": "[1]", "column_name": "city", "reason": "r", "value": "canary-aside"}
    )
    monkeypatch.setenv("HEADRACE_SECRET_KEY", "canary-key")
    for query in (
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_databases()",
        "SELECT * FROM duckdb_tables()",
        "SELECT current_setting('temp_directory')",
    ):
        answer = ask(client, query)
        assert "canary" not in answer.text, query
    settings = ask(
        client,
        "SELECT name, value FROM duckdb_settings() "
        "WHERE name IN ('enable_external_access', 'lock_configuration') ORDER BY 1",
    )
    assert settings.json()["rows"] == [["enable_external_access", "false"], ["lock_configuration", "true"]]


def test_time_and_memory_are_bounded(client: TestClient, hr: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_box, "MAX_SECONDS", 1.0)
    slow = ask(client, "SELECT count(*) FROM range(10000000) a, range(10000000) b")
    assert slow.status_code == 422 and "longer" in slow.json()["detail"], slow.text
    large = ask(client, "SELECT length(list(repeat('x', 1000000) || i)::VARCHAR) FROM range(100000000) t(i)")
    assert large.status_code == 422, large.text
    monkeypatch.setattr(sql_box, "MAX_PROCESS_BYTES", 1 << 20)
    big = ask(client, "SELECT count(*) FROM range(10000000) a, range(10000000) b")
    assert big.status_code == 422 and "memory" in big.json()["detail"], big.text
    left = [path for path in Path(hr.settings.home_path / "scratch").glob("scratch-*") if os.listdir(path)]
    assert len(left) <= 2, "what a killed process left goes with the next query"


def test_no_more_than_two_at_once(client: TestClient, hr: Headrace) -> None:
    for _ in range(sql_box.AT_ONCE):
        assert sql_box._slots.acquire(blocking=False)
    try:
        assert ask(client, "SELECT 1").status_code == 503
    finally:
        for _ in range(sql_box.AT_ONCE):
            sql_box._slots.release()
    assert ask(client, "SELECT 1").json()["rows"] == [[1]]
