"""The registry asks the sources that changed, and a source that does not answer keeps its tables."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest

from assets.settings import Settings
from orchestration import discovered_tables
from orchestration.components import connector_registry
from orchestration.headrace import Headrace
from orchestration.registry_state import RegistryState, read_registry


def upload(hr: Headrace, name: str, table: str = "t") -> None:
    hr.datasets.upload(name, [(f"{table}.csv", io.BytesIO(f"{name}_{table}\n1\n".encode()))])


def shown(state: RegistryState) -> dict[str, list[str]]:
    return {connector.name: [table.name for table in connector.tables] for connector in state.connectors}


def test_an_added_connector_is_asked_and_the_others_as_time_allows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hr = Headrace(settings=settings)
    upload(hr, "a")
    upload(hr, "b")
    assert shown(read_registry(settings)) == {"a": ["files.t"], "b": ["files.t"]}
    asked: list[str] = []
    ask = discovered_tables._asked

    def noted(catalog: Any, record: Any, before: Any) -> Any:
        asked.append(record.name)
        return ask(catalog, record, before)

    monkeypatch.setattr(discovered_tables, "_asked", noted)
    monkeypatch.setattr(discovered_tables, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(discovered_tables, "AT_ONCE", 1)
    upload(hr, "c")
    upload(hr, "b", "more")
    assert shown(read_registry(settings)) == {"a": ["files.t"], "b": ["files.more", "files.t"], "c": ["files.t"]}
    assert sorted(asked[:2]) == ["b", "c"], "the changed ones first"
    hr.connectors.remove("a")
    assert "a" not in shown(read_registry(settings))


def test_a_source_that_does_not_answer_keeps_its_tables(settings: Settings) -> None:
    hr = Headrace(settings=settings)
    upload(hr, "a")
    read_registry(settings)
    config = {"host": "127.0.0.1", "port": 9, "database": "d", "user": "u", "password": "p"}
    hr.connectors.update("a", config, type="postgres")
    for _ in range(2):  # it is no answer that would be remembered
        state = read_registry(settings)
        assert shown(state) == {"a": ["files.t"]} and state.connectors[0].error
    hr.connectors.remove("a")
    upload(hr, "a")
    (settings.home_path / "discovered.json").write_text("{")
    state = read_registry(settings)
    assert shown(state) == {"a": ["files.t"]} and state.connectors[0].error is None, "a torn file is no memory"


def test_who_adds_a_connector_waits_for_no_other_source(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hr = Headrace(settings=settings)
    upload(hr, "a")
    read_registry(settings)
    free, ask = threading.Event(), discovered_tables._asked

    def slow_when_known(catalog: Any, record: Any, before: Any) -> Any:
        if before is not None:
            free.wait(60)
        return ask(catalog, record, before)

    monkeypatch.setattr(discovered_tables, "_asked", slow_when_known)
    monkeypatch.setattr(discovered_tables, "AGAIN_SECONDS", 60.0)
    upload(hr, "b")
    assert shown(read_registry(settings)) == {"a": ["files.t"], "b": ["files.t"]}, "it did not wait for the known one"
    assert not free.is_set()
    free.set()


def test_a_code_location_knows_the_catalog_that_it_shows(settings: Settings, tmp_path: Path) -> None:
    state = tmp_path / "state"
    hr = Headrace(settings=settings)
    upload(hr, "a")
    version = hr.catalog.version()
    assert not connector_registry.is_loaded(version)
    connector_registry.ConnectorRegistry().write_state_to_path(state)
    assert connector_registry.is_loaded(version), "its reload is under way"
    upload(hr, "b")
    assert not connector_registry.is_loaded(hr.catalog.version())
