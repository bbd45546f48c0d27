"""Logging in and out, the first administrator, a new password, the link by which a person chooses one."""

from __future__ import annotations

import ipaddress
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from assets.errors import HeadraceError
from orchestration.web import openid
from orchestration.web.flash import go_to
from orchestration.web.login import address_of
from orchestration.web.passwords import hash_password, verify_password
from orchestration.web.principal import audit_note_of, principal_of
from orchestration.web.routing import Page
from orchestration.web.templates import prefix_of, render

if TYPE_CHECKING:
    from assets.catalog.access import Access
    from assets.catalog.password_links import PasswordLinks
    from orchestration.headrace import Headrace
    from orchestration.web.sessions import Sessions

WINDOW = timedelta(minutes=5)
FAILURES_OF_NAME_HERE, FAILURES_HERE, FAILURES_OF_NAME = 5, 30, 100
"""Failed logins in five minutes after which no password is looked at: of a name from an address, from an address, of a
name from anywhere (more, so that nobody locks another person out with ease)."""

ENDED = "This link was used, or has ended. Ask an administrator for another one."
_one_at_a_time = threading.Lock()


def access_of(request: Request) -> Access:
    headrace: Headrace = request.app.state.headrace
    return headrace.catalog.access


def _links_of(request: Request) -> PasswordLinks:
    return request.app.state.headrace.catalog.password_links


def safe_target(wanted: str | None) -> str:
    """A path on this server, whatever the address asked for."""
    if wanted and wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable():
        return wanted
    return "/headrace/"


def logged_in(request: Request, name: str, target: str) -> Response:
    """Open a session for the user and send their browser on."""
    sessions: Sessions = request.app.state.sessions
    secret = access_of(request).open_session(name, sessions.lifetime)
    answer = RedirectResponse(prefix_of(request) + safe_target(target), 303)
    answer.set_cookie(
        sessions.cookie,
        secret,
        max_age=int(sessions.lifetime.total_seconds()),
        path=prefix_of(request) or "/",
        secure=request.app.state.origins.encrypted(request.scope),
        httponly=True,
        samesite="lax",
    )
    return answer


def login(request: Request) -> Response:
    """The form; who is logged in already is sent on."""
    target = safe_target(request.query_params.get("next"))
    if principal_of(request.scope).kind != "anonymous":
        return RedirectResponse(prefix_of(request) + target, 303)
    return _form(request, target)


def _form(request: Request, target: str, problem: str = "", status: int = 200) -> HTMLResponse:
    provider = request.app.state.headrace.settings.oidc_issuer
    out = request.query_params.get("out") == "provider"
    return render(request, "login.html", status=status, target=target, problem=problem, provider=provider, out=out)


async def log_in(request: Request) -> Response:
    """Check a name and a password."""
    async with request.form(max_fields=10, max_files=0) as form:
        name, password = str(form.get("name", ""))[:255], str(form.get("password", ""))
        target = safe_target(str(form.get("next", "")))
    return await run_in_threadpool(_checked_login, request, name, password, target)


def _checked_login(request: Request, name: str, password: str, target: str) -> Response:
    note = audit_note_of(request.scope)
    note.action, note.target = "login", name
    if (refusal := _too_many(request, name)) is not None:
        note.action = "login refused"
        answer = _form(request, target, refusal, 429)
        answer.headers["Retry-After"] = str(int(WINDOW.total_seconds()))
        return answer
    if not _is_password_of(request, name, password):
        note.reads_only, note.action = True, ""  # it is written already
        return _form(request, target, "The name or the password is wrong.", 422)
    return logged_in(request, name, target)


def _too_many(request: Request, name: str) -> str | None:
    both, here, anywhere = access_of(request).failed_logins(datetime.now(UTC) - WINDOW, name, address_of(request.scope))
    if both >= FAILURES_OF_NAME_HERE or here >= FAILURES_HERE or anywhere >= FAILURES_OF_NAME:
        return "Too many failed logins. Try again in five minutes."
    return None


def _is_password_of(request: Request, name: str, password: str) -> bool:
    """Look at a password; a wrong one is written to the audit log, where `_too_many` counts it."""
    access = access_of(request)
    with _one_at_a_time:  # so that tries at once are counted one after the other
        if _too_many(request, name) is not None:
            return False
        good = verify_password(access.password_hash(name), password)
        if not good:
            access.audit(
                principal_of(request.scope).name or "anonymous",
                "login",
                name,
                outcome="failed",
                address=address_of(request.scope),
                detail="wrong name or password",
            )
        return good


def log_out(request: Request) -> Response:
    """End the session."""
    principal = principal_of(request.scope)
    vouched = False
    if principal.session is not None:
        vouched = access_of(request).user(principal.name).issuer is not None
        access_of(request).close_session(principal.session)
    answer = RedirectResponse(f"{prefix_of(request)}/headrace/login{'?out=provider' if vouched else ''}", 303)
    if (sessions := request.app.state.sessions) is not None:
        answer.delete_cookie(sessions.cookie, path=prefix_of(request) or "/")
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def setup(request: Request) -> Response:
    """The form that makes the first administrator, for who has the link that ``headrace up`` printed."""
    secret = request.query_params.get("token", "")
    if not _is_loopback(request) or not access_of(request).setup_link_holds(secret):
        return _setup_form(request, "", "This set-up link was used, has expired, or is not for this machine.", 403)
    return _setup_form(request, secret)


def _setup_form(request: Request, secret: str, problem: str = "", status: int = 200) -> HTMLResponse:
    return render(request, "setup.html", status=status, secret=secret, problem=problem)


async def set_up(request: Request) -> Response:
    """Make the first administrator and log them in."""
    async with request.form(max_fields=10, max_files=0) as form:
        secret, name = str(form.get("token", "")), str(form.get("name", ""))
        password, again = str(form.get("password", "")), str(form.get("again", ""))
    return await run_in_threadpool(_checked_setup, request, secret, name, password, again)


def _checked_setup(request: Request, secret: str, name: str, password: str, again: str) -> Response:
    access = access_of(request)
    note = audit_note_of(request.scope)
    note.action, note.target = "set up", name
    if not _is_loopback(request) or not access.setup_link_holds(secret):
        return _setup_form(request, "", "This set-up link was used, has expired, or is not for this machine.", 403)
    if password != again:
        return _setup_form(request, secret, "The two passwords differ.", 422)
    try:
        user = access.use_setup_link(secret, name, hash_password(password))
    except HeadraceError as error:
        return _setup_form(request, secret, error.text, 422)
    return logged_in(request, user.name, "/headrace/")


def password_link(request: Request) -> Response:
    """The form in which who has the link chooses a password."""
    secret = request.query_params.get("token", "")
    name = _links_of(request).user_of(secret)
    if name is None:
        return _link_form(request, "", "", ENDED, 403)
    return _link_form(request, secret, name)


def _link_form(request: Request, secret: str, name: str, problem: str = "", status: int = 200) -> HTMLResponse:
    return render(request, "password_link.html", status=status, secret=secret, name=name, problem=problem)


async def use_password_link(request: Request) -> Response:
    """Set the password and log the person in."""
    async with request.form(max_fields=10, max_files=0) as form:
        secret, password, again = (str(form.get(field, "")) for field in ("token", "password", "again"))
    return await run_in_threadpool(_checked_link, request, secret, password, again)


def _checked_link(request: Request, secret: str, password: str, again: str) -> Response:
    links, note = _links_of(request), audit_note_of(request.scope)
    name = links.user_of(secret)
    note.action, note.target = "choose password", name or ""
    if name is None:
        return _link_form(request, "", "", ENDED, 403)
    if password != again:
        return _link_form(request, secret, name, "The two passwords differ.", 422)
    try:
        links.use(secret, hash_password(password))
    except HeadraceError as error:
        return _link_form(request, secret, name, error.text, 422)
    if request.app.state.sessions is None:  # a server without a login
        return go_to(request, "/headrace/people", f"{name} has a new password.")
    return logged_in(request, name, "/headrace/")


def account(request: Request) -> Response:
    """Who I am, with a form for a new password."""
    return _account(request)


def _account(request: Request, problem: str = "", status: int = 200) -> HTMLResponse:
    principal = principal_of(request.scope)
    known = principal.session is not None
    user = access_of(request).user(principal.name) if known else None
    return render(request, "account.html", status=status, user=user, problem=problem)


async def change_password(request: Request) -> Response:
    """Replace one's own password; every session of it ends but this one's successor."""
    async with request.form(max_fields=10, max_files=0) as form:
        old, new, again = (str(form.get(name, "")) for name in ("old", "password", "again"))
    return await run_in_threadpool(_checked_change, request, old, new, again)


def _checked_change(request: Request, old: str, new: str, again: str) -> Response:
    access, name = access_of(request), principal_of(request.scope).name
    audit_note_of(request.scope).action = "change password"
    if new != again:
        return _account(request, "The two passwords differ.", status=422)
    if (refusal := _too_many(request, name)) is not None:
        return _account(request, refusal, status=429)
    if not _is_password_of(request, name, old):
        return _account(request, "The old password is wrong.", status=422)
    try:
        access.set_password(name, hash_password(new))
    except HeadraceError as error:
        return _account(request, error.text, status=422)
    return logged_in(request, name, "/headrace/account")


async def openid_start(request: Request) -> Response:
    """Send the browser to the provider."""
    return await openid.start(request, safe_target(request.query_params.get("next")))


async def openid_callback(request: Request) -> Response:
    """The browser comes back from the provider."""
    note = audit_note_of(request.scope)
    note.action = "login"
    try:
        user, target = await openid.finish(request)
    except HeadraceError as error:
        note.detail = error.text
        return _form(request, "/headrace/", error.text, 403)
    note.target = user.name
    answer = await run_in_threadpool(logged_in, request, user.name, target)
    answer.delete_cookie(openid.COOKIE, path=prefix_of(request) or "/")
    return answer


async def openid_logout(request: Request) -> Response:
    """Send the browser to where it ends the session at the provider."""
    return RedirectResponse(await openid.logout_address(request), 302)


def health(request: Request) -> Response:
    """Whether the server answers, for probes."""
    return PlainTextResponse("ok")


def _is_loopback(request: Request) -> bool:
    try:
        return ipaddress.ip_address(address_of(request.scope)).is_loopback
    except ValueError:
        return False


LOGIN_PAGES = [
    Page("/health", health, permission=None),
    Page("/login", login, permission=None),
    Page("/login", log_in, permission=None, methods=["POST"]),
    Page("/setup", setup, permission=None),
    Page("/setup", set_up, permission=None, methods=["POST"]),
    Page("/password-link", password_link, permission=None),
    Page("/password-link", use_password_link, permission=None, methods=["POST"]),
    Page("/openid/start", openid_start, permission=None),
    Page("/openid/callback", openid_callback, permission=None),
    Page("/openid/logout", openid_logout, permission=None),
    Page("/logout", log_out, permission="read", methods=["POST"]),
    Page("/account", account, permission="read"),
    Page("/account", change_password, permission="read", methods=["POST"]),
]
