"""``headrace plan``: what a sync would do is told before it, exactly, and telling it has no effect."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from assets.sync_plan import TablePlan
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from tests.behaviour.installation import Installation
from tests.servers.databricks_server import DatabricksServer

TABLE = "public.orders"


@pytest.fixture
def orders(shop: Installation) -> Installation:
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, price numeric(9,2), updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, 'it''s ' || i, i / 7.0 FROM generate_series(1, 3000) i",
        "ANALYZE orders",
    )
    return shop


def plan(shop: Installation, **options: Any) -> TablePlan:
    (found,) = Headrace(settings=shop.settings).plan("shop", [TABLE], **options)
    return found


def change(shop: Installation) -> None:
    shop.execute(
        "UPDATE orders SET price = 1, updated_at = clock_timestamp() WHERE id % 10 = 0",
        "DELETE FROM orders WHERE id % 100 = 1",
        "ANALYZE orders",
    )


def test_mode_window_and_estimate_are_those_of_the_sync_that_follows(orders: Installation) -> None:
    first = plan(orders)
    assert (first.mode, first.reason, first.low, first.write) == ("full", "first load", None, "merge")
    assert first.rows == 3000 and first.bytes and first.bytes > 3000
    assert any(text.startswith("SELECT") and '"orders"' in text for text in first.source_statements)
    done = orders.sync(TABLE)
    assert (done.mode, done.reason) == (first.mode, first.reason)
    change(orders)
    second = plan(orders, deletes="keys")
    assert (second.mode, second.cursor, second.low) == ("incremental", "updated_at", done.watermark_after)
    assert second.rows is not None and second.rows < 1500, "the window, not the table"
    assert len(second.source_statements) == 3, "rows, keys, count"
    done = orders.sync(TABLE, deletes="keys")
    assert (done.mode, done.window_low, done.equal) == (second.mode, second.low, True)
    again = plan(orders, mode="full")
    assert (again.mode, again.reason) == ("full", "full refresh was asked for")


def test_what_a_sync_would_refuse_the_plan_says(orders: Installation) -> None:
    found = plan(orders, key=["nothing"])
    assert found.error_type == "UnsupportedTableError" and "nothing" in str(found.error)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time; of the catalog, what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("catalog.db"))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def catalog_dump(shop: Installation) -> list[str]:
    with sqlite3.connect(shop.settings.home_path / "catalog.db") as database:
        return list(database.iterdump())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deletes": "keys", "verify": "values"},
        {"mode": "full"},
        {"mode": "cdc"},
        {"write": "append"},
        {"columns": {"hash": ["name"]}},
        {"backfill": ("2000-01-01", None)},
    ],
    ids=["incremental", "deletes and values", "full", "cdc", "append", "hash", "backfill"],
)
@pytest.mark.parametrize("synced", [False, True], ids=["new", "synced"])
def test_a_plan_changes_nothing_anywhere(
    orders: Installation, synced: bool, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if synced:
        orders.sync(TABLE)
        change(orders)
    lakehouse = Headrace(settings=orders.settings).settings.lakehouse
    databricks: DatabricksServer | None = request.getfixturevalue("databricks") if lakehouse != "local" else None
    before = contents(orders.settings.home_path), catalog_dump(orders)
    if databricks:
        databricks.forget_calls()
    found = plan(orders, **options)
    assert found.error is None or (options.get("backfill") and not synced)
    assert (contents(orders.settings.home_path), catalog_dump(orders)) == before
    kept = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()), "
    assert orders.source_rows(kept + "(SELECT count(*) FROM pg_publication)") == [(0, 0)]
    if databricks:
        wrote = [call for call in databricks.calls() if call["method"] not in ("GET", "HEAD")]
        assert all(call["statement"].startswith("SELECT") for call in wrote)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"deletes": "keys", "verify": "keys"}, id="deletes and keys"),
        pytest.param({}, id="incremental", marks=pytest.mark.slow),
        pytest.param({"mode": "full"}, id="full", marks=pytest.mark.slow),
        pytest.param({"write": "append"}, id="append", marks=pytest.mark.slow),
        pytest.param({"write": "replace"}, id="replace", marks=pytest.mark.slow),
        pytest.param({"mode": "cdc"}, id="cdc", marks=pytest.mark.slow),
        pytest.param({"mode": "cdc", "write": "append"}, id="cdc append", marks=pytest.mark.slow),
    ],
)
def test_the_planned_statements_are_those_that_the_warehouse_then_gets(
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database: Callable[[], str],
    databricks: DatabricksServer,
    options: dict[str, Any],
) -> None:
    """All of them, reads of the state included, in their order."""
    shop = Installation(tmp_path / "home", postgres, database(), **databricks.settings())
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, 'it''s ' || i FROM generate_series(1, 100) i",
    )
    for _ in range(2):
        planned = plan(shop, **options)
        databricks.forget_calls()
        shop.sync(TABLE, **options)
        done = [call["statement"] for call in databricks.calls() if call["statement"]]
        expected = [outline(statement.text) for statement in planned.lakehouse_statements]
        difference = list(unified_diff(expected, [outline(text) for text in done], n=0))
        assert not difference, "\n".join(difference)
        shop.execute(
            "UPDATE orders SET name = 'x', updated_at = clock_timestamp() WHERE id < 50",
            "DELETE FROM orders WHERE id = 7",
        )


def outline(statement: str) -> str:
    """A statement without literals: run groups, paths and states differ from run to run."""
    return " ".join(re.sub(r"'(?:[^'\\]|\\.)*'", "'...'", statement).split())
