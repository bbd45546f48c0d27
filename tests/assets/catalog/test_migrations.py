"""The catalog's tables: made by migrations, once, whoever comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import text

from assets.catalog.database import HEAD_REVISION, open_database
from assets.catalog.models import Base
from assets.catalog.store import Catalog
from assets.errors import ConfigurationError
from assets.settings import Settings

OPEN_AND_ADD = """
import sys
from pydantic import SecretStr
from assets.catalog.store import Catalog
from assets.settings import Settings
home, url, number = sys.argv[1:]
catalog = Catalog.from_settings(Settings(home=home, catalog_url=SecretStr(url) if url else None))
config = {"host": "h", "database": "d", "user": "u", "password": f"secret{number}"}
catalog.add_connector(f"c{number}", "postgres", config)
print(len(catalog.connectors()))
"""


def test_the_migrations_make_exactly_the_models(catalog_settings: Settings) -> None:
    with open_database(catalog_settings).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_head_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "assets.catalog:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD_REVISION]


def test_four_processes_that_open_a_new_catalog_at_once_all_succeed(catalog_settings: Settings) -> None:
    home = catalog_settings.home_path
    url = catalog_settings.catalog_url.get_secret_value() if catalog_settings.catalog_url else ""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_ADD, str(home), url, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], outputs
    catalog = Catalog.from_settings(catalog_settings)
    assert [record.name for record in catalog.connectors()] == ["c0", "c1", "c2", "c3"]
    for number in range(4):  # one key for all: each secret can be read
        password = catalog.connector(f"c{number}").config.password
        assert password.get_secret_value() == f"secret{number}"
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_catalog_of_a_newer_version_is_refused(catalog_settings: Settings) -> None:
    engine = open_database(catalog_settings)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigurationError, match="newer Headrace"):
        Catalog.from_settings(catalog_settings)


def test_sqlite_is_opened_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    with open_database(Settings(home=tmp_path)).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_an_unreachable_database_is_told_without_its_password(tmp_path: Path) -> None:
    url = SecretStr("postgresql://reader:canary-pass@127.0.0.1:9/shop")
    with pytest.raises(ConfigurationError, match="cannot be opened") as caught:
        Catalog.from_settings(Settings(home=tmp_path, catalog_url=url))
    assert "canary-pass" not in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["mysql://u:canary-pass@h/d", "no url canary-pass", "sqlite://"])
def test_a_wrong_catalog_url_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Catalog.from_settings(Settings(home=tmp_path, catalog_url=SecretStr(url)))
    assert "canary-pass" not in str(caught.value)
