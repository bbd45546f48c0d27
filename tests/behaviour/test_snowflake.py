"""A Snowflake table through the lakehouse, on the stand-in: full, incremental, deletes, late rows, names."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from assets.errors import HeadraceError
from tests.assets.sources.test_snowflake_check import private_key
from tests.behaviour.snowflake_installation import SnowflakeInstallation
from tests.servers.snowflake_server import SnowflakeServer

CREATE = "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR, updated_at TIMESTAMP_NTZ)"


@pytest.fixture
def shop(tmp_path: Path, snowflake_server: SnowflakeServer, snowflake_database: str) -> SnowflakeInstallation:
    return SnowflakeInstallation(tmp_path / "home", snowflake_server, snowflake_database)


def sync(shop: SnowflakeInstallation, **options: Any) -> Any:
    return shop.sync("public.t", **options)


def assert_equal_to_source(shop: SnowflakeInstallation) -> None:
    rows = shop.source_rows("SELECT id, name, updated_at IS NULL FROM t")
    stored = shop.silver("public.t", ["id", "name", "updated_at"])
    assert [(id, name, moment is None) for id, name, moment in stored] == rows
    assert shop.verify("public.t").equal is True


def test_changes_are_read_once_and_deletes_found_by_keys(shop: SnowflakeInstallation) -> None:
    rows = ", ".join(f"({i}, 'row {i}', '2026-01-01 00:00:{i:02}.000001')" for i in range(10))
    shop.execute(CREATE, f"INSERT INTO t VALUES {rows}")
    first = sync(shop)
    assert (first.mode, first.rows_read, first.equal, first.key) == ("full", 10, True, ("id",))
    assert first.watermark_after == "2026-01-01 00:00:09.000001000"
    assert_equal_to_source(shop)
    shop.execute(
        "UPDATE t SET name = 'changed', updated_at = '2026-01-01 00:00:20' WHERE id = 1",
        "INSERT INTO t VALUES (11, 'late, within the overlap', '2026-01-01 00:00:05'), (12, 'no cursor', NULL)",
        "DELETE FROM t WHERE id = 3",
    )
    second = sync(shop, deletes="keys")
    assert (second.mode, second.rows_read, second.rows_deleted, second.equal) == ("incremental", 3, 1, True)
    assert_equal_to_source(shop)
    third = sync(shop)
    assert (third.rows_read, third.watermark_after) == (0, second.watermark_after)
    assert len(shop.bronze("public.t", ["id"])) == 14


def test_a_row_dated_in_the_future_is_loaded_and_does_not_hide_later_ones(shop: SnowflakeInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'future', '2126-01-01 00:00:00')")
    first = sync(shop)
    assert (first.future_rows, first.watermark_after) == (1, None)
    shop.execute("INSERT INTO t VALUES (2, 'later', '2026-01-01 00:00:00')")
    assert sync(shop).rows_read == 1
    shop.execute("INSERT INTO t VALUES (3, 'latest', '2026-01-02 00:00:00')")
    result = sync(shop)
    assert (result.mode, result.rows_read, result.future_rows) == ("incremental", 1, 1)
    assert_equal_to_source(shop)


def test_a_read_shows_one_moment_though_rows_are_written_meanwhile(shop: SnowflakeInstallation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT seq, 'row', '2026-01-01' FROM (VALUES (1), (2), (3)) AS v(seq)")
    work = shop.work("public.t")
    plan = shop.steps.open_window(work)
    source = shop.steps.catalog.connector("shop")
    with source.open_read(plan) as read:
        shop.execute("DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (4, 'new', '2026-01-02')")
        ids = [row["id"] for batch in read.batches() for row in batch.to_pylist()]
        assert (sorted(ids), read.source_rows(), read.high) == ([1, 2, 3], 3, "2026-01-01 00:00:00.000000000")
        assert read.reader == "arrow"


def test_a_table_without_time_travel_is_read_in_one_statement_and_not_counted(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer
) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', '2026-01-01')")
    text = "Time travel data is not available for table T. The requested time is beyond the allowed period."
    snowflake_server.set_rules({"match": r" AT \(STATEMENT", "error": [707, text]})
    result = sync(shop)
    assert (result.rows_read, result.status) == (1, "succeeded")
    assert_equal_to_source(shop)


def test_a_table_made_anew_is_compared_whole(shop: SnowflakeInstallation, snowflake_server: SnowflakeServer) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', '2026-01-01'), (2, 'b', '2026-01-01')")
    sync(shop)
    shop.execute("DROP TABLE t", CREATE, "INSERT INTO t VALUES (2, 'b2', '2001-01-01'), (3, 'c', '2001-01-01')")
    # the stand-in knows no times of creation
    snowflake_server.set_rules({"match": r"SELECT created::varchar", "replace": "SELECT '2026-11-24 10:00:00'"})
    result = sync(shop, deletes="keys")
    assert (result.rows_read, result.rows_deleted, result.equal) == (2, 1, True)
    assert "made anew" in result.reason
    assert_equal_to_source(shop)


@pytest.mark.parametrize(
    "kind",
    ["TIMESTAMP_TZ", "INT", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("TIMESTAMP_LTZ", "DATE"))],
)
def test_cursors_of_other_types_lose_nothing(shop: SnowflakeInstallation, kind: str) -> None:
    values = ["10", "20", "20", "15"] if kind == "INT" else [f"'2026-01-{day}'" for day in ("10", "20", "20", "20")]
    shop.execute(f"CREATE TABLE t (id INT PRIMARY KEY, updated_at {kind})")
    shop.execute(f"INSERT INTO t VALUES (1, {values[0]}), (2, {values[1]})")
    sync(shop, cursor="updated_at")
    shop.execute(f"INSERT INTO t VALUES (3, {values[2]}), (4, {values[3]}), (5, NULL)")
    result = sync(shop, cursor="updated_at")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 3, True)
    assert sync(shop, cursor="updated_at").rows_read == 0
    assert shop.verify("public.t").equal is True


def test_names_fold_as_in_snowflake_and_come_back(shop: SnowflakeInstallation) -> None:
    shop.execute(
        'CREATE TABLE "mixed Case; DROP TABLE x--" ("Id" INT PRIMARY KEY, "it""s ""q""" VARCHAR, "a.b" INT, '
        'plain VARCHAR, "lower" VARCHAR, "UPPER \'x\'" INT)',
        """INSERT INTO "mixed Case; DROP TABLE x--" VALUES (1, 'q', 2, 'p', 'l', 3)""",
        'CREATE TABLE "orders" (id INT PRIMARY KEY)',
        'INSERT INTO "orders" VALUES (7)',
    )
    names = {table.name: table for table in shop.steps.catalog.connector("shop").discover()}
    assert sorted(names) == ['public."orders"', "public.mixed Case; DROP TABLE x--"]
    hostile = "public.mixed Case; DROP TABLE x--"
    columns = [column.name for column in names[hostile].columns]
    assert columns == ["Id", 'it"s "q"', "a.b", "plain", '"lower"', "UPPER 'x'"]
    for name in names:
        result = shop.sync(name)
        assert (result.rows_read, result.equal) == (1, True)
        assert shop.verify(name).equal is True


def test_an_empty_table_becomes_one_with_its_columns(shop: SnowflakeInstallation) -> None:
    shop.execute(CREATE)
    result = sync(shop)
    assert (result.rows_read, result.equal) == (0, True)
    assert {"id", "name", "updated_at"} <= set(shop.silver_names("public.t"))
    assert shop.verify("public.t").equal is True


@pytest.mark.parametrize("fault", [{"status": 503}, {"error": [390112, "Session token expired.", "08001"]}], ids=str)
def test_a_busy_account_and_an_expired_session_are_gone_on_from(
    shop: SnowflakeInstallation, snowflake_server: SnowflakeServer, fault: dict[str, Any]
) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', '2026-01-01'), (2, 'b', '2026-01-02')")
    snowflake_server.set_rules({"match": r'SELECT "ID".* AT \(', "times": 1, **fault})
    result = sync(shop)
    assert (result.rows_read, result.equal) == (2, True)
    assert_equal_to_source(shop)


@pytest.mark.parametrize("kind", ["password", "private_key", "token"])
def test_no_credential_stands_in_what_an_installation_writes(
    tmp_path: Path,
    snowflake_server: SnowflakeServer,
    snowflake_database: str,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    caplog.set_level(logging.INFO)
    private, public = private_key("canary-passphrase-51aa")
    snowflake_server.add_user("CANARY", password="canary-password-51aa", token="canary-token-51aa", public_key=public)
    given = {
        "password": {"password": "canary-password-51aa"},
        "token": {"password": None, "token": "canary-token-51aa"},
        "private_key": {
            "password": None,
            "private_key": private,
            "private_key_passphrase": "canary-passphrase-51aa",
        },
    }[kind]
    shop = SnowflakeInstallation(tmp_path / "home", snowflake_server, snowflake_database, user="canary", **given)
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', '2026-01-01')")
    assert sync(shop).equal is True
    assert all(result.ok for result in shop.steps.catalog.connector("shop").check())
    with pytest.raises(HeadraceError) as caught:
        sync(shop, cursor="absent")
    snowflake_server.set_rules({"match": "SELECT", "error": [2003, "Object 'X' does not exist or not authorized."]})
    with pytest.raises(HeadraceError) as refused:
        sync(shop)
    secrets = ["51aa", private.splitlines()[4], private.splitlines()[9]]
    told = f"{caught.value} {refused.value} {caplog.text} {' '.join(snowflake_server.statements())}"
    written = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert written
    for secret in secrets:
        assert secret not in told
        assert not any(secret.encode() in content for content in written)


def run_schedule(shop: SnowflakeInstallation, seed: int, steps: int) -> None:
    """Rows that come, change (the cursor stepping back within the overlap, or gone), move to other keys and go."""
    chance = random.Random(seed)
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'first', '2026-01-01 00:00:00'), (2, 'first', NULL)")
    minute = 0
    for _ in range(steps):
        minute += chance.randrange(5)
        now = f"'2026-01-01 {minute // 60:02}:{minute % 60:02}:00'::TIMESTAMP_NTZ"
        stamp = f"{now} - INTERVAL '{chance.randrange(15)} minutes'"
        moment = "NULL" if chance.random() < 0.1 else stamp
        key, other = chance.randrange(20), chance.randrange(100, 200)
        shop.execute(
            chance.choice(
                [
                    f"INSERT INTO t SELECT {key}, 'n{chance.random()}', {moment} "
                    f"WHERE NOT EXISTS (SELECT 1 FROM t WHERE id = {key})",
                    f"UPDATE t SET name = 'u{chance.random()}', updated_at = {moment} WHERE id = {key}",
                    f"DELETE FROM t WHERE id = {key}",
                    f"UPDATE t SET id = {other}, updated_at = {moment} "
                    f"WHERE id = {key} AND NOT EXISTS (SELECT 1 FROM t WHERE id = {other})",
                ]
            )
        )
        if chance.random() < 0.2:
            sync(shop, mode="incremental", deletes=chance.choice(["none", "keys"]))
    assert sync(shop, mode="incremental", deletes="keys").equal is True


def test_a_random_schedule_ends_equal_to_the_source(shop: SnowflakeInstallation) -> None:
    run_schedule(shop, 0, 20)
    assert shop.verify("public.t", "keys").equal is True


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 30))
def test_many_random_schedules_end_equal_to_the_source(shop: SnowflakeInstallation, seed: int) -> None:
    run_schedule(shop, seed, 60)
    assert shop.verify("public.t", "keys").equal is True
