"""``/connectors/{name}/oauth``: a person's login at a connector's source. Its state is in the connector itself."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel

from assets.oauth import CALLBACK
from orchestration.api.connectors import Name
from orchestration.api.problems import responses
from orchestration.api.routing import caller_of, headrace_of, needs, router

oauth = router("/connectors", "connectors")


class BegunLogin(BaseModel):
    """``authorization_url`` is to be opened in a browser that is logged in here as the same person, in ten minutes."""

    authorization_url: str


@oauth.post(
    "/{name}/oauth", openapi_extra=needs("admin"), responses=responses(404), summary="Begin a login at its source"
)
def begin_login(request: Request, name: Name) -> BegunLogin:
    here = f"{request.url.scheme}://{request.url.netloc}{request.scope['root_path'].removesuffix('/api/v1')}"
    base = (headrace_of(request).settings.web_url or here).rstrip("/")
    redirect_uri = base + CALLBACK
    address = headrace_of(request).logins.begin(name, redirect_uri, caller_of(request).person)
    return BegunLogin(authorization_url=address)


@oauth.delete(
    "/{name}/oauth",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404),
    summary="Drop the tokens of its login",
)
def forget_login(request: Request, name: Name) -> None:
    headrace_of(request).logins.forget(name)
