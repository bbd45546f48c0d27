"""What every page stands in: navigation, errors, messages, the proof that a form is of this session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from assets.catalog.access_records import ROLES
from assets.errors import ConflictError
from orchestration.web import pages
from orchestration.web.flash import go_to
from orchestration.web.routing import Page
from tests.orchestration.web.people import People

HOSTILE = "<script>alert('x')</script>"


def conflict(_: Request) -> Response:
    raise ConflictError("the name is taken.", where=HOSTILE, remedy="Take another.")


def unforeseen(_: Request) -> Response:
    raise RuntimeError("canary-of-the-error")


def act(request: Request) -> Response:
    return go_to(request, "/headrace/account", f"Done {HOSTILE}.")


@pytest.fixture
def app(web_app: Callable[..., Starlette], monkeypatch: pytest.MonkeyPatch) -> Starlette:
    more = [
        Page("/conflict", conflict, permission="read", title="Conflict"),
        Page("/unforeseen", unforeseen, permission="admin", title="Unforeseen"),
        Page("/act", act, permission="read", methods=["POST"]),
    ]
    monkeypatch.setattr("orchestration.web.webserver.PAGES", [*pages.PAGES, *more])
    return web_app("/data")


def test_the_navigation_shows_the_registered_pages_that_the_person_may_see(app: Starlette, people: People) -> None:
    for role in ROLES:
        sees = role == "admin"
        page = people.client(app, role).get("/data/headrace/account").text
        assert 'href="/data/headrace/conflict">Conflict</a>' in page
        assert (">Unforeseen</a>" in page) is sees
        assert 'aria-current="page"' not in page
    status = people.client(app, "viewer").get("/data/headrace/").text
    assert 'href="/data/headrace/" aria-current="page">Status</a>' in status


def test_an_error_is_a_page_with_its_remedy_and_a_fragment_for_htmx(app: Starlette, people: People) -> None:
    client = people.client(app, "viewer")
    page = client.get("/data/headrace/conflict")
    part = client.get("/data/headrace/conflict", headers={"HX-Request": "true"})
    for answer in (page, part):
        assert answer.status_code == 409
        assert "the name is taken." in answer.text and "Take another." in answer.text
        assert HOSTILE not in answer.text
    assert "<html" in page.text and "<html" not in part.text
    missing = client.get("/data/headrace/nothing-here")
    assert missing.status_code == 404 and "There is nothing at this address." in missing.text


def test_an_unforeseen_error_tells_its_type_only_and_keeps_the_policy(app: Starlette, people: People) -> None:
    answer = people.client(app, "admin").get("/data/headrace/unforeseen")
    assert answer.status_code == 500 and "RuntimeError" in answer.text
    assert "canary" not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_a_message_is_shown_once_on_the_next_page(app: Starlette, people: People) -> None:
    client = people.client(app, "viewer")
    assert "Done &lt;script&gt;" in client.post("/data/headrace/act").text
    assert "Done" not in client.get("/data/headrace/account").text
    sent = client.post("/data/headrace/act", headers={"HX-Request": "true"})
    assert (sent.status_code, sent.headers["hx-redirect"]) == (204, "/data/headrace/account")
    client.cookies.set("headrace_flash", "forged", path="/data")
    assert "forged" not in client.get("/data/headrace/account").text


def test_a_form_without_the_sessions_token_is_refused(app: Starlette, people: People) -> None:
    client = people.client(app, "viewer")
    del client.headers["X-CSRF-Token"]
    assert client.post("/data/headrace/act", data={"csrf_token": "wrong"}).status_code == 403
