"""Every version kept of tables whose windows read some rows again: MariaDB, whose clock may step back, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

CREATE = "CREATE TABLE t (id int PRIMARY KEY, name varchar(20), version int NOT NULL)"
ROWS = "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1)"


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> Iterator[MysqlInstallation]:
    """A login whose sessions run ``init_connect``, which those of an administrator do not."""
    user = f"u{uuid.uuid4().hex[:12]}"
    mariadb.execute(
        None,
        f"CREATE USER {user} IDENTIFIED BY 'of the tests'",
        f"GRANT SELECT ON {mariadb_database}.* TO {user}",
        f"GRANT REPLICATION SLAVE, BINLOG MONITOR, PROCESS ON *.* TO {user}",
    )
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database, user=user, password="of the tests")
    shop.execute(CREATE, ROWS)
    yield shop
    mariadb.execute(None, f"DROP USER {user}")


@contextmanager
def clock_at(shop: MysqlInstallation, moment: str) -> Iterator[None]:
    shop.source.execute(None, f"SET GLOBAL init_connect = 'SET timestamp = unix_timestamp(''{moment}'')'")
    try:
        yield
    finally:
        shop.source.execute(None, "SET GLOBAL init_connect = ''")


def names(shop: MysqlInstallation, key: int) -> list[str | None]:
    """The names of a row's versions in order; None: it is gone."""
    rows = shop.silver(shop.name("t"), ["id", "name", "_headrace_position", "_headrace_deleted_at"], live=False)
    return [None if gone else name for id_, name, _, gone in sorted(rows, key=lambda row: row[2]) if id_ == key]


def sync(shop: MysqlInstallation, **options: Any) -> str | None:
    result = shop.sync(shop.name("t"), **{"write": "append", "cursor": "version", "deletes": "keys", **options})
    found = [shop.verify(shop.name("t"), level) for level in ("counts", "keys", "values")]
    assert (result.equal, [one.equal for one in found]) == (True, [True] * 3), (result, found)
    assert not any(one.extra for one in found)
    return result.mode


def test_a_value_that_comes_back_is_a_version_of_its_own(shop: MysqlInstallation) -> None:
    assert sync(shop) == "full"
    for name in ("x", "a"):  # the cursor stays: only the comparison of what was read again tells
        shop.execute(f"UPDATE t SET name = '{name}' WHERE id = 1")
        assert sync(shop) == "incremental"
    assert names(shop, 1) == ["a", "x", "a"]
    assert sync(shop) == "incremental"
    assert names(shop, 1) == ["a", "x", "a"]


def test_a_row_that_comes_back_as_it_was_is_a_version_of_its_own(shop: MysqlInstallation) -> None:
    sync(shop)
    shop.execute("DELETE FROM t WHERE id = 2")
    sync(shop)
    shop.execute("INSERT INTO t VALUES (2, 'b', 1)")
    sync(shop)
    assert names(shop, 2) == ["b", None, "b"]


def test_versions_stay_in_order_where_the_servers_clock_steps_back(shop: MysqlInstallation) -> None:
    sync(shop)
    with clock_at(shop, "2020-01-01 00:00:00"):
        shop.execute("UPDATE t SET name = 'x', version = 2 WHERE id = 1", "DELETE FROM t WHERE id = 2")
        assert sync(shop) == "incremental"
    with clock_at(shop, "2019-01-01 00:00:00"):
        shop.execute("UPDATE t SET name = 'y' WHERE id = 1", "INSERT INTO t VALUES (2, 'b', 3)")
        assert sync(shop) == "incremental"
        assert sync(shop, mode="full") == "full"
        assert sync(shop, mode="cdc", deletes="none") == "full"
        shop.execute("UPDATE t SET name = 'z' WHERE id = 1", "DELETE FROM t WHERE id = 3")
        assert sync(shop, mode="cdc", deletes="none") == "cdc"
    with clock_at(shop, "2018-01-01 00:00:00"):
        shop.execute("UPDATE t SET name = 'a' WHERE id = 1")
        assert sync(shop, mode="incremental") == "full"
    assert names(shop, 1) == ["a", "x", "y", "z", "a"]
    assert names(shop, 2) == ["b", None, "b"]
    assert names(shop, 3) == ["c", None]
