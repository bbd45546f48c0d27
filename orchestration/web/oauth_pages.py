"""Pages of a person's login at a connector's source: ``/headrace/oauth/NAME`` begins it, the callback finishes it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.errors import SourceAccessError
from assets.oauth import CALLBACK
from orchestration.headrace import Headrace
from orchestration.web.flash import go_to
from orchestration.web.openid import public_address
from orchestration.web.principal import audit_note_of, principal_of
from orchestration.web.routing import Page
from orchestration.web.templates import render

FINISH_SECONDS = 60


def _headrace(request: Request) -> Headrace:
    return request.app.state.headrace


def show(request: Request) -> HTMLResponse:
    """What access there is, and a button that begins a login."""
    return _shown(request, "")


def _shown(request: Request, continue_at: str) -> HTMLResponse:
    name = request.path_params["name"]
    connector = _headrace(request).catalog.connector(name)
    client = connector.oauth_client()
    record = _headrace(request).connectors.show(name)
    redirect_uri = public_address(request, CALLBACK)
    return render(
        request,
        "oauth.html",
        connector=record,
        server=urlsplit(client.authorization_url).netloc if client else "",
        redirect_uri=redirect_uri,
        registration=connector.oauth_registration(redirect_uri) if client else "",
        warning=record.oauth.warning() if record.oauth else "",
        continue_at=continue_at,
    )


def begin(request: Request) -> HTMLResponse:
    """Begin a login: the page then links to the server. (A form may not lead to another site, by our own policy.)"""
    name = request.path_params["name"]
    redirect_uri = public_address(request, CALLBACK)
    address = _headrace(request).logins.begin(name, redirect_uri, principal_of(request.scope).person)
    return _shown(request, address)


async def callback(request: Request) -> Response:
    """The browser comes back from the authorization server."""
    query, note = request.query_params, audit_note_of(request.scope)
    note.action = "connector login"
    state, code, person = query.get("state", ""), query.get("code", ""), principal_of(request.scope).person
    logins = _headrace(request).logins
    if not code:
        connector = _headrace(request).catalog.oauth_flows.take(state, person)[0]
        note.target = connector
        raise SourceAccessError("the login was refused.", where=connector, remedy="Try it again, and agree there.")
    connector, given = await request.app.state.blocking.run(lambda: logins.finish(state, code, person), FINISH_SECONDS)
    note.target = connector
    text = f"{connector} may read its source now. {given.warning()}"
    return go_to(request, f"/headrace/oauth/{connector}", text.strip())


def forget(request: Request) -> Response:
    """Drop the tokens."""
    name = request.path_params["name"]
    _headrace(request).logins.forget(name)
    return go_to(request, f"/headrace/oauth/{name}", "The tokens are dropped.")


OAUTH_PAGES = [
    Page("/oauth/callback", callback, permission="admin"),
    Page("/oauth/{name}", show, permission="admin"),
    Page("/oauth/{name}", begin, permission="admin", methods=["POST"]),
    Page("/oauth/{name}/forget", forget, permission="admin", methods=["POST"]),
]
