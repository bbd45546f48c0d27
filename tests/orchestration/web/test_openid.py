"""Login at an OpenID Connect provider, end to end, and every way in which its answer may be wrong."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient

from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.web import openid
from tests.orchestration.web.people import LOCAL, anonymous
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider

ROLES = "admin=platform,operator=analysts,viewer=staff"


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider() as running:
        yield running


@pytest.fixture
def hr(settings: Settings, provider: OpenIdProvider) -> Headrace:
    given = {
        "oidc_issuer": provider.url,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": SecretStr(CLIENT_SECRET),
        "oidc_roles": ROLES,
    }
    return Headrace(settings=settings.model_copy(update=given))


@pytest.fixture
def browser(web_app: Callable[..., Starlette]) -> TestClient:
    return anonymous(web_app())


def come_back(browser: TestClient, target: str = "/headrace/account", **changed: str) -> Any:
    """Go to the provider and come back with its answer, with some of its parameters changed."""
    start = browser.get("/headrace/openid/start", params={"next": target})
    assert start.status_code == 302, start.text
    answer = httpx.get(start.headers["location"])
    assert answer.status_code == 302, answer.text
    back = urlsplit(answer.headers["location"])
    assert f"{back.scheme}://{back.netloc}" == LOCAL
    query = {name: values[0] for name, values in parse_qs(back.query).items()} | changed
    return browser.get(back.path, params=query)


def assert_refused(browser: TestClient, answer: Any, hr: Headrace, users: int = 0) -> None:
    assert answer.status_code == 403, answer.text
    assert "canary" not in answer.text
    assert len(hr.catalog.access.users()) == users
    assert browser.get("/headrace/account").status_code == 401
    line = hr.catalog.access.audit_page(limit=1000).items
    assert any((entry.action, entry.outcome) == ("login", "denied") for entry in line)


def test_a_login_at_the_provider_opens_a_session_with_the_role_of_the_claims(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider
) -> None:
    assert provider.url in browser.get("/headrace/login").text
    done = come_back(browser)
    assert (done.status_code, done.headers["location"]) == (303, "/headrace/account")
    page = browser.get("/headrace/account")
    assert page.status_code == 200 and "ada@example.com" in page.text
    (user,) = hr.catalog.access.users()
    assert (user.name, user.role, user.issuer) == ("ada@example.com", "admin", provider.url)
    (asked,) = provider.token_requests
    assert asked["grant_type"] == "authorization_code" and len(asked["code_verifier"]) >= 43
    done = [e for e in hr.catalog.access.audit_page().items if e.action == "login"]
    assert [(e.target, e.outcome) for e in done] == [("ada@example.com", "done")]


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["platform", "staff"], "admin"), (["staff", "analysts"], "operator"), ("staff", "viewer"), (["guests"], None)],
)
def test_the_highest_role_of_the_claim_counts_and_who_has_none_is_refused(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider, groups: Any, role: str | None
) -> None:
    provider.person["groups"] = groups
    answer = come_back(browser)
    if role is None:
        assert_refused(browser, answer, hr)
        assert "no role is given" in answer.text
    else:
        assert [user.role for user in hr.catalog.access.users()] == [role]


def test_a_role_is_read_anew_at_each_login(
    web_app: Callable[..., Starlette], hr: Headrace, provider: OpenIdProvider
) -> None:
    app = web_app()
    come_back(anonymous(app))
    provider.person["groups"] = ["staff"]
    come_back(anonymous(app))
    assert [(user.name, user.role) for user in hr.catalog.access.users()] == [("ada@example.com", "viewer")]


def test_claims_that_only_userinfo_tells_are_asked_there(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider
) -> None:
    provider.only_userinfo = {"groups", "email"}
    assert come_back(browser).status_code == 303
    assert [(user.name, user.role) for user in hr.catalog.access.users()] == [("ada@example.com", "admin")]


def test_userinfo_of_another_person_is_refused(browser: TestClient, hr: Headrace, provider: OpenIdProvider) -> None:
    provider.only_userinfo = {"groups", "email"}
    provider.claims = {"sub": "eve-1"}
    assert_refused(browser, come_back(browser), hr)


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": "another-client", "azp": CLIENT_ID},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"exp": int(time.time()) - 3600},
        {"iat": int(time.time()) + 3600},
        {"exp": None},
        {"sub": None},
        {"email": "ada@example.com", "email_verified": False},
    ],
    ids=lambda claims: "-".join(claims),
)
def test_an_id_token_with_a_wrong_claim_is_refused(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    assert_refused(browser, come_back(browser), hr)


def _unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in (header | {"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def _with_client_secret(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return jwt.encode(header | {"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET * 2), algorithms=["HS256"])


def _by_another_key(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return jwt.encode(header, claims, RSAKey.generate_key(2048))


def _altered(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return _by_another_key(header, claims)[:-12] + "AAAAAAAAAAAA"


@pytest.mark.parametrize("sign", [_unsigned, _with_client_secret, _by_another_key, _altered])
@pytest.mark.parametrize("offered", [["RS256"], ["none", "HS256", "RS256"]], ids=["rs256", "none-offered"])
def test_an_id_token_that_the_providers_key_did_not_sign_is_refused(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider, sign: Any, offered: list[str]
) -> None:
    provider.sign = sign
    provider.metadata = {"id_token_signing_alg_values_supported": offered}
    assert_refused(browser, come_back(browser), hr)


def test_a_key_that_the_provider_changed_is_found(
    web_app: Callable[..., Starlette], hr: Headrace, provider: OpenIdProvider
) -> None:
    app = web_app()
    assert come_back(anonymous(app)).status_code == 303
    provider.key = RSAKey.generate_key(2048, parameters={"kid": "key-2"})
    provider.header = {"kid": "key-2"}
    assert come_back(anonymous(app)).status_code == 303


def test_a_state_of_another_browser_is_refused(
    web_app: Callable[..., Starlette], hr: Headrace, provider: OpenIdProvider
) -> None:
    app = web_app()
    victim, attacker = anonymous(app), anonymous(app)
    for browser, changed in ((victim, {"state": "x"}), (victim, {"state": ""}), (victim, {"code": "x"})):
        assert_refused(browser, come_back(browser, **changed), hr)
    answer = httpx.get(attacker.get("/headrace/openid/start").headers["location"])
    back = urlsplit(answer.headers["location"])
    assert_refused(victim, victim.get(f"{back.path}?{back.query}"), hr)
    fresh = anonymous(app)
    assert_refused(fresh, fresh.get(f"{back.path}?{back.query}"), hr)


def test_an_answer_is_good_once(browser: TestClient, hr: Headrace, provider: OpenIdProvider) -> None:
    start = browser.get("/headrace/openid/start")
    back = urlsplit(httpx.get(start.headers["location"]).headers["location"])
    kept = browser.cookies[openid.COOKIE]
    assert browser.get(f"{back.path}?{back.query}").status_code == 303
    assert openid.COOKIE not in browser.cookies
    browser.cookies.clear()
    browser.cookies.set(openid.COOKIE, kept)
    assert_refused(browser, browser.get(f"{back.path}?{back.query}"), hr, users=1)


def test_a_login_that_took_too_long_is_refused(
    browser: TestClient, hr: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = browser.get("/headrace/openid/start")
    back = urlsplit(httpx.get(start.headers["location"]).headers["location"])
    monkeypatch.setattr(openid, "FLOW_SECONDS", -1)
    assert_refused(browser, browser.get(f"{back.path}?{back.query}"), hr)


def test_a_refusal_of_the_provider_is_shown_without_its_text(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider
) -> None:
    provider.refuse = "access_denied canary"
    assert_refused(browser, come_back(browser), hr)


def test_another_user_of_that_name_is_not_taken_over(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider
) -> None:
    hr.catalog.access.add_user("ada@example.com", "viewer", None)
    assert_refused(browser, come_back(browser), hr, users=1)


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example/", "/\\evil.example"])
def test_a_login_never_leads_to_another_site(browser: TestClient, provider: OpenIdProvider, target: str) -> None:
    assert come_back(browser, target).headers["location"] == "/headrace/"


def test_a_provider_that_is_away_or_another_than_it_says_is_told(
    web_app: Callable[..., Starlette], hr: Headrace, provider: OpenIdProvider
) -> None:
    provider.metadata = {"issuer": "https://evil.example"}
    browser = anonymous(web_app())
    assert_refused(browser, come_back(browser), hr)
    provider.shutdown()
    provider.server_close()
    answer = anonymous(web_app()).get("/headrace/openid/start")
    assert (answer.status_code, "does not answer" in answer.text) == (502, True)


def test_a_provider_without_tls_is_refused_unless_it_is_on_this_machine(
    web_app: Callable[..., Starlette], hr: Headrace, settings: Settings
) -> None:
    hr.settings = hr.settings.model_copy(update={"oidc_issuer": "http://login.example.com"})
    answer = anonymous(web_app()).get("/headrace/openid/start")
    assert answer.status_code == 500 and "https" in answer.text


def test_who_logs_out_may_log_out_at_the_provider_too(
    browser: TestClient, hr: Headrace, provider: OpenIdProvider
) -> None:
    come_back(browser)
    session = browser.cookies
    assert session
    page = browser.get("/headrace/account")
    token = page.text.split('name="csrf-token" content="')[1].split('"')[0]
    out = browser.post("/headrace/logout", data={"csrf_token": token}, headers={"Origin": LOCAL})
    assert (out.status_code, out.headers["location"]) == (303, "/headrace/login?out=provider")
    assert browser.get("/headrace/account").status_code == 401
    assert "/headrace/openid/logout" in browser.get(out.headers["location"]).text
    there = browser.get("/headrace/openid/logout")
    assert there.status_code == 302
    parts = urlsplit(there.headers["location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{provider.url}/logout"
    query = parse_qs(parts.query)
    assert query["client_id"] == [CLIENT_ID]
    assert query["post_logout_redirect_uri"] == [f"{LOCAL}/headrace/login"]


def test_behind_a_prefix_and_another_address_the_login_comes_back_there(
    web_app: Callable[..., Starlette], hr: Headrace, provider: OpenIdProvider
) -> None:
    browser = anonymous(web_app("/data"))
    start = browser.get("/data/headrace/openid/start", params={"next": "/headrace/account"})
    asked = parse_qs(urlsplit(start.headers["location"]).query)
    assert asked["redirect_uri"] == [f"{LOCAL}/data/headrace/openid/callback"]
    assert "Path=/data" in start.headers["set-cookie"] and "HttpOnly" in start.headers["set-cookie"]
    back = urlsplit(httpx.get(start.headers["location"]).headers["location"])
    done = browser.get(f"{back.path}?{back.query}")
    assert (done.status_code, done.headers["location"]) == (303, "/data/headrace/account")
