"""SIGKILL of the Dagster run's process at every named failpoint: Dagster's own retries attach to the work in hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from assets.failpoints import DAGSTER_FAILPOINTS
from assets.lakehouse.interface import TableId
from orchestration.dagster_instance import prepare_dagster_home
from orchestration.demo_dagster_run import ask, launch_assets, wait_for_run
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation

TABLES = ("public.t", "public.u")


def run_statuses(url: str) -> list[str]:
    runs = ask(url, "{ runsOrError { ... on Runs { results { status } } } }")["runsOrError"]["results"]
    return [run["status"] for run in runs]


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
    assert shop.staged_files() == []


_REEXECUTE = """
mutation ($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""


def reexecute(url: str, run_id: str, strategy: str) -> str:
    """What the UI's "Re-execute" button sends."""
    answer = ask(url, _REEXECUTE, {"params": {"parentRunId": run_id, "strategy": strategy}})["launchRunReexecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def test_the_uis_re_execution_attaches_to_the_work_of_a_killed_run_and_all_steps_starts_new_work(
    crashing: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = crashing
    config = prepare_dagster_home(shop.settings) / "dagster.yaml"
    content = yaml.safe_load(config.read_text())
    content["run_retries"]["enabled"] = False
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("HEADRACE_FAILPOINTS", "dagster_after_start=kill")

    with LocalStack(shop.settings).start(dagster=True) as stack:
        assert stack.dagster_url is not None
        url = stack.dagster_url
        first = launch_assets(url, "shop", 60)
        deadline = time.monotonic() + 90
        while run_statuses(url) != ["FAILURE"]:
            assert time.monotonic() < deadline, run_statuses(url)
            time.sleep(0.5)
        second = reexecute(url, first, "FROM_FAILURE")
        wait_for_run(url, second, 90)
        bronze = TableId(layer="bronze", connector="shop", table="public.t")
        state = shop.steps.lakehouse.state(bronze)
        assert state is not None and state.version == 0, "one commit"
        (run,) = shop.steps.catalog.table_runs("shop")
        assert (run.status, run.run_group) == ("succeeded", first)

        third = reexecute(url, second, "ALL_STEPS")
        wait_for_run(url, third, 90)
        newest, _ = shop.steps.catalog.table_runs("shop")
        assert (newest.status, newest.run_group) == ("succeeded", third)
    assert shop.verify("public.t").equal is True
