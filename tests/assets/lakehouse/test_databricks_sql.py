"""Every kind of statement that Headrace gives a SQL warehouse stands in ``databricks_statements.sql``, to be read.

After a change that is meant: ``python -m tests.assets.lakehouse.test_databricks_sql``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from assets.lakehouse import databricks_sql as sql

GOLDEN = Path(__file__).parent / "databricks_statements.sql"
BRONZE, SILVER = sql.name("main", "bronze", "shop__t"), sql.name("main", "silver", "shop__t")
META = {
    "_headrace_run": "STRING",
    "_headrace_loaded_at": "TIMESTAMP",
    "_headrace_op": "STRING",
    "_headrace_position": "BIGINT",
}
DATA = {"id": "INT", "na`me": "STRING", "price": "DECIMAL(12,2)"}
BRONZE_COLUMNS = {**DATA, **META}
SILVER_COLUMNS = {**DATA, **{c: k for c, k in META.items() if c != "_headrace_op"}, "_headrace_deleted_at": "TIMESTAMP"}
URIS = [f"/Volumes/main/headrace/staging/staging/shop/t/run/rows-a1/part-{n}.parquet" for n in range(2)]
STATE = sql.state_text(["it's \\ a tag"], None, 1, 2)
MERGES = {"append", "append_to_silver", "upsert", "upsert_versions"}
"""sqlglot does not know MERGE WITH SCHEMA EVOLUTION (docs.databricks.com/.../delta-merge-into): parsed without it."""


def statements() -> dict[str, str]:
    parts = sql.rows_from_parts(URIS, BRONZE_COLUMNS)
    changes = {c: k for c, k in SILVER_COLUMNS.items() if c != "_headrace_deleted_at"} | {"_headrace_op": "STRING"}
    same = {column: column for column in changes}
    run = sql.rows_from_bronze(BRONZE, "tag", changes, same, quoted=False)
    written = {"key": ["id"], "tag": "it's \\ a tag", "state": STATE, "source": "shop/public.t"}
    found = {
        "create_table": sql.create_table(BRONZE, BRONZE_COLUMNS, parts, **{**written, "key": ()}),
        "replace_table": sql.replace_table(SILVER, SILVER_COLUMNS, None, expected="old", **written),
        "append": sql.append(BRONZE, BRONZE_COLUMNS, parts, expected="old", tag="new", state=STATE),
        "upsert": sql.upsert(SILVER, SILVER_COLUMNS, run, key=["id"], expected="old", tag="new", state=STATE),
        "upsert_versions": sql.upsert(
            SILVER,
            SILVER_COLUMNS,
            sql.rows_from_bronze(BRONZE, "tag", changes | {"_headrace_deleted_at": "TIMESTAMP"}, same, quoted=False),
            key=["id"],
            expected="old",
            tag="new",
            state=STATE,
            closes=True,
        ),
        "append_to_silver": sql.append(SILVER, SILVER_COLUMNS, None, expected="old", tag="new", state=STATE),
        "read_state": sql.read_state(BRONZE),
        "read_states": sql.read_states([BRONZE, SILVER]),
        "read_back": sql.read_state(BRONZE, "new"),
        "count_live": sql.count_live(SILVER),
        "scan": sql.select_rows(SILVER, ["id", "na`me"], live=True),
        "rows_of_run": sql.select_rows(BRONZE, ["id"], tag="new"),
        "drop_table": sql.drop_table(BRONZE),
    }
    return {name: statement.sql for name, statement in found.items()}


def golden_text() -> str:
    return "\n".join(f"-- {name}\n{text};\n" for name, text in statements().items())


def test_the_statements_are_the_ones_that_were_reviewed() -> None:
    assert golden_text() == GOLDEN.read_text()


@pytest.mark.parametrize("name", list(statements()))
def test_a_statement_parses_as_databricks_sql(name: str) -> None:
    text = statements()[name]
    if name in MERGES:
        text = text.replace("MERGE WITH SCHEMA EVOLUTION", "MERGE", 1)
    parsed = sqlglot.parse_one(text, dialect="databricks")
    assert not isinstance(parsed, exp.Command)  # an opaque text was not parsed


def test_quotes_and_backslashes_of_values_and_names_stay_inside_their_quotes() -> None:
    (value,) = sqlglot.parse_one(f"SELECT {sql.text(STATE)}", dialect="databricks").find_all(exp.Literal)
    assert value.this == STATE
    assert "`na``me`" in statements()["scan"]


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
