"""An installation with an empty database of its own, for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from assets.lakehouse.databricks import DatabricksLakehouse
from assets.settings import Settings
from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation
from tests.behaviour.worker_runs import missed_soon


def live_settings() -> dict[str, Any]:
    """A user's own workspace, from ``HEADRACE_LIVE_DATABRICKS_*``: HOST, WAREHOUSE_ID, CATALOG, and how to log in."""
    prefix = "HEADRACE_LIVE_DATABRICKS_"
    given = {f"databricks_{k.removeprefix(prefix).lower()}": v for k, v in os.environ.items() if k.startswith(prefix)}
    if "databricks_warehouse_id" not in given:
        pytest.skip(f"set {prefix}HOST, {prefix}WAREHOUSE_ID, {prefix}CATALOG and {prefix}TOKEN")
    own = f"headrace_test_{uuid.uuid4().hex[:8]}_"
    schemas = {"databricks_schema_prefix": own, "databricks_volume": f"{own}headrace.staging"}
    return {"lakehouse": "databricks"} | given | schemas


@pytest.fixture(
    params=[
        "local",
        pytest.param("databricks", marks=pytest.mark.slow),
        pytest.param("live", marks=pytest.mark.live),
    ]
)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The lakehouse engine of the test's installation, set in the environment; its worker processes read it too."""
    if request.param == "local":
        yield request.param
        return
    live = request.param == "live"
    settings = live_settings() if live else request.getfixturevalue("databricks").settings()
    for name, value in settings.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", text)
    yield request.param
    if live:
        lakehouse = DatabricksLakehouse.from_settings(Settings())
        for schema in lakehouse.schemas:  # of this test alone
            lakehouse.connection.client.schemas.delete(f"{lakehouse.catalog}.{schema}", force=True)


@pytest.fixture
def shop(engine: str, tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str]) -> Installation:
    return Installation(tmp_path / "home", postgres, database())


@pytest.fixture(autouse=True)
def servers_that_start_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor waits longer after each death, which is much of the time of tests that kill a worker often."""
    monkeypatch.setattr("orchestration.supervisor._LONGEST_PAUSE_SECONDS", 0.2)


@pytest.fixture
def crashing(
    engine: str,
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Installation:
    """An installation whose workers are found dead soon."""
    missed_soon(monkeypatch, tmp_path)
    shop = Installation(tmp_path / "home", postgres, database())
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, price numeric(12, 2), updated_at timestamptz)",
        "INSERT INTO t SELECT i, 'row ' || i, i / 7.0, now() - interval '1 day' FROM generate_series(1, 5000) i",
    )
    return shop
