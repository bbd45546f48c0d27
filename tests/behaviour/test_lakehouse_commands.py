"""``headrace lakehouse``: set up, examined, and moved from the local engine to Databricks without losing its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.errors import ConflictError
from assets.failpoints import COPY_FAILPOINTS
from assets.lakehouse.interface import TableId
from assets.settings import Settings
from assets.steps import SyncSteps
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from tests.behaviour.installation import Installation
from tests.servers.databricks_server import DatabricksServer

TABLE = "public.orders"
COLUMNS = ["id", "name", "price", "done", "at"]


@pytest.fixture
def shop(tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str]) -> Installation:
    """Synced twice on the local engine: with changed and with deleted rows."""
    shop = Installation(tmp_path / "home", postgres, database())
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, price numeric(9,2), done boolean, at timestamp, "
        "updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, 'it''s \\ ' || i, i / 7.0, i % 2 = 0, now() FROM generate_series(1, 500) i",
    )
    shop.sync(TABLE)
    shop.execute(
        "UPDATE orders SET price = 1, updated_at = clock_timestamp() WHERE id < 50", "DELETE FROM orders WHERE id > 490"
    )
    shop.sync(TABLE, deletes="keys")
    return shop


def remote(databricks: DatabricksServer) -> dict[str, Any]:
    return {name: value for name, value in databricks.settings().items() if name != "lakehouse"}


def moved(shop: Installation, given: dict[str, Any]) -> Installation:
    """The same installation with its tables on Databricks."""
    there = shop.reopened()
    there.settings = Settings(home=shop.settings.home, lakehouse="databricks", **given)
    there.steps = SyncSteps.from_settings(there.settings)
    return there


def assert_goes_on(there: Installation) -> None:
    """The next sync reads the changes alone, and Silver equals the source by value."""
    there.execute("UPDATE orders SET price = 2, updated_at = clock_timestamp() WHERE id = 7")
    result = there.sync(TABLE, deletes="keys")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 1, True)
    assert there.verify(TABLE).equal is True
    assert there.silver(TABLE, COLUMNS) == there.source_rows(f"SELECT {', '.join(COLUMNS)} FROM orders")


def test_a_copy_holds_every_value_and_syncs_go_on_from_the_watermark(
    shop: Installation, databricks: DatabricksServer
) -> None:
    given = remote(databricks)
    hr = Headrace(settings=shop.settings.model_copy(update=given))
    copied = list(hr.lakehouse.copy("shop"))
    assert [(t.layer, t.rows, t.repeated) for t in copied] == [("bronze", 559, False), ("silver", 500, False)]
    again = list(hr.lakehouse.copy("shop"))
    assert [(t.layer, t.rows, t.repeated) for t in again] == [("bronze", 559, True), ("silver", 500, True)]
    there = moved(shop, given)
    for layer in ("bronze", "silver"):
        table = TableId(layer=layer, connector="shop", table=TABLE)  # type: ignore[arg-type]
        before, after = shop.steps.lakehouse.state(table), there.steps.lakehouse.state(table)
        assert before and after and (after.watermark, after.tags[:-1]) == (before.watermark, before.tags)
        assert there._rows(layer, TABLE, COLUMNS, False) == shop._rows(layer, TABLE, COLUMNS, False)  # type: ignore[arg-type]
    assert there.staged_files() == []
    assert_goes_on(there)
    shop.execute("INSERT INTO orders (id) VALUES (1000)")
    shop.sync(TABLE)
    with pytest.raises(ConflictError, match="written by a sync"):
        list(hr.lakehouse.copy("shop"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if "before" in n else pytest.mark.slow) for n in COPY_FAILPOINTS]
)
def test_a_copy_that_is_killed_goes_on_where_it_was(
    shop: Installation, databricks: DatabricksServer, tmp_path: Path, name: str
) -> None:
    given = remote(databricks)
    texts = {k: v if isinstance(v, str) else v.get_secret_value() for k, v in given.items()}
    environment = {f"HEADRACE_{k.upper()}": v for k, v in texts.items()} | {
        "HEADRACE_FAILPOINTS": f"{name}=kill",
        "HEADRACE_FAILPOINTS_FIRED": str(tmp_path / "fired"),
        "HEADRACE_HOME": str(shop.settings.home_path),
    }
    command = [sys.executable, "-m", "orchestration.cli", "lakehouse", "copy", "shop", "--json"]
    codes = []
    for _ in range(2):
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
        )
        codes.append(done.returncode)
    assert codes == [-signal.SIGKILL, 0], done.stderr
    layers = {table["layer"]: table["rows"] for table in json.loads(done.stdout)["tables"]}
    assert layers == {"bronze": 559, "silver": 500}
    there = moved(shop, given)
    assert there.staged_files() == []
    assert_goes_on(there)


def test_init_makes_what_is_missing_once_and_status_names_the_missing_grant(
    databricks: DatabricksServer, tmp_path: Path
) -> None:
    given = databricks.settings("fresh_catalog")
    hr = Headrace(settings=Settings(home=tmp_path, **given))
    missing = hr.lakehouse.status()
    assert not missing.ok and {c.fix for c in missing.checks if not c.ok} == {"Run: headrace lakehouse init"}
    assert hr.lakehouse.init() == [
        "catalog fresh_catalog",
        "schema fresh_catalog.bronze",
        "schema fresh_catalog.silver",
        "schema fresh_catalog.headrace",
        "volume fresh_catalog.headrace.staging",
    ]
    assert hr.lakehouse.init() == []
    assert hr.lakehouse.status().ok
    try:
        databricks.act_as("reader@example.com", "USE_CATALOG", "USE_SCHEMA", "SELECT", "READ_VOLUME")
        found = {check.name: check for check in Headrace(settings=hr.settings).lakehouse.status().checks}
    finally:
        databricks.act_as()
    assert found["catalog fresh_catalog"].ok and found["warehouse"].ok
    assert found["schema fresh_catalog.bronze"].fix == (
        "GRANT CREATE TABLE, MODIFY ON SCHEMA `fresh_catalog`.`bronze` TO `reader@example.com`;"
    )
    assert found["volume fresh_catalog.headrace.staging"].fix == (
        "GRANT WRITE VOLUME ON VOLUME `fresh_catalog`.`headrace`.`staging` TO `reader@example.com`;"
    )


def test_status_of_an_unreachable_workspace_is_one_failed_check(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        lakehouse="databricks",
        databricks_host="http://127.0.0.1:9",
        databricks_warehouse_id="x",
        databricks_token="secret-canary",  # type: ignore[arg-type]
        databricks_retry_seconds=1,
    )
    found = Headrace(settings=settings).lakehouse.status()
    assert not found.ok and [check.name for check in found.checks] == ["workspace"]
    assert "secret-canary" not in found.model_dump_json()


def test_the_local_lakehouse_tells_its_space_its_tables_and_their_formats(shop: Installation, tmp_path: Path) -> None:
    found = Headrace(settings=shop.settings).lakehouse.status()
    assert found.ok and found.free_bytes and found.free_bytes > 0
    tables = {table.name: table for table in found.tables}
    bronze = tables["headrace.bronze.shop__public__orders"]
    assert (bronze.rows, bronze.version, bronze.reader, bronze.writer) == (559, 1, 3, 7)  # timestampNtz
    fresh = Headrace(home=tmp_path / "fresh")
    assert not fresh.lakehouse.status().ok
    assert len(fresh.lakehouse.init()) == 2 and fresh.lakehouse.init() == []
    assert fresh.lakehouse.status().ok
