"""Users and tokens over HTTP: secrets go in or come out once, and nobody gives what they have not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from starlette.applications import Starlette

from assets.catalog.access_records import ROLE_SCOPES
from orchestration.headrace import Headrace
from tests.orchestration.web.people import PASSWORD, People, anonymous, bearer

NEW = {"name": "ada lovelace/x", "role": "operator", "password": "another long password"}


def test_a_user_is_added_changed_and_removed_by_an_administrator(
    web_app: Callable[..., Starlette], people: People, hr: Headrace
) -> None:
    app = web_app()
    admin = people.client(app, "admin")
    made = admin.post("/api/v1/users", json=NEW)
    assert (made.status_code, made.json()["role"]) == (201, "operator"), made.text
    assert NEW["password"] not in made.text and "hash" not in made.text
    assert admin.post("/api/v1/users", json=NEW).status_code == 409
    path, etag = "/api/v1/users/ada lovelace/x", made.headers["etag"]
    login = {"name": NEW["name"], "password": NEW["password"]}
    assert anonymous(app, Origin="http://127.0.0.1:3000").post("/headrace/login", data=login).status_code == 303
    changed = admin.put(path, json={"role": "viewer"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["role"]) == (200, "viewer"), changed.text
    assert admin.put(path, json={"role": "admin"}, headers={"If-Match": etag}).status_code == 412
    assert admin.put(path, json={"role": "admin"}).status_code == 428
    short = admin.put(path, json={"password": "short"}, headers={"If-Match": "*"})
    assert short.status_code == 422 and "short" not in short.json()["detail"].replace("shorter", "")
    last = admin.put("/api/v1/users/admin", json={"role": "viewer"}, headers={"If-Match": "*"})
    assert last.status_code == 409
    assert admin.delete(path).status_code == 204
    assert [user["name"] for user in admin.get("/api/v1/users").json()["items"]] == ["admin", "operator", "viewer"]
    lines = [(line.action, line.detail) for line in hr.catalog.access.audit_page(actor="admin").items]
    assert ("POST", "ada lovelace/x: operator") in lines
    assert not any(
        NEW["password"] in line.detail or PASSWORD in line.detail for line in hr.catalog.access.audit_page().items
    )


def test_a_token_is_shown_once_and_gives_no_more_than_its_maker_has(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    admin = people.client(app, "admin")
    new = {"name": "nightly", "user": "viewer", "scopes": ["read"], "hours": 1}
    made = admin.post("/api/v1/tokens", json=new)
    assert made.status_code == 201, made.text
    token, id = made.json()["token"], made.json()["record"]["id"]
    assert bearer(app, token).get("/api/v1/runs").status_code == 200
    assert bearer(app, token).get("/api/v1/users").status_code == 403
    assert token not in admin.get("/api/v1/tokens").text
    more = admin.post("/api/v1/tokens", json=new | {"scopes": ["operate"]})
    assert more.status_code == 422, "a viewer may not operate"
    _, narrow = people.access.make_token("t", "admin", ["admin", "read"], timedelta(days=1))
    asked = new | {"user": "admin", "scopes": sorted(ROLE_SCOPES["admin"])}
    assert bearer(app, narrow).post("/api/v1/tokens", json=asked).status_code == 403
    assert admin.delete(f"/api/v1/tokens/{id}").status_code == 204
    assert bearer(app, token).get("/api/v1/runs").status_code == 401
    assert admin.delete(f"/api/v1/tokens/{id}").status_code == 404
