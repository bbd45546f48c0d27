"""Columns that are named as the tables, aliases and columns of Headrace's own queries lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

NAMES = [
    *("k1", "d", "i", "h", "f", "s", "n", "a", "b", "c", "l", "t", "sh", "op", "row", "row number", "file", "gone"),
    *("ended", "position", "loaded", "latest", "incoming", "stored", "fresh", "source", "versions", "touched", "fills"),
    *("changes", "last", "left_source", "opening", "closing", "keys", "winners", "data", "rank", "value", "number"),
]


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    made = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    columns = ", ".join(f"`{name}` int" for name in NAMES)
    values = ", ".join("1" for _ in NAMES)
    made.execute(
        f"CREATE TABLE t (k0 int PRIMARY KEY, {columns}, at timestamp(6) NOT NULL)",
        f"INSERT INTO t VALUES (1, {values}, '2024-01-01'), (2, {values}, '2024-01-02'), (3, {values}, '2024-01-02')",
    )
    return made


def change(shop: MysqlInstallation) -> None:
    values = ", ".join("1" for _ in NAMES)
    shop.execute(
        f"INSERT INTO t VALUES (4, {values}, '2024-01-02')",  # equal to another row but for its key
        "UPDATE t SET `d` = 2, `row` = 7, at = '2024-01-03' WHERE k0 = 1",
        "DELETE FROM t WHERE k0 = 2",
    )


@pytest.mark.parametrize(
    "options", [{"write": "merge"}, {"write": "append"}, {"write": "scd2"}, {"mode": "cdc"}], ids=str
)
def test_every_way_to_sync_keeps_such_columns(shop: MysqlInstallation, options: dict[str, Any]) -> None:
    table = shop.name("t")
    options = options if "mode" in options else options | {"cursor": "at", "deletes": "keys"}
    assert shop.sync(table, **options).equal
    quiet = shop.sync(table, **options)
    assert (quiet.rows_read, quiet.rows_deleted) == (0, 0)
    change(shop)
    changed = shop.sync(table, **options)
    assert (changed.rows_read, changed.rows_deleted) == (2, 1)
    assert shop.verify(table).equal
    if "mode" not in options:
        shop.execute("ALTER TABLE t ADD COLUMN added int DEFAULT 5, ADD COLUMN `values` int DEFAULT 6")
        shop.sync(table, fill_added=True, **options)
        assert shop.verify(table).equal
        assert shop.sync(table, **(options | {"mode": "full", "deletes": "none"})).equal
        assert shop.verify(table).equal


@pytest.mark.parametrize(
    "options", [{"write": "merge"}, {"write": "append"}, {"write": "scd2"}, {"mode": "cdc"}], ids=str
)
def test_columns_that_differ_by_case_only_are_told_apart(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], options: dict[str, Any]
) -> None:
    shop = Installation(tmp_path / "home", postgres, database())
    shop.execute(
        'CREATE TABLE t (id int, "ID" int, "Id" text, at timestamptz DEFAULT now(), PRIMARY KEY (id, "ID"))',
        "INSERT INTO t VALUES (1, 1, 'x'), (1, 2, 'y'), (2, 1, 'z')",
    )
    options = options if "mode" in options else options | {"cursor": "at", "deletes": "keys"}
    shop.sync("public.t", **options)
    shop.execute(
        """UPDATE t SET "Id" = 'new', at = now() WHERE "ID" = 2""",
        "INSERT INTO t VALUES (3, 7, 'n')",
        """DELETE FROM t WHERE id = 1 AND "ID" = 1""",
    )
    result = shop.sync("public.t", **options)
    assert (result.rows_read, result.rows_deleted) == (2, 1)
    compared = shop.verify("public.t")
    assert (compared.equal, compared.source_rows) == (True, 3)
    shop.execute("""UPDATE t SET "Id" = 'unseen' WHERE "ID" = 7""")
    compared = shop.verify("public.t")
    assert (compared.differing, compared.differing_keys) == (1, ('["3","7"]',))
