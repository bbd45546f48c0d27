"""An empty catalog in each database that Headrace supports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from assets.catalog.store import Catalog
from assets.settings import Settings

CANARY = "canary-Zx81-pass:word/%40"


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a home whose catalog does not exist yet."""
    if request.param == "sqlite":
        return Settings(home=tmp_path / "home")
    server = request.getfixturevalue("postgres")
    database = request.getfixturevalue("database")()
    config = server.config(database)
    secret = config.get("password", "")
    password = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    url = f"postgresql://{config['user']}:{password}@{config['host']}:{config['port']}/{database}"
    return Settings(home=tmp_path / "home", catalog_url=SecretStr(url))


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    opened = Catalog.from_settings(catalog_settings)
    yield opened
    opened.close()


@pytest.fixture
def shop_config() -> dict[str, object]:
    """A config that fits the type; nothing listens there."""
    return {"host": "127.0.0.1", "port": 9, "database": "shop", "user": "reader", "password": CANARY}
