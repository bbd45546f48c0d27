"""Every route, page, GraphQL operation and websocket, for everybody. Made from the route table: a new route without a
rule fails here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from dagster_graphql.schema import create_schema
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from assets.catalog.access_records import ROLE_SCOPES, ROLES
from orchestration.api.routing import GuardedRoute
from orchestration.stack_credential import stack_credential
from orchestration.web.dagster_internals import Permissions
from orchestration.web.dagster_routes import RULES, Guarded
from orchestration.web.graphql_guard import MUTATIONS, PERMISSIONS, REFUSED
from orchestration.web.principal import STACK_SCOPES
from orchestration.web.routing import Page
from tests.orchestration.web.people import People, anonymous, bearer

_PUBLIC = {"/headrace/health", "/headrace/login", "/headrace/setup", "/headrace/openid/start"}
_PUBLIC |= {"/headrace/openid/callback", "/headrace/openid/logout", "/headrace/password-link", "/headrace/static"}


def rules(routes: list, prefix: str = "") -> Iterator[tuple[str, str, str | None]]:
    """Method, path and scope of each route."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Page | GuardedRoute):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, path, route.permission
        elif isinstance(route, WebSocketRoute):
            assert isinstance(route.app, Guarded), path
            yield "WEBSOCKET", path, route.app.permission
        elif isinstance(route, Route | Mount) and isinstance(route.app, Guarded):
            for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"}):
                yield method, path, route.app.permission
        elif isinstance(route, Mount) and isinstance(route.app, FastAPI):
            yield from rules(_included(route.app.routes), path)
        elif isinstance(route, Mount) and route.routes:
            yield from rules(list(route.routes), path)
        else:
            assert path == "/headrace/static", f"{path} has no rule"
            yield "GET", path, None


def _included(routes: list) -> list:
    """The API's own routes: FastAPI keeps each included router as one entry."""
    found = []
    for route in routes:
        router = getattr(route, "original_router", None)
        found += _included(router.routes) if router is not None else [route]
    return found


def fill(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "none", path)


def test_every_route_has_a_rule_and_only_the_login_is_public(web_app: Callable[..., Starlette]) -> None:
    table = list(rules(list(web_app().routes)))
    assert {path for _, path, permission in table if permission is None} == _PUBLIC
    assert len(table) > 30


def test_each_route_lets_in_who_has_its_scope_and_nobody_else(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    clients: dict[str, tuple[TestClient, frozenset[str]]] = {
        role: (people.client(app, role), ROLE_SCOPES[role]) for role in ROLES
    }
    clients |= {f"token of {role}": (bearer(app, people.token(role)), ROLE_SCOPES[role]) for role in ROLES}
    clients["stack"] = (bearer(app, stack_credential(people.sessions._settings)), STACK_SCOPES)
    wrong = []
    for method, path, permission in rules(list(app.routes)):
        if method == "WEBSOCKET" or permission is None or path == "/headrace/logout":
            continue
        for name, (client, scopes) in clients.items():
            if path.endswith("/stream") and permission in scopes:
                continue  # it never ends
            answer = client.request(method, fill(path), follow_redirects=False)
            let_in = answer.status_code != 403
            if answer.status_code == 401 or let_in != (permission in scopes):
                wrong.append((name, method, path, permission, answer.status_code))
    assert wrong == []


def test_nobody_comes_in_without_a_valid_credential(web_app: Callable[..., Starlette], people: People) -> None:
    app = web_app()
    revoked, expired = people.token("admin"), people.token("admin")
    people.access.revoke_token(people.access.tokens("admin")[0].id)
    from assets.catalog.access_models import TokenRow
    from assets.catalog.models import now

    with people.access._writing() as session:
        row = session.get(TokenRow, people.access.tokens("admin")[0].id)
        assert row is not None
        row.expires_at = now() - timedelta(seconds=1)
    foreign = "hr_00000000_" + "x" * 43
    strangers = {
        "anonymous": anonymous(app),
        "foreign session": anonymous(app, Cookie=f"{people.sessions.cookie}={'x' * 43}"),
        **{
            name: bearer(app, token)
            for name, token in {"revoked": revoked, "expired": expired, "foreign": foreign, "no token": "x"}.items()
        },
        "basic": anonymous(app, Authorization="Basic YWRtaW46YWRtaW4="),
    }
    wrong = []
    for method, path, permission in rules(list(app.routes)):
        if permission is None or method == "WEBSOCKET":
            continue
        for name, client in strangers.items():
            answer = client.request(method, fill(path))
            if answer.status_code != 401:
                wrong.append((name, method, path, answer.status_code))
    assert wrong == []
    page = anonymous(app, Accept="text/html").get("/headrace/?x=1")
    assert (page.status_code, page.headers["location"]) == (303, "/headrace/login?next=/headrace/%3Fx%3D1")


def test_the_websocket_is_for_who_may_read_and_for_our_own_pages(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    good = [people.client(app, "viewer"), bearer(app, people.token("viewer"))]
    evil = people.client(app, "admin")
    evil.headers["Origin"] = "http://evil.example"
    no_origin = people.client(app, "admin")
    del no_origin.headers["Origin"]
    for client in good:
        with client.websocket_connect("ws://127.0.0.1:3000/graphql", subprotocols=["graphql-ws"]) as socket:
            socket.send_json({"type": "connection_init"})
            assert socket.receive_json() == {"type": "connection_ack"}
            socket.send_json(
                {"type": "start", "id": "1", "payload": {"query": "mutation { reloadWorkspace { __typename } }"}}
            )
            assert "needs the scope" in socket.receive_json()["payload"]["message"]
            socket.send_json({"type": "start", "id": "2", "payload": {"query": "{ version }"}})
            assert "subscriptions only" in socket.receive_json()["payload"]["message"]
    for client in (anonymous(app), bearer(app, "x"), evil, no_origin):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("ws://127.0.0.1:3000/graphql", subprotocols=["graphql-ws"]),
        ):
            pass


def test_each_mutation_of_dagster_has_a_scope_or_is_refused_to_all() -> None:
    mutation_type = create_schema().graphql_schema.mutation_type
    assert mutation_type is not None
    assert set(mutation_type.fields) == set(MUTATIONS) | REFUSED
    assert {permission.value for permission in Permissions} - set(PERMISSIONS) == {"edit_app_managed_components"}


@pytest.mark.parametrize(
    "form",
    [
        "mutation {{ {0} {{ __typename }} }}",
        "query q {{ version }} mutation m {{ x: {0} }}",
        "mutation {{ ... on Mutation {{ ...f }} }} fragment f on Mutation {{ {0} }}",
    ],
)
def test_each_mutation_is_refused_to_who_lacks_its_scope(
    web_app: Callable[..., Starlette], people: People, form: str
) -> None:
    app = web_app()
    clients = {role: (people.client(app, role), ROLE_SCOPES[role]) for role in ROLES}
    clients["stack"] = (bearer(app, stack_credential(people.sessions._settings)), STACK_SCOPES)  # type: ignore[assignment]
    for name, (client, scopes) in clients.items():
        for mutation in [*MUTATIONS, *REFUSED, "unknownMutation"]:
            answer = client.post("/graphql", json={"query": form.format(mutation)})
            allowed = MUTATIONS.get(mutation) in scopes
            assert (answer.status_code != 403) == allowed, (name, mutation, answer.text[:200])


def test_a_mutation_does_not_come_by_get_nor_from_another_site(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    mutation = "mutation { reloadWorkspace { __typename } }"
    client = people.client(app, "admin")
    assert client.get("/graphql", params={"query": mutation}).status_code == 403
    assert client.post("/graphql", json={"query": mutation}).status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert client.post("/graphql", json={"query": mutation}, headers=headers).status_code == 403
    del client.headers["Origin"]
    assert client.post("/graphql", json={"query": mutation}).status_code == 403
    assert (
        client.post("/graphql", json={"query": mutation}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    )
    assert (
        client.post("/graphql", json={"query": mutation}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    )


def test_dagsters_ui_shows_what_the_role_may_do(web_app: Callable[..., Starlette], people: People) -> None:
    app = web_app()
    asked = "{ permissions { permission value } instance { hasInfo info } }"
    for role in ROLES:
        data = people.client(app, role).post("/graphql", json={"query": asked}).json()["data"]
        shown = {item["permission"] for item in data["permissions"] if item["value"]}
        assert shown == {name for name, scope in PERMISSIONS.items() if scope in ROLE_SCOPES[role]}
        assert bool(data["instance"]["info"]) is (role == "admin")


def test_the_rules_of_dagsters_routes_name_routes_that_exist(web_app: Callable[..., Starlette]) -> None:
    paths = {path for _, path, _ in rules(list(web_app().routes))}
    assert set(RULES) <= paths
