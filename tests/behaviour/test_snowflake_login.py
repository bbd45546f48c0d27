"""A Snowflake connector that a person logs in for, on the stand-in: from the statement that allows it to the end."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from assets.errors import SourceAccessError
from assets.sync import CheckResult
from orchestration.headrace import Headrace
from tests.behaviour.snowflake_installation import SnowflakeInstallation
from tests.servers.snowflake_server import SnowflakeServer
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider

CALLBACK = "http://127.0.0.1:3000/headrace/oauth/callback"


@pytest.fixture
def account(snowflake_server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnowflakeServer]:
    monkeypatch.setenv("HEADRACE_WEB_URL", "http://127.0.0.1:3000")
    snowflake_server.add_user("ADA")
    snowflake_server.add_user("BOB")
    snowflake_server.oauth(forget=True, settings={"person": "ADA"})
    yield snowflake_server
    snowflake_server.oauth(forget=True)


@pytest.fixture
def shop(tmp_path: Path, account: SnowflakeServer, snowflake_database: str) -> SnowflakeInstallation:
    """Stored, but neither the account nor a person has allowed anything yet."""
    oauth = {"client_id": "not known yet"}
    shop = SnowflakeInstallation(tmp_path / "home", account, snowflake_database, user="ada", password=None, oauth=oauth)
    shop.execute("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    return shop


def headrace(shop: SnowflakeInstallation) -> Headrace:
    return Headrace(settings=shop.settings)


def login_check(shop: SnowflakeInstallation) -> CheckResult:
    return next(check for check in shop.steps.catalog.connector("shop").check() if check.name == "login")


def register(shop: SnowflakeInstallation, more: str = "") -> None:
    """Run the statements that the check shows, and put what they answer into the config."""
    statement, secrets = login_check(shop).fix.partition("The account needs:\n")[2].split(";\n")
    shop.source.execute(None, f"{statement}\n{more}")
    ((found,),) = shop.source.execute(None, secrets)
    given = json.loads(found)
    oauth = {"client_id": given["OAUTH_CLIENT_ID"], "client_secret": given["OAUTH_CLIENT_SECRET"]}
    headrace(shop).connectors.update("shop", shop.source.config(shop.database, user="ada", password=None, oauth=oauth))


def at_the_source(shop: SnowflakeInstallation) -> dict[str, str]:
    """What the browser brings back from the account."""
    answer = httpx.get(headrace(shop).logins.begin("shop", CALLBACK, "ada"))
    assert answer.status_code == 302, answer.text
    back = answer.headers["location"]
    assert back.startswith(CALLBACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


def log_in(shop: SnowflakeInstallation) -> None:
    brought = at_the_source(shop)
    headrace(shop).logins.finish(brought["state"], brought["code"], "ada")


def stored_tokens(shop: SnowflakeInstallation) -> dict[str, str]:
    tokens = shop.steps.catalog.connector("shop").access_tokens
    return json.loads(tokens._stored()["tokens"])  # type: ignore[union-attr]


def test_the_statement_of_the_check_leads_to_a_login_and_to_proven_syncs(shop: SnowflakeInstallation) -> None:
    before = login_check(shop)
    assert (before.ok, before.detail) == (False, "nobody has given access yet.")
    assert before.fix.startswith("Log in at its source: open /headrace/oauth/shop")
    assert f"OAUTH_REDIRECT_URI = '{CALLBACK}'" in before.fix
    with pytest.raises(SourceAccessError, match="nobody has given access yet"):
        shop.sync("public.t")
    register(shop)
    log_in(shop)
    checks = shop.steps.catalog.connector("shop").check()
    assert all(check.ok for check in checks), checks
    assert re.fullmatch(r"access was given by ada on [\d-]+, until [\d-]+ [\d:]+ UTC", login_check(shop).detail)
    assert shop.sync("public.t").rows_read == 2
    shop.execute("UPDATE t SET name = 'changed' WHERE id = 1", "INSERT INTO t VALUES (3, 'c')")
    assert shop.sync("public.t").equal is True
    assert shop.verify("public.t").equal is True
    assert shop.source.oauth() == ["granted"], "one token served all of it"


def test_a_token_that_ends_is_refreshed_and_the_refresh_token_kept(shop: SnowflakeInstallation) -> None:
    register(shop)
    shop.source.oauth(settings={"access_seconds": 1})
    log_in(shop)
    first = stored_tokens(shop)
    shop.source.oauth(settings={"access_seconds": 600})
    time.sleep(1.1)
    assert shop.sync("public.t").equal is True
    assert shop.source.oauth() == ["granted", "granted"]
    second = stored_tokens(shop)
    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] == first["refresh_token"], "the account gave no other one"


@pytest.mark.parametrize("end", [{"expire": True}, {"revoke_access": True}], ids=["expired", "invalid"])
def test_a_token_that_the_account_refuses_is_refreshed_once(shop: SnowflakeInstallation, end: dict[str, Any]) -> None:
    register(shop)
    log_in(shop)
    shop.source.oauth(**end)
    assert shop.sync("public.t").equal is True
    assert shop.source.oauth() == ["granted", "granted"]
    shop.source.oauth(settings={"access_seconds": 0})  # every token is refused as soon as it is there
    shop.source.oauth(expire=True)
    with pytest.raises(SourceAccessError, match=r"(?s)OAuth access token expired.*/headrace/oauth/shop") as caught:
        shop.sync("public.t")
    assert not caught.value.retryable
    assert shop.source.oauth() == ["granted", "granted", "granted"], "refreshed once, not again and again"


def test_a_refresh_token_that_is_good_once_is_replaced(shop: SnowflakeInstallation) -> None:
    register(shop, "OAUTH_SINGLE_USE_REFRESH_TOKENS_REQUIRED = TRUE")
    log_in(shop)
    first = stored_tokens(shop)["refresh_token"]
    for _ in range(2):
        shop.source.oauth(expire=True)
        assert shop.sync("public.t").equal is True
    assert stored_tokens(shop)["refresh_token"] != first


def test_a_refresh_token_that_was_taken_back_asks_for_another_login(shop: SnowflakeInstallation) -> None:
    register(shop)
    log_in(shop)
    shop.source.oauth(revoke_refresh=True, expire=True)
    with pytest.raises(SourceAccessError, match=r"(?s)given again.*invalid_grant.*/headrace/oauth/shop"):
        shop.sync("public.t")
    login = login_check(shop)
    assert not login.ok and login.fix == "Log in at its source: open /headrace/oauth/shop"
    log_in(shop)
    assert shop.sync("public.t").equal is True


def test_what_the_account_refuses_is_told_with_its_remedy(shop: SnowflakeInstallation) -> None:
    register(shop)
    shop.source.oauth(settings={"refuse": "access_denied"})
    assert at_the_source(shop)["error"] == "access_denied"
    shop.source.oauth(settings={"refuse": "", "person": "BOB"})
    log_in(shop)
    login = login_check(shop)
    assert not login.ok and "differs from the user tied to the access token" in login.detail
    assert login.fix == "Correct `user`, or log in as ada. Log in at its source: open /headrace/oauth/shop"
    shop.source.oauth(settings={"person": "ADA"})
    log_in(shop)
    assert login_check(shop).ok
    config = shop.source.config(shop.database, user="ada", password=None, role="absent", oauth={})
    oauth = headrace(shop).connectors.show("shop").config["oauth"]
    headrace(shop).connectors.update("shop", config | {"oauth": oauth})
    assert at_the_source(shop)["error"] == "invalid_scope"
    with pytest.raises(SourceAccessError, match="client or scope was changed since access was given"):
        shop.sync("public.t")


def test_a_token_without_the_role_is_told_as_that(shop: SnowflakeInstallation) -> None:
    register(shop)
    oauth = headrace(shop).connectors.show("shop").config["oauth"] | {"scope": "refresh_token session:role:PUBLIC"}
    config = shop.source.config(shop.database, user="ada", password=None, oauth=oauth)
    headrace(shop).connectors.update("shop", config)
    log_in(shop)
    with pytest.raises(SourceAccessError, match=r"(?s)not listed in the Access Token.*is granted to the user"):
        shop.sync("public.t")


def test_a_wrong_secret_of_the_client_shows_where_the_right_one_is(shop: SnowflakeInstallation) -> None:
    register(shop)
    log_in(shop)
    config = headrace(shop).connectors.show("shop").config
    config["oauth"]["client_secret"] = "another one"
    headrace(shop).connectors.update("shop", config)
    log = at_the_source(shop)
    with pytest.raises(SourceAccessError, match="invalid_client"):
        headrace(shop).logins.finish(log["state"], log["code"], "ada")
    shop.source.oauth(expire=True)
    login = login_check(shop)
    assert not login.ok and "invalid_client" in login.detail


def test_a_provider_of_external_oauth_logs_people_in(shop: SnowflakeInstallation) -> None:
    base = f"http://127.0.0.1:{shop.source.port}"
    with OpenIdProvider() as provider:
        addresses = {"authorization_url": f"{provider.url}/authorize", "token_url": f"{provider.url}/token"}
        oauth = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **addresses}
        config = shop.source.config(shop.database, user="ada", password=None, oauth=oauth)
        headrace(shop).connectors.update("shop", config)
        statement = login_check(shop).fix.partition("The account needs:\n")[2]
        for placeholder, value in (("issuer of the provider", provider.url), ("its address of keys", "/jwks")):
            statement = statement.replace(f"<{placeholder}>", value if value != "/jwks" else f"{provider.url}/jwks")
        shop.source.execute(None, statement)
        provider.access_claims = {"aud": base, "sub": "ada", "scp": ["session:role:READER"]}
        log_in(shop)
        assert shop.sync("public.t").equal is True
        provider.key = type(provider.key).generate_key(2048, parameters={"kid": "key-1"})  # old tokens are void
        provider.rotates = False
        assert shop.sync("public.t").equal is True
        assert [form["grant_type"] for form in provider.token_requests] == ["authorization_code", "refresh_token"]


def test_no_token_stands_in_what_an_installation_writes(
    shop: SnowflakeInstallation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    register(shop)
    log_in(shop)
    assert shop.sync("public.t").equal is True
    shop.source.oauth(expire=True)
    assert shop.verify("public.t").equal is True
    shop.source.oauth(expire=True, revoke_refresh=True)
    with pytest.raises(SourceAccessError) as caught:
        shop.sync("public.t")
    secrets = [*stored_tokens(shop).values(), "canary"]
    shown = repr(headrace(shop).connectors.show("shop")) + repr(login_check(shop))
    told = f"{caught.value} {shown} {' '.join(shop.source.statements())}"
    logged = [record.getMessage() for record in caplog.records if record.name.split(".")[0] != "httpx"]
    written = [path.read_bytes() for path in shop.settings.home.rglob("*") if path.is_file()]
    assert written
    for secret in secrets:
        assert secret not in told + " ".join(logged)
        assert not any(secret.encode() in content for content in written)
