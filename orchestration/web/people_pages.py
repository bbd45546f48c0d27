"""Who may come in: people with their roles, and API tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.catalog.access_records import ROLES, SCOPES, Scope
from assets.catalog.models import now
from assets.errors import ConfigurationError, HeadraceError
from orchestration.api.paging import page_of
from orchestration.api.people import PASSWORD_LINK
from orchestration.web.asked import choice, offset, words
from orchestration.web.flash import go_to
from orchestration.web.login_pages import access_of
from orchestration.web.openid import public_address
from orchestration.web.principal import audit_note_of, principal_of
from orchestration.web.routing import Page
from orchestration.web.sent_form import SentForm, sent_form
from orchestration.web.templates import render

if TYPE_CHECKING:
    from assets.catalog.password_links import PasswordLinks

A_PAGE = 50
SCOPE_TEXTS: dict[Scope, str] = {
    "read": "names, status, history",
    "data": "rows of tables",
    "operate": "run, cancel, pause, test",
    "admin": "change connectors, pipelines and people",
    "metrics": "the figures for Prometheus",
    "refresh": "make Dagster read the catalog again",
}
LIFETIMES = {"1": "a day", "30": "30 days", "90": "90 days", "365": "a year"}
PEOPLE, TOKENS = "/headrace/people", "/headrace/people/tokens"


def _links_of(request: Request) -> PasswordLinks:
    return request.app.state.headrace.catalog.password_links


def _name(sent: SentForm) -> str:
    return sent.get("name", "")[:255]


# people


def people(request: Request) -> HTMLResponse:
    """One page of the people."""
    return _people(request)


def _people(request: Request, *, link: str = "", of: str = "", problem: str = "", status: int = 200) -> HTMLResponse:
    page = page_of(access_of(request).users(), A_PAGE, offset(request.query_params.get("offset")))
    shown = {"page": page, "roles": ROLES, "link": link, "link_of": of, "problem": problem}
    answer = render(request, "people.html", status=status, **shown)
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def add_person(request: Request) -> Response:
    """Let a person log in; they choose their password by the link that is shown then."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    name, role = _name(sent).strip(), choice(sent.get("role"), ROLES) or "viewer"
    note.action, note.target, note.detail = "add user", name, role

    def add() -> HTMLResponse:
        try:
            access_of(request).add_user(name, role, None)
        except HeadraceError as error:
            return _people(request, problem=error.text, status=422)
        return _with_link(request, name)

    return await run_in_threadpool(add)


async def make_link(request: Request) -> Response:
    """A new link by which somebody chooses a password."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    note.action, note.target = "password link", _name(sent)
    return await run_in_threadpool(_with_link, request, _name(sent))


def _with_link(request: Request, name: str) -> HTMLResponse:
    secret, _ = _links_of(request).make(name)
    return _people(request, link=f"{public_address(request, PASSWORD_LINK)}?token={secret}", of=name)


async def set_role(request: Request) -> Response:
    """Give somebody another role."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    name, role = _name(sent), choice(sent.get("role"), ROLES)
    note.action, note.target, note.detail = "set role", name, role or ""
    if role is None:
        raise ConfigurationError("there is no such role.", where=name)
    was = choice(sent.get("was"), ROLES)
    await run_in_threadpool(lambda: access_of(request).set_role(name, role, was=was))
    return go_to(request, PEOPLE, f"{name} is {role} now.")


async def set_active(request: Request) -> Response:
    """Keep somebody out, or let them in again."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    name, disabled = _name(sent), sent.get("active") != "yes"
    note.action, note.target = "disable user" if disabled else "enable user", name
    await run_in_threadpool(lambda: access_of(request).set_disabled(name, disabled))
    told = "can no longer come in, nor can their tokens." if disabled else "may come in again."
    return go_to(request, PEOPLE, f"{name} {told}")


async def remove_person(request: Request) -> Response:
    """Remove somebody with their sessions and tokens."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    note.action, note.target = "remove user", _name(sent)
    await run_in_threadpool(lambda: access_of(request).remove_user(_name(sent)))
    return go_to(request, PEOPLE, f"{_name(sent)} is removed, with their tokens.")


# tokens


def tokens(request: Request) -> HTMLResponse:
    """One page of the API tokens."""
    return _tokens(request)


def _tokens(request: Request, *, made: str = "", problem: str = "", status: int = 200) -> HTMLResponse:
    access = access_of(request)
    owner = words(request.query_params.get("user"), 255)
    answer = render(
        request,
        "api_tokens.html",
        status=status,
        page=page_of(access.tokens(owner), A_PAGE, offset(request.query_params.get("offset"))),
        owner=owner or "",
        people=[user for user in access.users() if user.disabled_at is None],
        me=principal_of(request.scope).person,
        scopes=[(scope, SCOPE_TEXTS[scope]) for scope in SCOPES],
        now=now(),
        lifetimes=LIFETIMES,
        made=made,
        problem=problem,
    )
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def add_token(request: Request) -> Response:
    """Make a token; it is shown this once."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    note.action = "make token"
    name, owner = _name(sent).strip(), sent.get("user", "")[:255]
    scopes: list[Scope] = [scope for scope in SCOPES if scope in sent.all("scope")]
    days = int(choice(sent.get("days"), list(LIFETIMES)) or "90")
    note.target = owner

    def make() -> HTMLResponse:
        if not set(scopes) <= principal_of(request.scope).scopes:
            return _tokens(request, problem="Nobody makes a token that may do more than they may.", status=403)
        try:
            record, secret = access_of(request).make_token(name, owner, scopes, timedelta(days=days))
        except HeadraceError as error:
            return _tokens(request, problem=error.text, status=422)
        note.detail = f"{record.id} of {owner}: {', '.join(record.scopes)}"
        return _tokens(request, made=secret)

    return await run_in_threadpool(make)


async def revoke_token(request: Request) -> Response:
    """End a token at once."""
    sent, note = await sent_form(request), audit_note_of(request.scope)
    id = sent.get("id", "")[:80]
    note.action, note.target = "revoke token", id
    await run_in_threadpool(lambda: access_of(request).revoke_token(id))
    return go_to(request, TOKENS, f"Token {id} is revoked.")


PEOPLE_PAGES = [
    Page("/people", people, permission="admin", title="People"),
    Page("/people", add_person, permission="admin", methods=["POST"]),
    Page("/people/role", set_role, permission="admin", methods=["POST"]),
    Page("/people/active", set_active, permission="admin", methods=["POST"]),
    Page("/people/link", make_link, permission="admin", methods=["POST"]),
    Page("/people/remove", remove_person, permission="admin", methods=["POST"]),
    Page("/people/tokens", tokens, permission="admin"),
    Page("/people/tokens", add_token, permission="admin", methods=["POST"]),
    Page("/people/tokens/revoke", revoke_token, permission="admin", methods=["POST"]),
]
