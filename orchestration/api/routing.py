"""API routes that name the scope they need; one without a name cannot be made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from assets.catalog.access_records import SCOPES, Scope
from orchestration.api.blocking import BlockingCalls
from orchestration.api.problems import ApiError, responses
from orchestration.api.status_feed import StatusFeed
from orchestration.headrace import Headrace
from orchestration.web.principal import Principal, principal_of

_SCOPE, _IDEMPOTENT = "x-required-scope", "x-idempotent"


def needs(scope: Scope, *, idempotent: bool = False) -> dict[str, Any]:
    """``openapi_extra`` of a route: the scope that a caller must have. It stands in the OpenAPI document too.

    ``idempotent``: a request with an ``Idempotency-Key`` has one effect, however often it is sent.
    """
    return {_SCOPE: scope} | ({_IDEMPOTENT: True} if idempotent else {})


MAX_KEY = 200


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
        permission, idempotent = self.permission, bool((self.openapi_extra or {}).get(_IDEMPOTENT))

        async def guarded(request: Request) -> Response:
            if not principal_of(request.scope).may(permission):
                raise ApiError(403, f"This needs the scope {permission}.")
            key = request.headers.get("idempotency-key") if idempotent else None
            if key and len(key) <= MAX_KEY:
                return await _once(request, key, handler)
            return await handler(request)

        return guarded


async def _once(request: Request, key: str, handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    """Do the request, or give the answer that its first sending got."""
    store, caller = headrace_of(request).catalog.idempotency, caller_of(request).name
    asked = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    kept = await run_in_threadpool(store.begin, caller, key, hashlib.sha256(asked).hexdigest())
    if kept is not None:
        return Response(
            kept.answer, kept.status, {**kept.headers, "Idempotency-Replayed": "true"}, media_type="application/json"
        )
    try:
        answer = await handler(request)
    except Exception as error:
        # Refused or failed: nothing was made, so the key is free again. What timed out may still come to be.
        if not (isinstance(error, ApiError) and error.problem.status == 504):
            await run_in_threadpool(store.give_up, caller, key)
        raise
    headers = {"ETag": answer.headers["etag"]} if "etag" in answer.headers else {}
    await run_in_threadpool(store.end, caller, key, answer.status_code, bytes(answer.body).decode(), headers)
    return answer


def router(prefix: str, tag: str) -> APIRouter:
    return APIRouter(prefix=prefix, tags=[tag], route_class=GuardedRoute)


def headrace_of(request: Request) -> Headrace:
    """The installation behind this app."""
    return request.app.state.headrace


def blocking_of(request: Request) -> BlockingCalls:
    return request.app.state.blocking


def feed_of(request: Request) -> StatusFeed:
    return request.app.state.status_feed


def caller_of(request: Request) -> Principal:
    return principal_of(request.scope)
