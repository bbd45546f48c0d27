"""What is derived from evidence stays bounded where thousands of statements are about one matter."""

from __future__ import annotations

import duckdb
import pytest

from assets.knowledge.derived import DERIVED_QUERIES, LISTED
from assets.knowledge.fold import _SQL
from assets.knowledge.tables import COLUMNS

MANY = 10_000


@pytest.fixture
def database() -> duckdb.DuckDBPyConnection:
    """One person says thousands of different things about one matter, and has as many homes."""
    database = duckdb.connect(config={"memory_limit": "256MB", "threads": 2, "temp_directory": ""})
    columns = ", ".join(f'"{name}" {_SQL[kind]}' for name, kind in COLUMNS["statements"].items())
    database.execute(f"CREATE TABLE statements ({columns})")
    database.execute(
        "INSERT INTO statements BY NAME SELECT printf('%020d', n) AS statement_id, 'anna' AS subject_id,"
        f" 'fact' AS kind, 'address' AS about, 'street ' || n AS value FROM range({MANY}) t(n)"
    )
    database.execute(
        "INSERT INTO statements BY NAME SELECT printf('r%019d', n) AS statement_id, 'anna' AS subject_id,"
        " 'relation' AS kind, 'lives_in' AS predicate, 'place ' || n AS object_id, false AS ends, n = 7 AS changed,"
        f" TIMESTAMPTZ '2026-01-01 00:00:00Z' + n * INTERVAL 1 SECOND AS \"at\" FROM range({MANY}) t(n)"
    )
    return database


def test_thousands_of_different_statements_about_one_matter_fit_the_memory(
    database: duckdb.DuckDBPyConnection,
) -> None:
    rows = database.execute(
        f"SELECT status, len(disputed_with) FROM ({DERIVED_QUERIES['observations']}) GROUP BY ALL"
    ).fetchall()
    assert rows == [("disputed", LISTED)]


def test_thousands_of_rival_relations_fit_the_memory_and_a_change_ends_the_earlier_ones(
    database: duckdb.DuckDBPyConnection,
) -> None:
    rows = database.execute(
        "SELECT status, count(*), min(len(disputed_with)) FROM"
        f" ({DERIVED_QUERIES['relations']}) GROUP BY ALL ORDER BY 1"
    ).fetchall()
    assert rows == [("disputed", MANY - 7, LISTED), ("ended", 7, 0)]
