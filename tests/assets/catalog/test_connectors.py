"""Connectors: stored with encrypted secrets, shown without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import text

from assets.catalog.secrets import MASK, SecretVault
from assets.catalog.store import Catalog
from assets.errors import ConfigurationError, ConflictError, NotFoundError
from assets.settings import Settings
from assets.sync import CheckResult
from tests.assets.catalog.conftest import CANARY


def test_a_secret_is_masked_in_records_and_comes_out_only_in_the_connector(
    catalog: Catalog, shop_config: dict[str, Any]
) -> None:
    added = catalog.add_connector("shop", "postgres", shop_config)
    for record in (added, catalog.connector_record("shop"), *catalog.connectors()):
        assert record.config == {**shop_config, "password": MASK}
        assert record.status == "pending"
    assert catalog.connector("shop").config.password.get_secret_value() == CANARY


def test_a_secret_is_nowhere_in_the_clear(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    catalog.add_connector("shop", "postgres", shop_config)
    connector = catalog.connector("shop")
    catalog.record_test("shop", connector.check())
    assert CANARY not in repr(connector.config)
    assert CANARY not in caplog.text
    with catalog._engine.connect() as connection:
        for table in ("connectors", "pipelines", "runs", "table_runs"):
            assert CANARY not in repr(connection.execute(text(f"SELECT * FROM {table}")).all())
    for file in Path(catalog_settings.home_path).rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes()


def test_references_are_kept_and_resolved_when_the_connector_is_built(
    catalog: Catalog, shop_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file = tmp_path / "password"
    secret_file.write_text("from the file\n")
    by_file = f"file:{secret_file}"
    catalog.add_connector("by_file", "postgres", {**shop_config, "password": by_file})
    catalog.add_connector("by_env", "postgres", {**shop_config, "password": "env:SHOP_PASSWORD"})
    assert catalog.connector_record("by_file").config["password"] == by_file
    assert catalog.connector_record("by_env").config["password"] == "env:SHOP_PASSWORD"
    assert catalog.connector("by_file").config.password.get_secret_value() == "from the file"
    with pytest.raises(ConfigurationError, match="by_env: the environment variable SHOP_PASSWORD is not set"):
        catalog.connector("by_env")
    monkeypatch.setenv("SHOP_PASSWORD", "from the environment")
    assert catalog.connector("by_env").config.password.get_secret_value() == "from the environment"
    secret_file.unlink()
    with pytest.raises(ConfigurationError, match=r"secret file .* cannot be read"):
        catalog.connector("by_file")


def test_a_trial_resolves_references_and_stores_nothing(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "from the environment")
    trial = catalog.trial_connector("postgres", {**shop_config, "password": "env:SHOP_PASSWORD"})
    assert trial.config.password.get_secret_value() == "from the environment"
    assert catalog.trial_connector("postgres", shop_config).config.password.get_secret_value() == CANARY
    assert catalog.connectors() == []
    assert not (catalog_settings.home_path / "secret.key").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"port": CANARY}, "port"),
        ({"port": 70_000}, "port"),
        ({"hots": CANARY}, "hots"),
        ({"password": {"nested": CANARY}}, "password"),
        ({"database": None}, "database"),
    ],
)
def test_a_wrong_config_names_the_field_and_never_the_value(
    catalog: Catalog, shop_config: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"shop: the config does not fit type postgres: {field}") as caught:
        catalog.add_connector("shop", "postgres", shop_config | change)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert catalog.connectors() == []


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (
            "snowflake",
            {"account": "a", "user": "password", "database": "d"},
            "give exactly one of password, private_key, token and oauth",
        ),
        (
            "snowflake",  # a secret that a message happens to hold
            {"account": "a", "user": "u", "database": "d", "password": "private_key", "token": "t0ken"},
            "the value is not valid",
        ),
        (
            "rest_api",
            {
                "base_url": "https://api.example.com",
                "endpoints": [
                    {"name": "lines", "path": "orders/{id}", "parent": {"endpoint": "ordres", "params": {"id": "id"}}}
                ],
            },
            "endpoint lines names a parent that is not there",
        ),
    ],
)
def test_what_a_config_lacks_is_told_in_words_unless_they_hold_a_secret(
    catalog: Catalog, kind: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        catalog.add_connector("a", kind, config)


def test_an_unknown_type_and_a_bad_name_are_refused(catalog: Catalog, shop_config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)no connector type 'oracle'.*postgres"):
        catalog.add_connector("shop", "oracle", shop_config)
    for name in ("", "Shop", "1shop", "shop-1", "shop/../x", "s" * 64, "shop\n"):
        with pytest.raises(ConfigurationError, match="no connector name"):
            catalog.add_connector(name, "postgres", shop_config)


def test_a_taken_name_is_refused_unless_replaced_and_replacing_resets_the_status(
    catalog: Catalog, shop_config: dict[str, Any]
) -> None:
    catalog.add_connector("shop", "postgres", shop_config)
    catalog.record_test("shop", [CheckResult(name="login", ok=True)])
    assert catalog.connector_record("shop").status == "active"
    with pytest.raises(ConflictError, match="--replace"):
        catalog.add_connector("shop", "postgres", shop_config)
    changed = catalog.add_connector(
        "shop", "postgres", {**shop_config, "host": "other", "password": MASK}, replace=True
    )
    assert (changed.status, changed.last_tested_at, changed.config["host"]) == ("pending", None, "other")
    assert catalog.connector("shop").config.password.get_secret_value() == CANARY


def test_the_mask_is_no_password_of_a_new_connector(catalog: Catalog, shop_config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="there is none"):
        catalog.add_connector("shop", "postgres", {**shop_config, "password": MASK})


def test_a_failed_test_is_kept_with_its_fix(catalog: Catalog, shop_config: dict[str, Any]) -> None:
    catalog.add_connector("shop", "postgres", shop_config)
    checks = [
        CheckResult(name="network", ok=True),
        CheckResult(name="grants", ok=False, detail="no right to read t.", fix="GRANT SELECT ON t TO reader;"),
    ]
    record = catalog.record_test("shop", checks)
    assert record.status == "error"
    assert record.last_error == "grants: no right to read t.\nGRANT SELECT ON t TO reader;"
    assert record.last_tested_at is not None and record.last_tested_at.tzinfo is not None


def test_another_or_a_lost_key_is_told(
    catalog: Catalog, catalog_settings: Settings, shop_config: dict[str, Any]
) -> None:
    catalog.add_connector("shop", "postgres", shop_config)
    other = catalog_settings.model_copy(update={"secret_key": SecretStr(Fernet.generate_key().decode())})
    with pytest.raises(ConfigurationError, match="another key"):
        Catalog(catalog._engine, SecretVault(other)).connector("shop")
    wrong = catalog_settings.model_copy(update={"secret_key": SecretStr("canary-key")})
    with pytest.raises(ConfigurationError, match="HEADRACE_SECRET_KEY holds no Fernet key") as caught:
        Catalog(catalog._engine, SecretVault(wrong)).connector("shop")
    assert "canary-key" not in str(caught.value)
    (catalog_settings.home_path / "secret.key").unlink()
    with pytest.raises(ConfigurationError, match=r"is gone: .*secret\.key"):
        catalog.connector("shop")
    assert not (catalog_settings.home_path / "secret.key").exists()


def test_removing_a_connector_asks_for_its_pipelines(catalog: Catalog, shop_config: dict[str, Any]) -> None:
    catalog.add_connector("shop", "postgres", shop_config)
    catalog.add_pipeline("nightly", "shop", all_tables=True)
    with pytest.raises(ConflictError, match="nightly"):
        catalog.remove_connector("shop")
    catalog.remove_connector("shop", force=True)
    assert catalog.pipelines() == []
    for call in (catalog.remove_connector, catalog.connector, catalog.connector_record):
        with pytest.raises(NotFoundError, match="shop"):
            call("shop")
