"""Bounds the body of every request, by its length where it says one and by counting where it does not."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 * 1024 * 1024


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """ASGI middleware. ``limits`` are larger bounds of paths that take files, by the path's beginning."""

    def __init__(self, app: ASGIApp, limits: dict[str, int]) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        limit = next((bytes for start, bytes in self.limits.items() if path.startswith(start)), MAX_BODY_BYTES)
        length = Headers(scope=scope).get("content-length", "0")
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if not length.isdigit() or int(length) > limit:
                raise _TooLargeError
            await self.app(scope, counted, noted)
        except _TooLargeError:
            if started:
                raise
            problem = {
                "type": "about:blank",
                "title": "Too large",
                "status": 413,
                "detail": f"A request holds {limit:,} bytes at most.",
            }
            await JSONResponse(problem, 413, media_type="application/problem+json")(scope, receive, send)
