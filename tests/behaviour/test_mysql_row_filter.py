"""A row filter on MySQL: judged on the stored values, and sent to the server as far as it cannot judge otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.errors import ConfigurationError
from assets.row_filter import RowFilter
from assets.sources.mysql_filter import MysqlWords
from assets.sources.server_filter import server_condition
from assets.sync import Column
from assets.types import mysql_contract
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

ROWS = """
(1, -5, 10.50, 'EU', '2024-01-01', '2024-01-01 10:00:00.000001', '2024-01-01 10:00:00', 0.1, 99999999999999999999, 1),
(2, 7, 0.10, 'eu', '0000-00-00', '0000-00-00 00:00:00', '2024-06-01 00:00:00', 0.2, 5, 0),
(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(4, 2147483647, -10.50, 'EU ', '2025-12-31', '9999-12-31 23:59:59.999999', '2037-01-01 00:00:00', -0.1, 50, 1)
"""


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    made = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    made.execute(
        "CREATE TABLE t (id int PRIMARY KEY, i int, n decimal(12,2), s varchar(10), d date, dt datetime(6), "
        "ts timestamp NULL, f float, big decimal(60,0), flag tinyint(1))",
        f"INSERT INTO t VALUES {ROWS}",
    )
    return made


@pytest.mark.parametrize(
    ("text", "ids", "sent"),
    [
        ("i > -6 and n <= 10.5", [1, 2, 4], True),
        ("i between -5 and 7 or n is null", [1, 2, 3], True),
        ("not (i in (7, 8)) and id < 4", [1], True),
        ("d >= '2024-01-01' and dt < '2025-01-01'", [1], True),
        ("ts >= '2024-01-01 10:00:00' and not ts = '2024-06-01'", [1, 4], True),
        ("s = 'EU'", [1], False),
        ("s like 'E%' and i < 10", [1], True),
        ("d is null", [2, 3], False),
        ("f = 0.1", [1], False),
        ("flag = true", [1, 4], False),
        ("s <> 'EU' or i > 5", [2, 4], False),
    ],
)
def test_what_passes_is_the_same_whether_the_server_helps_or_not(
    shop: MysqlInstallation, text: str, ids: list[int], sent: bool
) -> None:
    table = shop.name("t")
    result = shop.sync(table, row_filter=text, verify="values")
    assert result.equal
    assert [number for (number,) in shop.silver(table, ["id"])] == ids
    (found,) = shop.steps.catalog.connector("shop").discover([table])
    condition = server_condition(RowFilter.parse(text).sql(), found.columns, MysqlWords(repr))
    assert (condition is not None) is sent


def test_an_order_that_text_does_not_have_is_refused_by_name(shop: MysqlInstallation) -> None:
    with pytest.raises(ConfigurationError, match="column big is text"):
        shop.sync(shop.name("t"), row_filter="big > 10")
    with pytest.raises(ConfigurationError, match="i: int32"):
        shop.sync(shop.name("t"), row_filter="i like '1%'")


def test_increments_deletes_and_backfills_of_a_filtered_table_read_its_rows_only(shop: MysqlInstallation) -> None:
    table = shop.name("t")
    options: dict[str, Any] = {"cursor": "ts", "deletes": "keys"}
    assert shop.sync(table, row_filter="i >= 0", **options).rows_read == 2
    shop.execute(
        "INSERT INTO t (id, i, ts) VALUES (5, 1, '2038-01-01'), (6, -1, '2038-01-01')", "DELETE FROM t WHERE id = 2"
    )
    result = shop.sync(table, **options)
    assert (result.mode, result.rows_read, result.rows_deleted) == ("incremental", 1, 1)
    assert shop.verify(table).equal
    again = shop.sync(table, cursor="ts", backfill={"low": "2037-01-01", "high": "2037-12-31"})
    assert again.rows_read == 1


def test_literals_are_bound_by_the_driver() -> None:
    kind, rule = mysql_contract("int", "int", 10, 0, None)
    column = Column(name="a`b", source_type="int", arrow_type=kind, rule=rule)
    bound: list[Any] = []

    def literal(value: Any) -> str:
        bound.append(value)
        return "?"

    text = '"a`b" = 1 and "a`b" = \'x; DROP\''
    assert server_condition(text, [column], MysqlWords(literal)) == "(`a``b` = ?)"
    assert bound == [1]
