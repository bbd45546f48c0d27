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
