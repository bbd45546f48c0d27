"""Keys of stored secrets are changed under load, and by a process that is killed half-way."""

# ruff: noqa: F811
from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import text

from assets.catalog.models import Base
from assets.catalog.secret_keys import SecretKeys, key_id
from assets.catalog.store import Catalog
from assets.errors import ConfigurationError
from assets.failpoints import ROTATION_FAILPOINTS
from assets.settings import Settings
from tests.assets.catalog.conftest import CANARY, catalog, catalog_settings, shop_config  # noqa: F401


def everything(catalog: Catalog) -> str:
    """The content of every table of the catalog."""
    with catalog._engine.connect() as connection:
        return "".join(repr(connection.execute(text(f'SELECT * FROM "{t}"')).all()) for t in Base.metadata.tables)


def fill(catalog: Catalog, config: dict[str, Any]) -> None:
    for number in range(5):
        catalog.add_connector(f"c{number}", "postgres", {**config, "password": f"{CANARY}{number}"})
    catalog.add_connector("by_env", "postgres", {**config, "password": "env:HOME"})
    catalog.hash_key()


def assert_readable(catalog: Catalog, hash_key: bytes) -> None:
    for number in range(5):
        assert catalog.connector(f"c{number}").config.password.get_secret_value() == f"{CANARY}{number}"
    assert catalog.hash_key() == hash_key


def test_a_rotation_encrypts_every_secret_with_a_new_key_and_drops_the_old_one(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any]
) -> None:
    fill(catalog, shop_config)
    hash_key, before = catalog.hash_key(), catalog.connector_record("c0")
    (old,) = catalog.key_rotation.inventory().keys
    assert old in everything(catalog)
    done = catalog.key_rotation.rotate()
    assert (done.secrets, done.dropped) == (6, (old,))
    assert old not in everything(catalog), "in no column of no table, known or new"
    found = catalog.key_rotation.inventory()
    assert found.keys == (done.key,)
    assert found.secrets == {f"key {done.key}": 6, "env": 1}
    assert_readable(catalog, hash_key)
    assert catalog.connector_record("c0") == before, "status and version stay"
    assert (catalog_settings.home_path / "secret.key").stat().st_mode & 0o777 == 0o600


def test_secrets_of_the_first_release_are_read_and_rotated(catalog: Catalog, shop_config: dict[str, Any]) -> None:
    catalog.add_connector("c0", "postgres", shop_config)
    catalog.change_stored_config("c0", lambda config: config | {"password": _without_id(config["password"])})
    assert catalog.key_rotation.inventory().secrets == {"key without id": 1}
    assert catalog.connector("c0").config.password.get_secret_value() == CANARY
    done = catalog.key_rotation.rotate()
    assert catalog.key_rotation.inventory().secrets == {f"key {done.key}": 1}
    assert catalog.connector("c0").config.password.get_secret_value() == CANARY


def _without_id(stored: dict[str, str]) -> dict[str, str]:
    return {"$secret": "fernet:" + stored["$secret"].split(":")[2]}


@pytest.mark.parametrize("place", ROTATION_FAILPOINTS)
def test_a_rotation_that_is_killed_leaves_all_readable_and_the_next_one_finishes(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any], tmp_path: Path, place: str
) -> None:
    fill(catalog, shop_config)
    hash_key = catalog.hash_key()
    environment = os.environ | {
        "HEADRACE_HOME": str(catalog_settings.home_path),
        "HEADRACE_FAILPOINTS": f"{place}=kill",
        "HEADRACE_FAILPOINTS_FIRED": str(tmp_path / "fired"),
    }
    if catalog_settings.catalog_url is not None:
        environment["HEADRACE_CATALOG_URL"] = catalog_settings.catalog_url.get_secret_value()
    command = [sys.executable, "-m", "orchestration.cli", "secrets", "rotate"]
    died = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert_readable(catalog, hash_key)
    catalog.add_connector("later", "postgres", shop_config)
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = catalog.key_rotation.inventory()
    assert len(found.keys) == 1
    assert found.secrets == {f"key {found.keys[0]}": 7, "env": 1}
    assert_readable(catalog, hash_key)
    assert CANARY not in finished.stdout + finished.stderr + died.stderr


def test_who_reads_and_stores_secrets_meanwhile_notices_nothing(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any]
) -> None:
    fill(catalog, shop_config)
    problems: list[BaseException] = []
    stop = threading.Event()

    def work(number: int) -> None:
        own = Catalog.from_settings(catalog_settings)
        try:
            round = 0
            while not stop.is_set():
                round += 1
                own.add_connector(f"w{number}", "postgres", {**shop_config, "password": f"{round}"}, replace=True)
                assert own.connector(f"w{number}").config.password.get_secret_value() == f"{round}"
        except BaseException as error:
            problems.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        catalog.key_rotation.rotate()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert problems == []
    for record in catalog.connectors():
        catalog.connector(record.name)


def test_keys_of_the_environment_are_rotated_by_a_person(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any]
) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    def opened(keys: str) -> Catalog:
        return Catalog.from_settings(catalog_settings.model_copy(update={"secret_key": SecretStr(keys)}))

    opened(old).add_connector("c0", "postgres", shop_config)
    with pytest.raises(ConfigurationError, match=r"(?s)holds one key.*NEW,OLD"):
        opened(old).key_rotation.rotate()
    assert opened(f"{new},{old}").connector("c0").config.password.get_secret_value() == CANARY
    done = opened(f"{new},{old}").key_rotation.rotate()
    assert (done.key, done.secrets, done.dropped) == (key_id(new.encode()), 1, (key_id(old.encode()),))
    assert opened(new).connector("c0").config.password.get_secret_value() == CANARY
    with pytest.raises(ConfigurationError, match=rf"another key \({done.key}\)"):
        opened(old).connector("c0")
    assert not (catalog_settings.home_path / "secret.key").exists()


def test_a_secret_that_cannot_be_decrypted_stops_a_rotation_before_it_changes_anything(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any]
) -> None:
    fill(catalog, shop_config)
    hash_key = catalog.hash_key()
    foreign = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    catalog.add_connector("lost", "postgres", shop_config)
    catalog.change_stored_config("lost", lambda config: config | {"password": {"$secret": f"fernet:0000:{foreign}"}})
    before = everything(catalog)
    with pytest.raises(ConfigurationError, match=r"lost: a stored secret was encrypted with another key \(0000\)"):
        catalog.key_rotation.rotate()
    assert everything(catalog) == before
    assert_readable(catalog, hash_key)
    catalog.remove_connector("lost")
    catalog.key_rotation.rotate()
    assert len(SecretKeys(catalog_settings).read(create=False)) == 1
    assert_readable(catalog, hash_key)
