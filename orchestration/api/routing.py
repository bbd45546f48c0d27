"""API routes that name the scope they need; one without a name cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from assets.catalog.access_records import SCOPES, Scope
from assets.settings import Settings
from orchestration.api.problems import ApiError, responses
from orchestration.headrace import Headrace
from orchestration.web.principal import Principal, principal_of

_SCOPE = "x-required-scope"


def needs(scope: Scope) -> dict[str, Any]:
    """``openapi_extra`` of a route: the scope that a caller must have. It stands in the OpenAPI document too."""
    return {_SCOPE: scope}


class GuardedRoute(APIRoute):
    """A route that refuses a caller without its scope before anything of the request is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        scope = (options.get("openapi_extra") or {}).get(_SCOPE)
        if scope not in SCOPES:
            raise ValueError(f"{path}: a route has to say openapi_extra=needs(SCOPE)")
        self.permission: Scope = scope
        options["responses"] = responses(401, 403, 422, 429, 500, 503) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        permission = self.permission

        async def guarded(request: Request) -> Response:
            if not principal_of(request.scope).may(permission):
                raise ApiError(403, f"This needs the scope {permission}.")
            return await handler(request)

        return guarded


def router(prefix: str, tag: str) -> APIRouter:
    return APIRouter(prefix=prefix, tags=[tag], route_class=GuardedRoute)


def headrace_of(request: Request) -> Headrace:
    """The installation behind this app."""
    return request.app.state.headrace


def settings_of(request: Request) -> Settings:
    return headrace_of(request).settings


def caller_of(request: Request) -> Principal:
    return principal_of(request.scope)
