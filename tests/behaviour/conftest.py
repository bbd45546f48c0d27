"""An installation with an empty database of its own, for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation


@pytest.fixture
def shop(tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str]) -> Installation:
    return Installation(tmp_path / "home", postgres, database())


@pytest.fixture
def crashing(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """An installation whose workers are found dead soon."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    monkeypatch.setenv("HEADRACE_FAILPOINTS_FIRED", str(tmp_path / "fired"))
    shop = Installation(tmp_path / "home", postgres, database())
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, price numeric(12, 2), updated_at timestamptz)",
        "INSERT INTO t SELECT i, 'row ' || i, i / 7.0, now() - interval '1 day' FROM generate_series(1, 5000) i",
    )
    return shop
