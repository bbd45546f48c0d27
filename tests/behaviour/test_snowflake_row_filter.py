"""A row filter on Snowflake: judged on the stored values, sent to the server where it cannot judge otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.sources.server_filter import server_condition
from assets.sources.snowflake_filter import SnowflakeWords
from tests.behaviour.snowflake_installation import SnowflakeInstallation
from tests.servers.snowflake_server import SnowflakeServer

ROWS = """
(1, 'EU', 10.50, TRUE, 0.1, '2024-01-01', '2024-01-01 10:00:00.000001', '2024-01-01 10:00:00'),
(2, 'eu', 0.10, FALSE, 0.2, '2024-06-01', '2024-06-01 00:00:00', '2024-06-01 00:00:00'),
(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(4, 'EU ', -10.50, TRUE, 1e300, '2025-12-31', '2024-01-01 10:00:00.000002', '2037-01-01 00:00:00')
"""


@pytest.fixture
def shop(tmp_path: Path, snowflake_server: SnowflakeServer, snowflake_database: str) -> SnowflakeInstallation:
    made = SnowflakeInstallation(tmp_path / "home", snowflake_server, snowflake_database)
    made.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR, n NUMBER(12, 2), flag BOOLEAN, f FLOAT, d DATE, "
        "m TIMESTAMP_NTZ, l TIMESTAMP_LTZ)",
        f"INSERT INTO t VALUES {ROWS}",
    )
    return made


def reads(shop: SnowflakeInstallation) -> list[str]:
    """The statements that read rows."""
    return [text for text in shop.source.statements() if text.startswith("SELECT") and '"T" AT' in text]


@pytest.mark.parametrize(
    ("text", "ids", "sent"),
    [
        ("s = 'EU'", [1], """"S" = 'EU'"""),
        ("s in ('EU', 'eu') and n < 10.5", [2], """("S" IN ('EU', 'eu')) AND ("N" < 10.5)"""),
        ("not s = 'EU'", [2, 4], None),  # a collation may find more values equal
        ("s > 'EU'", [2, 4], None),
        ("s like 'E%' and id <= 3", [1], '("ID" <= 3)'),
        ("n between -10.5 and 0.1 or n is null", [2, 3, 4], '(("N" BETWEEN -10.5 AND 0.1) OR ("N" IS NULL))'),
        ("flag = true", [1, 4], '("FLAG" = TRUE)'),
        ("f < 1.5", [1, 2], None),  # NaN is greater than all numbers there
        ("d >= '2024-06-01'", [2, 4], """("D" >= '2024-06-01'::DATE)"""),
        ("m <= '2024-01-01 10:00:00.000001'", [1], """("M" <= '2024-01-01 10:00:00.000001'::TIMESTAMP_NTZ(9))"""),
        ("m is null", [3], None),  # a moment of nine digits is NULL for the filter
        ("l > '2024-02-01'", [2, 4], """("L" > '2024-02-01 00:00:00.000000'::TIMESTAMP_LTZ(9))"""),
    ],
)
def test_what_passes_is_the_same_whether_the_server_helps_or_not(
    shop: SnowflakeInstallation, text: str, ids: list[int], sent: str | None
) -> None:
    shop.source.forget_statements()
    result = shop.sync("public.t", row_filter=text)
    assert result.rows_read == len(ids)
    assert all(sent in query if sent else query.endswith("WHERE TRUE") for query in reads(shop) if '"S"' in query)
    assert [number for (number,) in shop.silver("public.t", ["id"])] == ids
    assert shop.verify("public.t").equal


def test_increments_and_deletes_of_a_filtered_table_ask_for_its_rows_only(shop: SnowflakeInstallation) -> None:
    options = {"cursor": "l", "row_filter": "id in (1, 4, 5)", "deletes": "keys"}
    assert shop.sync("public.t", **options).rows_read == 2
    shop.execute(
        "INSERT INTO t (id, l) VALUES (5, '2025-01-01'), (6, '2025-01-01')", "DELETE FROM t WHERE id IN (1, 2)"
    )
    shop.source.forget_statements()
    result = shop.sync("public.t", **options)
    assert (result.mode, result.rows_read, result.rows_deleted) == ("incremental", 1, 1)
    assert [number for (number,) in shop.silver("public.t", ["id"])] == [4, 5]
    asked = [query for query in reads(shop) if '"ID"' in query.partition(" FROM ")[0]]
    assert len(asked) == 2
    assert all('("ID" IN (1, 4, 5))' in query for query in asked)


def test_a_text_literal_cannot_leave_its_quotes(shop: SnowflakeInstallation) -> None:
    (found,) = shop.steps.catalog.connector("shop").discover(["public.t"])
    condition = server_condition(r"s = 'a''b\'", found.columns, SnowflakeWords())
    assert condition == r"""("S" = 'a''b\\')"""
    assert shop.sync("public.t", row_filter=r"s = 'x'' OR 1=1 --'").rows_read == 0
