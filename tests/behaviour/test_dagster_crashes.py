"""SIGKILL of the Dagster run's process at every named failpoint: Dagster's own retries attach to the work in hand."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from assets.failpoints import DAGSTER_FAILPOINTS
from assets.lakehouse.interface import TableId
from orchestration.dagster_instance import prepare_dagster_home
from orchestration.demo_dagster_run import launch_assets
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation

TABLES = ("public.t", "public.u")


def run_statuses(url: str) -> list[str]:
    query = json.dumps({"query": "{ runsOrError { ... on Runs { results { status } } } }"}).encode()
    request = urllib.request.Request(f"{url}/graphql", query, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [run["status"] for run in json.load(answer)["data"]["runsOrError"]["results"]]


def test_a_dagster_run_that_dies_at_every_failpoint_in_turn_does_the_work_once(
    crashing: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = crashing
    shop.execute("CREATE TABLE u AS SELECT * FROM t WHERE id <= 100", "ALTER TABLE u ADD PRIMARY KEY (id)")
    config = prepare_dagster_home(shop.settings) / "dagster.yaml"
    content = yaml.safe_load(config.read_text())
    content["run_retries"]["max_retries"] = len(DAGSTER_FAILPOINTS)
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in DAGSTER_FAILPOINTS))

    with LocalStack(shop.settings).start(dagster=True) as stack:
        assert stack.dagster_url is not None
        launch_assets(stack.dagster_url, "shop", 60)
        deadline = time.monotonic() + 200
        while "SUCCESS" not in (statuses := run_statuses(stack.dagster_url)):
            assert time.monotonic() < deadline, statuses
            time.sleep(0.5)

    assert sorted(statuses) == ["FAILURE"] * len(DAGSTER_FAILPOINTS) + ["SUCCESS"]
    assert {path.name for path in (tmp_path / "fired").iterdir()} == set(DAGSTER_FAILPOINTS)
    for table in TABLES:
        bronze = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=table))
        assert bronze is not None and bronze.version == 0, "one commit"
        assert [run.status for run in shop.steps.catalog.table_runs("shop", table)] == ["succeeded"]
        assert shop.verify(table).equal is True
    assert [run.status for run in shop.steps.catalog.runs()] == ["succeeded"]
    staging = shop.settings.home_path / "staging"
    assert [path for path in staging.rglob("*") if path.is_file()] == []
