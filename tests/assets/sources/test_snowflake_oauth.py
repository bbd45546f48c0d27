"""A person's login at Snowflake: endpoints, scope, the statement that allows it, and what a config may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from assets.errors import SourceAccessError
from assets.oauth import LoginError, OAuthClient
from assets.sources.snowflake import SnowflakeConnector
from assets.sources.snowflake_connection import SnowflakeConfig
from assets.url_guard import UrlGuard
from tests.servers.snowflake_server import SnowflakeServer
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider

EXTERNAL = {"authorization_url": "https://login.example.com/authorize", "token_url": "https://login.example.com/token"}


def connector(oauth: dict[str, Any] | None = None, **changes: Any) -> SnowflakeConnector:
    given: dict[str, Any] = {"account": "myorg-myaccount", "user": "ada", "database": "shop", "role": "reader"}
    given |= {"oauth": {"client_id": "id", "client_secret": "s", **(oauth or {})}}
    return SnowflakeConnector("shop", SnowflakeConfig(**given | changes))


def client(oauth: dict[str, Any] | None = None, **changes: Any) -> OAuthClient:
    found = connector(oauth, **changes).oauth_client()
    assert found is not None
    return found


def test_the_endpoints_are_the_accounts_own_unless_a_provider_is_named() -> None:
    own = client()
    assert own.authorization_url == "https://myorg-myaccount.snowflakecomputing.com/oauth/authorize"
    assert own.token_url == "https://myorg-myaccount.snowflakecomputing.com/oauth/token-request"
    assert own.basic and own.scope == "refresh_token session:role:READER"
    private = client(host="shop.privatelink.example.com", port=8443)
    assert private.token_url == "https://shop.privatelink.example.com:8443/oauth/token-request"
    other = client(EXTERNAL)
    assert (other.authorization_url, other.token_url) == tuple(EXTERNAL.values())
    assert not other.basic and other.scope == "offline_access session:role:READER"


@pytest.mark.parametrize(
    ("role", "scope"),
    [
        (None, "refresh_token"),
        ("reader", "refresh_token session:role:READER"),
        ('"Data readers & co"', "refresh_token session:role-encoded:Data%20readers%20%26%20co"),
    ],
)
def test_the_scope_names_the_role_exactly(role: str | None, scope: str) -> None:
    assert client(role=role).scope == scope
    assert client({"scope": "refresh_token session:role:OTHER"}, role=role).scope == "refresh_token session:role:OTHER"


def test_another_role_needs_another_login() -> None:
    assert client(role="reader").identity != client(role="writer").identity


@pytest.mark.parametrize(
    "change",
    [
        {"password": "beside the login"},
        {"oauth": {"client_id": "id", "token_url": "https://login.example.com/token"}},
        {"oauth": {"client_id": "id", **EXTERNAL, "authorization_url": "javascript:alert(1)"}},
        {"oauth": {"client_secret": "without an id"}},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"account": "a", "user": "u", "database": "d", "oauth": {"client_id": "id"}}
    SnowflakeConfig(**good)
    with pytest.raises(ValidationError):
        SnowflakeConfig(**{**good, **change})


def test_only_an_address_without_tls_has_to_be_allowed_expressly() -> None:
    address = "https://headrace.example.com/headrace/oauth/callback"
    statement = connector().oauth_registration(address)
    assert f"OAUTH_REDIRECT_URI = '{address}'" in statement and "NON_TLS" not in statement
    assert "OAUTH_ALLOW_NON_TLS_REDIRECT_URI = TRUE" in connector().oauth_registration("http://127.0.0.1:3000/x")
    outside = connector(EXTERNAL).oauth_registration(address)
    assert "TYPE = EXTERNAL_OAUTH" in outside and "('https://myorg-myaccount.snowflakecomputing.com')" in outside


def test_the_clients_secret_goes_where_the_token_endpoint_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with OpenIdProvider() as server:
        server.refresh_tokens.add("refresh")
        server.rotates = False
        for basic in (True, False):
            given = OAuthClient(f"{server.url}/authorize", f"{server.url}/token", CLIENT_ID, basic=basic)
            with pytest.raises(LoginError, match="401 invalid_client"):
                given.by_refresh_token("refresh", UrlGuard.from_settings(), "shop")
            known = replace(given, client_secret=SecretStr(CLIENT_SECRET))
            assert known.by_refresh_token("refresh", UrlGuard.from_settings(), "shop")["access_token"]
            assert ("client_secret" in server.token_requests[-1]) is not basic


def test_a_connector_that_is_not_stored_yet_says_how_access_is_given(
    snowflake_server: SnowflakeServer, snowflake_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_WEB_URL", "https://headrace.example.com/")
    config = snowflake_server.config(snowflake_database, password=None, oauth={"client_id": "id"})
    unstored = SnowflakeConnector("shop", SnowflakeConfig(**config))
    network, login, *later = unstored.check()
    assert network.ok and (login.name, login.ok) == ("login", False)
    assert login.fix.startswith("Save the connector, then log in.\nThe account needs:\nCREATE SECURITY INTEGRATION")
    assert "OAUTH_REDIRECT_URI = 'https://headrace.example.com/headrace/oauth/callback'" in login.fix
    assert {check.detail for check in later} == {"not tried: login failed"}
    with pytest.raises(SourceAccessError, match="a person has to log in"):
        unstored.discover()
