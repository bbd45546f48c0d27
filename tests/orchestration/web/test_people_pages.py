"""People and tokens in the browser: added with a link, kept out, let in again; a token is shown once."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from assets.catalog.access_models import PasswordLinkRow
from assets.catalog.models import now
from orchestration.headrace import Headrace
from tests.orchestration.web.people import LOCAL, PASSWORD, People, anonymous, bearer

NAME = "ada <lovelace>/x"
NEW_PASSWORD = "another long password"


@pytest.fixture
def app(web_app: Callable[..., Starlette]) -> Starlette:
    return web_app()


@pytest.fixture
def admin(app: Starlette, people: People) -> TestClient:
    client = people.client(app, "admin")
    client.follow_redirects = False
    return client


def link_in(page: str) -> str:
    """The path of the link that a page shows."""
    found = re.search(r'id="password-link">([^<]+)<', page)
    assert found is not None, page
    assert found[1].startswith(f"{LOCAL}/headrace/password-link?token=")
    return found[1].removeprefix(LOCAL)


def choose(app: Starlette, link: str, password: str = NEW_PASSWORD) -> int:
    form = {"token": link.partition("token=")[2], "password": password, "again": password}
    return anonymous(app, Origin=LOCAL).post("/headrace/password-link", data=form).status_code


def log_in(app: Starlette, name: str, password: str) -> int:
    form = {"name": name, "password": password}
    return anonymous(app, Origin=LOCAL).post("/headrace/login", data=form).status_code


def test_who_is_added_chooses_a_password_by_a_link_that_is_good_once(
    app: Starlette, admin: TestClient, hr: Headrace
) -> None:
    added = admin.post("/headrace/people", data={"name": NAME, "role": "operator"})
    assert added.status_code == 200 and added.headers["cache-control"] == "no-store"
    assert "ada &lt;lovelace&gt;/x" in added.text and "ada <lovelace>" not in added.text
    link = link_in(added.text)
    secret = link.partition("token=")[2]
    assert log_in(app, NAME, "") == 422
    assert "For ada &lt;lovelace&gt;/x." in anonymous(app).get(link).text
    assert choose(app, link, "short") == 422
    assert choose(app, link) == 303
    assert choose(app, link) == 403 and anonymous(app).get(link).status_code == 403
    assert log_in(app, NAME, NEW_PASSWORD) == 303
    assert secret not in admin.get("/headrace/people").text
    audited = repr(hr.catalog.access.audit_page().items)
    assert secret not in audited and NEW_PASSWORD not in audited
    assert {"add user", "choose password"} <= {line.action for line in hr.catalog.access.audit_page().items}
    again = admin.post("/headrace/people", data={"name": NAME, "role": "viewer"})
    assert again.status_code == 422 and "exists already" in again.text


def test_a_link_ends_after_a_day_and_with_the_next_one(
    app: Starlette, admin: TestClient, hr: Headrace, people: People
) -> None:
    first = link_in(admin.post("/headrace/people/link", data={"name": "viewer"}).text)
    second = link_in(admin.post("/headrace/people/link", data={"name": "viewer"}).text)
    assert choose(app, first) == 403
    with hr.catalog._writing() as session:
        row = session.get(PasswordLinkRow, "viewer")
        assert row is not None and now() < row.expires_at <= now() + timedelta(days=1)
        row.expires_at = now()
    assert choose(app, second) == 403
    third = link_in(admin.post("/headrace/people/link", data={"name": "viewer"}).text)
    window = people.client(app, "viewer")
    assert choose(app, third) == 303
    assert window.get("/headrace/").status_code == 401, "their sessions ended"
    people.access.admit("https://login.example.com", "1", "grace", "viewer")
    assert admin.post("/headrace/people/link", data={"name": "grace"}).status_code == 422


def test_who_is_disabled_is_out_at_once_with_their_tokens(app: Starlette, admin: TestClient, people: People) -> None:
    token, window = people.token("operator"), people.client(app, "operator")
    link = link_in(admin.post("/headrace/people/link", data={"name": "operator"}).text)
    assert window.get("/headrace/").status_code == 200
    answer = admin.post("/headrace/people/active", data={"name": "operator", "active": "no"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/headrace/people")
    assert "disabled" in admin.get("/headrace/people").text
    assert window.get("/headrace/").status_code == 401
    assert bearer(app, token).get("/api/v1/runs").status_code == 401
    assert log_in(app, "operator", PASSWORD) == 422
    assert choose(app, link) == 403
    assert admin.post("/headrace/people/active", data={"name": "operator", "active": "yes"}).status_code == 303
    assert log_in(app, "operator", PASSWORD) == 303
    assert bearer(app, token).get("/api/v1/runs").status_code == 200


def test_somebody_stays_an_administrator(admin: TestClient, people: People) -> None:
    people.access.add_user("second", "admin", None)
    people.access.set_disabled("second", True)
    for path, form in (
        ("active", {"active": "no"}),
        ("role", {"role": "viewer", "was": "admin"}),
        ("remove", {}),
    ):
        answer = admin.post(f"/headrace/people/{path}", data={"name": "admin", **form})
        assert answer.status_code == 409 and "last administrator" in answer.text, path
    people.access.set_disabled("second", False)
    assert (
        admin.post("/headrace/people/role", data={"name": "second", "role": "viewer", "was": "viewer"}).status_code
        == 412
    )
    assert admin.post("/headrace/people/remove", data={"name": "second"}).status_code == 303
    assert "second" not in [user.name for user in people.access.users()]


def test_a_token_is_shown_once_and_revoked(app: Starlette, admin: TestClient, hr: Headrace) -> None:
    form = {"name": "nightly", "user": "operator", "scope": ["read", "operate"], "days": "30"}
    made = admin.post("/headrace/people/tokens", data=form)
    found = re.search(r'id="new-token">(hr_[^<]+)<', made.text)
    assert made.status_code == 200 and found is not None and made.headers["cache-control"] == "no-store"
    (record,) = hr.catalog.access.tokens("operator")
    assert record.scopes == ("operate", "read")
    assert timedelta(days=29) < record.expires_at - now() <= timedelta(days=30)
    assert bearer(app, found[1]).get("/api/v1/runs").status_code == 200
    shown = admin.get("/headrace/people/tokens?user=operator").text
    assert "nightly" in shown and found[1] not in shown
    assert found[1] not in repr(hr.catalog.access.audit_page().items)
    assert admin.post("/headrace/people/tokens/revoke", data={"id": record.id}).status_code == 303
    assert bearer(app, found[1]).get("/api/v1/runs").status_code == 401
    wrong = admin.post("/headrace/people/tokens", data=form | {"user": "viewer"})
    assert wrong.status_code == 422 and "a viewer may not operate" in wrong.text
    assert admin.post("/headrace/people/tokens", data=form | {"scope": []}).status_code == 422


def test_a_token_of_an_administrator_makes_none_that_may_do_more(app: Starlette, people: People, hr: Headrace) -> None:
    _, narrow = people.access.make_token("t", "admin", ["admin", "read"], timedelta(days=1))
    form = {"name": "wide", "user": "admin", "scope": ["operate"], "days": "1"}
    assert bearer(app, narrow).post("/headrace/people/tokens", data=form).status_code == 403
    assert [token.name for token in hr.catalog.access.tokens()] == ["t"]


def test_the_api_makes_links_and_disables(app: Starlette, people: People) -> None:
    api = people.client(app, "admin")
    made = api.post("/api/v1/users", json={"name": NAME, "role": "viewer"})
    assert made.status_code == 201 and made.json()["disabled_at"] is None
    link = api.post(f"/api/v1/users/{NAME}/password-link")
    assert link.status_code == 201 and choose(app, link.json()["address"]) == 303
    disabled = api.put(f"/api/v1/users/{NAME}", json={"disabled": True}, headers={"If-Match": made.headers["etag"]})
    assert disabled.status_code == 200 and disabled.json()["disabled_at"], disabled.text
    assert log_in(app, NAME, NEW_PASSWORD) == 422
    last = api.put("/api/v1/users/admin", json={"disabled": True}, headers={"If-Match": "*"})
    assert last.status_code == 409
