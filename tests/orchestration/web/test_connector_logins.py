"""OAuth connectors: a person logs in at the source; the tokens are kept encrypted and refreshed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.testclient import TestClient

from assets.catalog.models import Base, ConnectorRow, now
from assets.catalog.oauth_tokens import OAuthTokens, oauth_client_of
from assets.catalog.store import Catalog
from assets.errors import SourceAccessError, SourceUnreachableError
from orchestration.headrace import Headrace
from tests.orchestration.web.people import LOCAL, People, bearer
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenIdProvider]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with OpenIdProvider() as running:
        yield running


@pytest.fixture
def api(hr: Headrace, server: OpenIdProvider) -> None:
    auth = {
        "type": "oauth2_authorization_code",
        "authorization_url": f"{server.url}/authorize",
        "token_url": f"{server.url}/token",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "scope": "read offline_access",
        "parameters": {"access_type": "offline", "state": "is ours to choose"},
    }
    endpoints = [{"name": "orders", "path": "orders", "primary_key": ["id"], "paginator": {"type": "single_page"}}]
    hr.connectors.add("api", type="rest_api", config={"base_url": server.url, "auth": auth, "endpoints": endpoints})


@pytest.fixture
def admin(web_app: Callable[..., Starlette], people: People) -> TestClient:
    client = people.client(web_app(), "admin")
    client.follow_redirects = False
    return client


def at_the_source(client: TestClient) -> Any:
    """Begin the login; returns the address with which the source sends the browser back."""
    begun = client.post("/api/v1/connectors/api/oauth")
    assert begun.status_code == 200, begun.text
    answer = httpx.get(begun.json()["authorization_url"])
    assert answer.status_code == 302, answer.text
    return urlsplit(answer.headers["location"])


def log_in(client: TestClient) -> None:
    back = at_the_source(client)
    done = client.get(f"{back.path}?{back.query}")
    assert (done.status_code, done.headers["location"]) == (303, "/headrace/oauth/api"), done.text


def expire(hr: Headrace) -> None:
    """The stored access token ends now."""
    with hr.catalog._writing() as session:
        row = session.get(ConnectorRow, "api")
        assert row is not None and row.oauth is not None
        row.oauth = row.oauth | {"refresh_after": now().isoformat(), "access_expires_at": now().isoformat()}


def token(hr: Headrace, rejected: str | None = None) -> str:
    return OAuthTokens(hr.catalog, "api").access_token(oauth_client_of(hr.catalog.connector("api")), rejected)


def everything(catalog: Catalog) -> str:
    with catalog._engine.connect() as connection:
        return "".join(repr(connection.execute(text(f'SELECT * FROM "{t}"')).all()) for t in Base.metadata.tables)


@pytest.mark.usefixtures("api")
def test_a_person_logs_in_and_the_connector_reads(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    before = hr.connectors.test("api")
    (login,) = [check for check in before.checks if check.name == "login"]
    assert (login.ok, login.detail) == (False, "nobody has given access yet.")
    assert "/headrace/oauth/api" in login.fix
    page = admin.get("/headrace/oauth/api").text
    assert "Nobody has given access" in page and f"{LOCAL}/headrace/oauth/callback" in page
    begun = admin.post("/headrace/oauth/api")
    assert begun.status_code == 200
    address = begun.text.split('role="button" href="')[1].split('"')[0].replace("&amp;", "&")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert asked["access_type"] == "offline" and asked["state"] != "is ours to choose"
    assert (asked["code_challenge_method"], asked["scope"]) == ("S256", "read offline_access")
    back = urlsplit(httpx.get(address).headers["location"])
    done = admin.get(f"{back.path}?{back.query}")
    assert (done.status_code, done.headers["location"]) == (303, "/headrace/oauth/api")
    assert "by admin" in admin.get("/headrace/oauth/api").text
    after = hr.connectors.test("api")
    assert after.ok, after
    assert [len(table.columns) for table in hr.connectors.discover("api")] == [2]
    state = admin.get("/api/v1/connectors/api").json()["oauth"]
    assert (state["authorized_by"], state["refreshable"], state["problem"]) == ("admin", True, None)
    assert [e.target for e in hr.catalog.access.audit_page().items if e.action == "connector login"] == ["api"]


@pytest.mark.usefixtures("api")
def test_tokens_are_nowhere_in_the_clear(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    log_in(admin)
    answers = [admin.get(path).text for path in ("/headrace/oauth/api", "/api/v1/connectors/api", "/api/v1/connectors")]
    assert "canary" not in everything(hr.catalog) + "".join(answers)
    hr.catalog.key_rotation.rotate()
    assert token(hr) in server.access_tokens, "and a rotation of keys keeps them"


@pytest.mark.usefixtures("api")
def test_a_login_is_of_who_began_it_and_good_once(
    hr: Headrace, server: OpenIdProvider, web_app: Callable[..., Starlette], people: People, admin: TestClient
) -> None:
    people.access.add_user("other", "admin", None)
    other = people.client(web_app(), "other")  # type: ignore[arg-type]
    other.follow_redirects = False
    back = at_the_source(admin)
    assert other.get(f"{back.path}?{back.query}").status_code == 409
    assert admin.get(f"{back.path}?{back.query}").status_code == 303
    assert admin.get(f"{back.path}?{back.query}").status_code == 409
    assert admin.get(back.path, params={"state": "x", "code": "y"}).status_code == 409
    assert hr.connectors.show("api").oauth is not None
    by_token = at_the_source(bearer(web_app(), people.token("admin")))
    assert admin.get(f"{by_token.path}?{by_token.query}").status_code == 303, "a token's owner finishes in the browser"


@pytest.mark.usefixtures("api")
def test_a_refusal_leaves_the_connector_as_it_was(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    server.refuse = "access_denied"
    back = at_the_source(admin)
    answer = admin.get(f"{back.path}?{back.query}")
    assert answer.status_code == 502 and "refused" in answer.text
    server.refuse = None
    back = at_the_source(admin)
    server.codes.clear()
    answer = admin.get(f"{back.path}?{back.query}")
    assert answer.status_code == 502 and "invalid_grant" in answer.text and "canary" not in answer.text
    assert hr.connectors.show("api").oauth is None


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("rotates", [True, False])
def test_workers_that_need_a_token_at_once_refresh_it_once(
    hr: Headrace, server: OpenIdProvider, admin: TestClient, rotates: bool
) -> None:
    log_in(admin)
    server.rotates, server.token_delay = rotates, 0.5
    for _ in range(2):
        expire(hr)
        server.token_requests.clear()
        workers = [Headrace(settings=hr.settings) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(token, workers))
        assert [form["grant_type"] for form in server.token_requests] == ["refresh_token"]
        assert len(got) == 4 and len(set(got)) == 1 and got[0] in server.access_tokens


@pytest.mark.usefixtures("api")
def test_a_token_that_the_source_refuses_is_refreshed_once_for_all(
    hr: Headrace, server: OpenIdProvider, admin: TestClient
) -> None:
    log_in(admin)
    server.token_requests.clear()
    refused = token(hr)
    server.access_tokens.clear()
    assert hr.connectors.test("api").ok
    assert token(hr, rejected=refused) in server.access_tokens
    assert len(server.token_requests) == 1


@pytest.mark.usefixtures("api")
def test_a_refresh_that_is_refused_is_told_before_and_after_it_bites(
    hr: Headrace, server: OpenIdProvider, admin: TestClient
) -> None:
    log_in(admin)
    server.refresh_tokens.clear()
    expire(hr)
    with pytest.raises(
        SourceAccessError, match=r"(?s)access has to be given again.*invalid_grant.*/headrace/oauth/api"
    ):
        token(hr)
    count = len(server.token_requests)
    with pytest.raises(SourceAccessError, match="access has to be given again"):
        token(hr)
    assert len(server.token_requests) == count, "and it is not asked again in vain"
    assert "invalid_grant" in admin.get("/api/v1/connectors/api").json()["oauth"]["problem"]
    assert "Log in at the source again" in admin.get("/headrace/oauth/api").text
    log_in(admin)
    assert token(hr) in server.access_tokens


@pytest.mark.usefixtures("api")
def test_the_end_of_the_access_is_told_a_week_before(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    server.gives_refresh_token, server.token_seconds = False, 3 * 86_400
    log_in(admin)
    (login,) = [check for check in hr.connectors.test("api").checks if check.name == "login"]
    assert login.ok and "the access that admin gave ends" in login.detail and "/headrace/oauth/api" in login.fix
    state = hr.connectors.show("api").oauth
    assert state is not None and state.ends_at is not None and state.ends_at - now() < timedelta(days=3)
    expire(hr)
    with pytest.raises(SourceAccessError, match="the access that admin gave ended"):
        token(hr)


@pytest.mark.usefixtures("api")
def test_a_server_that_is_away_costs_no_token(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    log_in(admin)
    expire(hr)
    server.shutdown()
    server.server_close()
    for _ in range(2):
        with pytest.raises(SourceUnreachableError, match="the token endpoint does not answer"):
            token(hr)
    assert hr.connectors.show("api").oauth.problem is None  # type: ignore[union-attr]


@pytest.mark.usefixtures("api")
def test_another_client_needs_another_login(hr: Headrace, server: OpenIdProvider, admin: TestClient) -> None:
    log_in(admin)
    config = hr.connectors.show("api").config
    config["auth"]["token_url"] = "http://evil.example/token"
    hr.connectors.update("api", config)
    with pytest.raises(SourceAccessError, match="was changed since access was given"):
        token(hr)
    assert admin.delete("/api/v1/connectors/api/oauth").status_code == 204
    assert hr.connectors.show("api").oauth is None


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "/relative"])
def test_the_login_page_is_a_web_address(hr: Headrace, server: OpenIdProvider, admin: TestClient, address: str) -> None:
    auth = {
        "type": "oauth2_authorization_code",
        "authorization_url": address,
        "token_url": server.url,
        "client_id": "x",
    }
    config = {"base_url": server.url, "auth": auth, "endpoints": [{"name": "orders", "path": "orders"}]}
    answer = admin.post("/api/v1/connectors", json={"name": "bad", "type": "rest_api", "config": config})
    assert answer.status_code == 422 and "authorization_url" in answer.text


@pytest.mark.usefixtures("api")
def test_a_token_endpoint_inside_is_refused(
    hr: Headrace, server: OpenIdProvider, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = at_the_source(admin)
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "")
    answer = admin.get(f"{back.path}?{back.query}")
    assert answer.status_code == 422 and "loopback" in answer.text
    assert server.token_requests == []
