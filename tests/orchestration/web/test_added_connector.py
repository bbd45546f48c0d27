"""A connector that is added appears as assets in Dagster's part of the server, without a restart."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.settings import Settings
from orchestration.code_locations import LOCATION, STATE_KEY
from orchestration.defs.catalog_refresh import _REFRESH
from orchestration.headrace import Headrace
from orchestration.stack_credential import stack_credential
from orchestration.web.catalog_watch import LOOK_SECONDS
from orchestration.web.dagster_internals import open_workspace
from orchestration.web.webserver import HeadraceWebserver
from tests.child_processes import children_with
from tests.orchestration.web.people import People, bearer
from tests.polling import wait_until

WORKSPACE = Path(__file__).parents[3] / "workspace.yaml"
ASSETS = "{ assetNodes { assetKey { path } } }"


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def code_servers() -> set[int]:
    return {process.pid for process in children_with("orchestration.definitions")}


def test_an_added_connector_appears_as_assets_without_a_restart(settings: Settings, dagster_home: Path) -> None:
    hr = Headrace(settings=settings)
    hr.datasets.upload("first", [("t.csv", io.BytesIO(b"a\n1\n"))])
    with (
        dg.DagsterInstance.from_config(os.fspath(dagster_home)) as instance,
        open_workspace(instance, os.fspath(WORKSPACE)) as workspace,
    ):
        app = HeadraceWebserver(workspace, hr).create_asgi_app()
        viewer = People(hr).client(app, "viewer")
        stack = bearer(app, stack_credential(settings))

        def shown() -> set[tuple[str, ...]]:
            data: Any = viewer.post("/graphql", json={"query": ASSETS}).json()["data"]
            return {tuple(node["assetKey"]["path"]) for node in data["assetNodes"]}

        before = shown()
        assert ("silver", "first", "files.t") in before
        hr.datasets.upload("second", [("u.csv", io.BytesIO(b"a\n1\n"))])
        asked = {"query": _REFRESH, "variables": {"location": LOCATION, "key": STATE_KEY}}
        told = stack.post("/graphql", json=asked).json()
        assert told["data"]["refreshComponentState"]["__typename"] != "PythonError", told
        wait_until(lambda: ("silver", "second", "files.u") in shown(), 120)
        assert before < shown()
        with viewer:  # a server that runs follows the catalog by itself
            time.sleep(2 * LOOK_SECONDS)
            assert (processes := code_servers())
            hr.datasets.upload("third", [("v.csv", io.BytesIO(b"a\n1\n"))])
            wait_until(lambda: ("silver", "third", "files.v") in shown(), 120)
            hr.connectors.remove("third")
            wait_until(lambda: ("silver", "third", "files.v") not in shown(), 120)
            assert code_servers() == processes, "it builds the definitions anew where it runs"
