"""The CHANGES clause: the statements that are sent, and what recorded answers become. No stand-in has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from assets.errors import SchemaChangedError, StreamLostError, UnsupportedTableError
from tests.behaviour.snowflake_installation import SnowflakeInstallation
from tests.servers.snowflake_server import SnowflakeServer

CREATE = "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR)"
CLAUSE = r"\"T\" CHANGES \(INFORMATION => DEFAULT\) AT \(STATEMENT => '[^']+'\) END \(STATEMENT => '[^']+'\)"
TRACKED = {
    "match": "^SHOW TABLES LIKE 'T' IN SCHEMA .*$",
    "replace": "SELECT 'PUBLIC' AS \"schema_name\", 'T' AS \"name\", 'ON' AS \"change_tracking\"",
}
# an answer as Snowflake documents it: an update is a DELETE and an INSERT, both METADATA$ISUPDATE
RECORDED = """
CREATE TABLE recorded AS SELECT * FROM (VALUES
    (2, 'b', 'DELETE', TRUE, 'r2'), (2, 'b2', 'INSERT', TRUE, 'r2'),
    (3, 'c', 'DELETE', FALSE, 'r3'),
    (1, 'a', 'DELETE', TRUE, 'r1'), (100, 'a', 'INSERT', TRUE, 'r1'),
    (4, 'd', 'INSERT', FALSE, 'r4')
) AS v(id, name, "METADATA$ACTION", "METADATA$ISUPDATE", "METADATA$ROW_ID")
"""


@pytest.fixture
def shop(tmp_path: Path, snowflake_server: SnowflakeServer, snowflake_database: str) -> SnowflakeInstallation:
    shop = SnowflakeInstallation(tmp_path / "home", snowflake_server, snowflake_database)
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    snowflake_server.set_rules(TRACKED)
    return shop


def sync(shop: SnowflakeInstallation, **options: Any) -> Any:
    return shop.sync("public.t", **{"mode": "cdc", **options})


def change_as_recorded(shop: SnowflakeInstallation, snowflake_server: SnowflakeServer) -> None:
    """Change the table, and have the clause answered by what was recorded of such changes."""
    shop.execute(
        "UPDATE t SET name = 'b2' WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "UPDATE t SET id = 100 WHERE id = 1",
        "INSERT INTO t VALUES (4, 'd')",
        RECORDED,
    )
    snowflake_server.set_rules(TRACKED, {"match": CLAUSE, "replace": '"RECORDED"'})


def test_a_recorded_answer_becomes_upserts_and_deletes_of_whole_rows(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    first = sync(shop)
    assert (first.mode, first.rows_read, first.equal) == ("full", 3, True)
    snowflake_server.forget_statements()
    change_as_recorded(shop, snowflake_server)
    result = sync(shop, mode="auto")
    assert (result.mode, result.rows_read, result.rows_deleted, result.equal) == ("cdc", 3, 2, True)
    assert sorted(shop.silver("public.t", ["id", "name"])) == [(2, "b2"), (4, "d"), (100, "a")]
    assert shop.verify("public.t").equal is True
    (statement,) = [text for text in snowflake_server.statements() if "CHANGES" in text]
    (found,) = re.findall(r"AT \(STATEMENT => '([^']+)'\) END \(STATEMENT => '([^']+)'\)", statement)
    assert (first.watermark_after, result.watermark_after) == found
    assert statement.endswith(
        "QUALIFY \"METADATA$ACTION\" = 'INSERT' OR "
        'COUNT_IF("METADATA$ACTION" = \'INSERT\') OVER (PARTITION BY "ID") = 0'
    )


def test_the_statement_is_one_that_snowflake_parses(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    sync(shop)
    snowflake_server.set_rules(TRACKED, {"match": CLAUSE, "replace": '"T", (SELECT \'INSERT\' AS "METADATA$ACTION")'})
    sync(shop)
    (statement,) = [text for text in snowflake_server.statements() if "CHANGES" in text][-1:]
    parsed = sqlglot.parse_one(statement, dialect="snowflake")
    assert parsed.find(exp.Qualify) is not None
    assert parsed.sql(dialect="snowflake") == sqlglot.parse_one(
        parsed.sql(dialect="snowflake"), dialect="snowflake"
    ).sql(dialect="snowflake")


TOO_OLD = (
    "Time travel data is not available for table T. The requested time is either beyond the allowed time travel period "
    "or before the object creation time."
)
NOT_TRACKED = "Change tracking is not enabled or has been missing for the time range requested on table 'T'."


@pytest.mark.parametrize("error", [[707, TOO_OLD], [2322, NOT_TRACKED]])
def test_changes_that_are_not_kept_any_more_are_a_lost_stream_with_its_remedy(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer, error: list[Any]
) -> None:
    sync(shop)
    snowflake_server.set_rules(TRACKED, {"match": "CHANGES", "error": error})
    with pytest.raises(StreamLostError, match="--mode cdc --reset"):
        sync(shop)
    snowflake_server.set_rules(TRACKED)
    assert sync(shop, reset=True).equal is True


def test_a_table_made_anew_or_retyped_is_refused(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    sync(shop)
    made = {"match": "SELECT created::varchar", "replace": "SELECT '2026-11-24 10:00:00'"}
    snowflake_server.set_rules(TRACKED, made)
    with pytest.raises(StreamLostError, match="created again"):
        sync(shop)
    snowflake_server.set_rules(TRACKED)
    shop.execute("ALTER TABLE t ADD COLUMN added INT DEFAULT 5")
    has_default = {"match": "SELECT column_name FROM .*$", "replace": "SELECT 'ADDED'"}
    snowflake_server.set_rules(TRACKED, has_default)
    with pytest.raises(SchemaChangedError, match="added"):
        sync(shop)


def test_a_table_that_cannot_be_followed_is_refused_with_the_statement(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.set_rules()
    with pytest.raises(UnsupportedTableError, match=r'ALTER TABLE .*"T" SET CHANGE_TRACKING = TRUE;'):
        sync(shop)
    text = "Time travel data is not available for table T."
    snowflake_server.set_rules(TRACKED, {"match": r" AT \(STATEMENT", "error": [707, text]})
    with pytest.raises(UnsupportedTableError, match="DATA_RETENTION_TIME_IN_DAYS"):
        sync(shop)


def test_a_filter_is_applied_to_old_and_new_values_by_the_statement(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    first = sync(shop, row_filter="id < 50 and name in ('b', 'b2', 'c', 'd')")
    assert (first.mode, first.rows_read, first.equal) == ("full", 2, True)
    change_as_recorded(shop, snowflake_server)
    result = sync(shop)
    assert (result.mode, result.rows_read, result.rows_deleted, result.equal) == ("cdc", 2, 1, True)
    assert sorted(shop.silver("public.t", ["id", "name"])) == [(2, "b2"), (4, "d")]
    left = "(VALUES (2, 'b2', 'DELETE'), (2, 'x', 'INSERT')) AS v(id, name, \"METADATA$ACTION\")"
    shop.execute("UPDATE t SET name = 'x' WHERE id = 2", f"CREATE OR REPLACE TABLE recorded AS SELECT * FROM {left}")
    result = sync(shop)
    assert (result.rows_read, result.rows_deleted, result.equal) == (0, 1, True)
    assert shop.silver("public.t", ["id", "name"]) == [(4, "d")]
    assert shop.verify("public.t").equal is True


def test_a_filter_that_the_server_could_judge_otherwise_is_refused(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    with pytest.raises(UnsupportedTableError, match=r"the equality of text: id NUMBER.*, name VARCHAR"):
        sync(shop, row_filter="id < 50 and name > 'a'")
    snowflake_server.set_rules(
        TRACKED, {"match": "SELECT column_name .* collation_name .*$", "replace": "SELECT 'NAME'"}
    )
    with pytest.raises(UnsupportedTableError, match="NAME, which has a collation"):
        sync(shop, row_filter="name = 'a'")
    assert sync(shop, row_filter="id < 3").equal is True
