"""Logging in: set-up link, passwords, limits, sessions that end, cookies, forgery, the audit log."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from datetime import timedelta

import pytest
from starlette.applications import Starlette

from assets.errors import ConfigurationError, ConflictError
from orchestration.headrace import Headrace
from orchestration.stack_credential import credential_file, credential_headers, stack_credential
from orchestration.web import login as login_module
from orchestration.web.origin import Origins
from orchestration.web.passwords import hash_password
from orchestration.web.sessions import Sessions
from tests.orchestration.web.people import LOCAL, PASSWORD, People, anonymous


def test_the_set_up_link_makes_one_administrator_once(hr: Headrace, web_app: Callable[..., Starlette]) -> None:
    access = hr.catalog.access
    secret = access.make_setup_link()
    assert secret is not None
    client = anonymous(web_app(), Origin=LOCAL)
    client._transport.client = ("127.0.0.1", 50000)  # type: ignore[attr-defined]
    assert client.get("/headrace/setup", params={"token": "wrong"}).status_code == 403
    assert secret in client.get("/headrace/setup", params={"token": secret}).text
    form = {"token": secret, "name": "ada", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/headrace/setup", data=form | {"again": "other"}).status_code == 422
    assert client.post("/headrace/setup", data=form | {"password": "short", "again": "short"}).status_code == 422
    made = client.post("/headrace/setup", data=form)
    assert (made.status_code, made.headers["location"]) == (303, "/headrace/")
    assert client.get("/headrace/").status_code == 200
    again = anonymous(web_app(), Origin=LOCAL)
    again._transport.client = ("127.0.0.1", 50000)  # type: ignore[attr-defined]
    assert again.post("/headrace/setup", data=form | {"name": "eve"}).status_code == 403
    assert [(user.name, user.role) for user in access.users()] == [("ada", "admin")]
    assert access.make_setup_link() is None


def test_the_set_up_link_is_for_this_machine_only(hr: Headrace, web_app: Callable[..., Starlette]) -> None:
    secret = hr.catalog.access.make_setup_link()
    client = anonymous(web_app(), Origin=LOCAL)
    client._transport.client = ("192.0.2.7", 50000)  # type: ignore[attr-defined]
    assert client.get("/headrace/setup", params={"token": secret}).status_code == 403
    form = {"token": secret, "name": "eve", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/headrace/setup", data=form).status_code == 403
    assert hr.catalog.access.users() == []


def test_a_login_opens_a_session_that_the_log_out_ends(web_app: Callable[..., Starlette], people: People) -> None:
    client = anonymous(web_app(), Origin=LOCAL)
    form = {"name": "admin", "password": PASSWORD, "next": "/headrace/account"}
    done = client.post("/headrace/login", data=form)
    assert (done.status_code, done.headers["location"]) == (303, "/headrace/account")
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    page = client.get("/headrace/account")
    found = re.search(r'name="csrf_token" value="([0-9a-f]+)"', page.text)
    assert found is not None
    assert client.post("/headrace/logout").status_code == 403
    secret = client.cookies[people.sessions.cookie]
    assert client.post("/headrace/logout", data={"csrf_token": found[1]}).status_code == 303
    client.cookies.set(people.sessions.cookie, secret)
    assert client.get("/api/v1/connectors").status_code == 401


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", ""])
def test_a_login_leads_nowhere_else(web_app: Callable[..., Starlette], people: People, target: str) -> None:
    client = anonymous(web_app(), Origin=LOCAL)
    done = client.post("/headrace/login", data={"name": "viewer", "password": PASSWORD, "next": target})
    assert done.headers["location"] == "/headrace/"


def test_a_cookie_is_bound_to_https_where_people_come_by_it() -> None:
    scope = {"type": "http", "scheme": "http", "headers": []}
    assert not Origins(None, True).encrypted(scope)
    assert Origins("https://data.example.com", False).encrypted(scope)
    assert Origins(None, False).encrypted(scope | {"scheme": "https"})


def test_failed_logins_are_limited_by_name_and_address(web_app: Callable[..., Starlette], people: People) -> None:
    app = web_app()
    client = anonymous(app, Origin=LOCAL)
    viewer = {"name": "viewer", "password": PASSWORD}
    wrong = {"name": "admin", "password": "wrong"}
    assert [client.post("/headrace/login", data=wrong).status_code for _ in range(5)] == [422] * 5
    limited = client.post("/headrace/login", data={"name": "admin", "password": PASSWORD})
    assert limited.status_code == 429 and int(limited.headers["retry-after"]) > 0
    assert anonymous(app, Origin=LOCAL).post("/headrace/login", data=viewer).status_code == 303
    nobody = [client.post("/headrace/login", data={"name": "nobody", "password": "x"}).status_code for _ in range(6)]
    assert nobody == [422] * 5 + [429], "a name that does not exist is limited alike"


def test_a_session_ends_when_it_is_old_idle_or_its_user_changes(people: People) -> None:
    access, day = people.access, timedelta(days=1)
    secret = access.open_session("viewer", day)
    assert access.session(secret, day) is not None
    assert access.session(secret, timedelta(0)) is None, "idle"
    assert access.session(access.open_session("viewer", timedelta(0)), day) is None, "old"
    access.set_role("viewer", "operator")
    found = access.session(secret, day)
    assert found is not None and found.user.role == "operator", "a role counts at once"
    access.set_password("viewer", hash_password("another long password"))
    assert access.session(secret, day) is None
    kept = [access.open_session("operator", day) for _ in range(25)]
    assert sum(access.session(one, day) is not None for one in kept) == 20


def test_a_stream_ends_with_its_session(
    web_app: Callable[..., Starlette], people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_module, "RECHECK_SECONDS", -1.0)
    client = people.client(web_app(), "viewer")
    with client.websocket_connect("ws://127.0.0.1:3000/graphql", subprotocols=["graphql-ws"]) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json() == {"type": "connection_ack"}
        people.access.remove_user("viewer")
        socket.send_json({"type": "connection_init"})
        assert socket.receive() == {"type": "websocket.close", "code": login_module.CLOSE_UNAUTHORIZED}


def test_the_last_administrator_stays(people: People) -> None:
    for change in (lambda: people.access.remove_user("admin"), lambda: people.access.set_role("admin", "viewer")):
        with pytest.raises(ConflictError, match="last administrator"):
            change()


def test_a_token_may_never_do_more_than_its_owner(web_app: Callable[..., Starlette], people: People) -> None:
    with pytest.raises(ConfigurationError, match="a viewer may not admin"):
        people.access.make_token("x", "viewer", ["read", "admin"], timedelta(days=1))
    secret = people.token("operator")
    sessions = people.sessions
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {secret}".encode())]}
    assert sessions.principal(scope).may("operate")
    people.access.set_role("operator", "viewer")
    assert not sessions.principal(scope).may("operate")


def test_secrets_are_hashed_at_rest(hr: Headrace, people: People) -> None:
    session, token = people.access.open_session("admin", timedelta(days=1)), people.token("admin")
    link = stack_credential(hr.settings)
    stored = b"".join(file.read_bytes() for file in hr.settings.home_path.glob("catalog.db*"))
    for secret in (session, token, link, PASSWORD):
        assert secret.encode() not in stored
    assert b"$argon2id$" in stored


def test_the_stacks_credential_is_its_owners_and_crosses_no_network_in_the_clear(hr: Headrace) -> None:
    secret = stack_credential(hr.settings)
    assert stack_credential(hr.settings) == secret
    assert stat.S_IMODE(credential_file(hr.settings).stat().st_mode) == 0o600
    assert credential_headers(hr.settings, "http://127.0.0.1:3000") == {"Authorization": f"Bearer {secret}"}
    assert credential_headers(hr.settings, "https://data.example.com/x") == {"Authorization": f"Bearer {secret}"}
    assert credential_headers(hr.settings, "http://data.example.com") == {}


def test_a_request_to_a_foreign_name_of_this_address_is_refused(web_app: Callable[..., Starlette]) -> None:
    client = anonymous(web_app(login=False))
    assert client.get("/headrace/").status_code == 200
    assert client.get("/headrace/", headers={"Host": "evil.example"}).status_code == 421
    assert client.post("/graphql", json={"query": "{ version }"}).status_code == 200
    cross = {"Origin": "http://evil.example"}
    assert client.post("/graphql", json={"query": "{ version }"}, headers=cross).status_code == 403


def test_what_is_done_and_what_is_denied_stands_in_the_audit_log(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    anonymous(app, Origin=LOCAL).post("/headrace/login", data={"name": "admin", "password": "canary-guess"})
    anonymous(app, Authorization="Bearer canary-token").get("/api/v1/connectors")
    viewer, admin = people.client(app, "viewer"), people.client(app, "admin")
    viewer.post("/graphql", json={"query": "mutation { wipeAssets(assetPartitionRanges: []) { __typename } }"})
    admin.post("/graphql", json={"query": "mutation { reloadWorkspace { __typename } }"})
    admin.post("/graphql", json={"query": "{ version }"})
    lines = people.access.audit_page().items
    seen = [(line.actor, line.action, line.outcome) for line in reversed(lines)]
    assert seen == [
        ("anonymous", "login", "failed"),
        ("anonymous", "GET", "denied"),
        ("viewer", "dagster wipeAssets", "denied"),
        ("admin", "dagster reloadWorkspace", "done"),
    ]
    assert all(line.address for line in lines) and "canary" not in str(lines)


def test_denials_of_one_address_do_not_flood_the_log(web_app: Callable[..., Starlette], people: People) -> None:
    client = anonymous(web_app(), Authorization="Bearer x")
    for _ in range(login_module.DENIALS_A_MINUTE + 20):
        client.get("/api/v1/connectors")
    assert people.access.audit_page(outcome="denied").total == login_module.DENIALS_A_MINUTE


def test_two_installations_on_one_machine_have_cookies_of_their_own(hr: Headrace, tmp_path) -> None:
    other = hr.settings.model_copy(update={"home": tmp_path / "other"})
    assert Sessions(hr.settings, hr.catalog.access).cookie != Sessions(other, hr.catalog.access).cookie


def test_a_body_is_bounded(web_app: Callable[..., Starlette], people: People) -> None:
    client = people.client(web_app(), "admin")
    assert client.post("/graphql", content=b"x" * (9 * 1024 * 1024)).status_code == 413
    chunks = (b"x" * 1024 * 1024 for _ in range(9))
    json = {"Content-Type": "application/json"}
    assert client.post("/graphql", content=chunks, headers=json).status_code == 413
