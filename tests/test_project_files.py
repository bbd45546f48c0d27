"""Files that are made from others stay current, and installing needs nothing but a package index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from assets.connector_pages import connector_pages
from assets.settings_page import settings_page

ROOT = Path(__file__).parent.parent


def test_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_connector_pages_are_current() -> None:
    folder = ROOT / "docs" / "connectors"
    written = {file.name: file.read_text() for file in folder.glob("*.md")}
    assert written == connector_pages(), "run: python -m assets.connector_pages docs/connectors"


@pytest.mark.parametrize("file", ["constraints.txt", "tests/standins/snowflake/constraints.txt"])
def test_constraints_pin_and_hash_every_package_and_name_no_address(file: str) -> None:
    text = (ROOT / file).read_text()
    pins = re.findall(r"^([a-z0-9-]+)==\S+", text, flags=re.MULTILINE)
    blocks = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(pins) == len(blocks) > 30
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|--index|--find-links|^-|@ ", text, flags=re.MULTILINE)


def test_every_dependency_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[><=~! ]", item)[0].lower().replace("_", "-") for item in wanted}
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert names - pinned == set()


def test_ci_runs_make_test() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
