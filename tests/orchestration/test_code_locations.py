"""Connectors spread over several code locations: each in one, found by its name alone, loaded anew alone."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from assets.errors import ConfigurationError
from assets.settings import Settings
from orchestration.code_locations import CodeLocation, code_locations, wanted_locations
from orchestration.demo_dagster_run import ask, launch_assets, wait_for_run
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.registry_state import read_registry
from tests.child_processes import children_with
from tests.polling import wait_until

NAMES = [f"connector_{number}" for number in range(1000)]
_SHOWN = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  location { name } assetGroups { groupName } sensors { name } schedules { name } } } } }"""
_RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { repositoryOrigin { repositoryLocationName } } } }"""


def location_of(name: str, count: int) -> CodeLocation:
    (found,) = [CodeLocation(n, count) for n in range(1, count + 1) if CodeLocation(n, count).holds(name)]
    return found


def named(number: int, count: int) -> list[str]:
    return [name for name in NAMES if location_of(name, count).number == number]


def upload(hr: Headrace, name: str) -> None:
    hr.datasets.upload(name, [("t.csv", io.BytesIO(b"a\n1\n"))])


@pytest.mark.parametrize("count", [1, 2, 8])
def test_each_connector_is_in_one_location_and_none_has_most(count: int) -> None:
    spread = Counter(location_of(name, count).number for name in NAMES)
    assert sorted(spread) == list(range(1, count + 1))
    assert max(spread.values()) < 1.3 * len(NAMES) / count


def test_few_connectors_have_one_location_and_a_number_that_there_is_not_is_refused(tmp_path: Path) -> None:
    assert [wanted_locations(n) for n in (0, 199, 200, 400, 10_000)] == [1, 1, 2, 4, 8]
    assert code_locations(Settings(home=tmp_path)) == [CodeLocation()]
    with pytest.raises(ConfigurationError, match="HEADRACE_CODE_LOCATIONS"):
        CodeLocation.of_process(Settings(home=tmp_path, code_location=3, code_locations=2))


def test_a_change_is_seen_by_the_location_that_shows_it_alone(settings: Settings) -> None:
    hr = Headrace(settings=settings)
    first, second = code_locations(settings.model_copy(update={"code_locations": 2}))
    ours, theirs = named(1, 2)[0], named(2, 2)[0]
    upload(hr, ours)
    upload(hr, theirs)
    before = (first.version(hr.catalog), second.version(hr.catalog))
    hr.pipelines.add("nightly", theirs, ["files.t"])
    after = (first.version(hr.catalog), second.version(hr.catalog))
    assert after[0] == before[0] and after[1] != before[1]
    hr.connectors.remove(ours)
    assert first.version(hr.catalog) != after[0] and second.version(hr.catalog) == after[1]


def test_what_the_locations_show_is_all_and_nothing_twice(settings: Settings) -> None:
    hr = Headrace(settings=settings)
    for name in NAMES[:6]:
        upload(hr, name)
        hr.pipelines.add(f"p_{name}", name, ["files.t"])
    shown: list[str] = []
    for number in (1, 2, 3):
        state = read_registry(settings.model_copy(update={"code_locations": 3, "code_location": number}))
        assert [p.connector for p in state.pipelines] == [c.name for c in state.connectors]
        assert all(connector.tables for connector in state.connectors)
        shown += [connector.name for connector in state.connectors]
    assert sorted(shown) == NAMES[:6]


def test_a_stack_of_two_locations_shows_syncs_and_reloads_each_by_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CODE_LOCATIONS", "2")
    hr = Headrace(settings=Settings(home=settings.home))
    ours, theirs, added = named(1, 2)[0], *named(2, 2)[:2]
    for name in (ours, theirs):
        upload(hr, name)
        hr.pipelines.add(f"p_{name}", name, ["files.t"], schedule="cron:0 3 * * *", active=False)
    with LocalStack(hr.settings).start(dagster=True) as stack:
        url = stack.dagster_url or ""

        def shown() -> dict[str, dict[str, set[str]]]:
            nodes = ask(url, _SHOWN)["repositoriesOrError"]["nodes"]
            return {
                node["location"]["name"]: {
                    "groups": {group["groupName"] for group in node["assetGroups"]},
                    "sensors": {sensor["name"] for sensor in node["sensors"]},
                    "schedules": {schedule["name"] for schedule in node["schedules"]},
                }
                for node in nodes
            }

        wait_until(lambda: len(shown()) == 2, 60)
        first, second = shown()["headrace"], shown()["headrace-2"]
        assert (first["groups"], second["groups"]) == ({ours, "kits"}, {theirs}), "kits are there once"
        assert f"schedule_p_{ours}" in first["schedules"] and second["schedules"] == {f"schedule_p_{theirs}"}
        assert {"orphaned_runs", "run_failure_notification"} <= first["sensors"]
        assert second["sensors"] == {"catalog_refresh", "sync_history"}

        run = launch_assets(url, theirs, 60)
        wait_for_run(url, run, 90)
        assert ask(url, _RUN, {"id": run})["runOrError"]["repositoryOrigin"]["repositoryLocationName"] == "headrace-2"
        assert hr.table_state(theirs, "files.t").equal is True

        servers = children_with("orchestration.definitions")
        upload(hr, added)
        wait_until(lambda: added in shown()["headrace-2"]["groups"], 60)
        assert shown()["headrace"]["groups"] == first["groups"]
        hr.connectors.remove(added)
        wait_until(lambda: added not in shown()["headrace-2"]["groups"], 60)
        assert servers <= children_with("orchestration.definitions")
