"""The login in front of everything on the webserver's address: pages, API, Dagster's UI, GraphQL and websockets.

Pure ASGI, because Starlette's ``BaseHTTPMiddleware`` does not see websockets.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestration.web.origin import Origins
from orchestration.web.principal import ANONYMOUS, EVERYONE, AuditNote, Principal, set_principal
from orchestration.web.sessions import BadCredentialError, Sessions, csrf_token

if TYPE_CHECKING:
    from assets.catalog.access import Access
    from assets.catalog.access_records import Outcome

_log = logging.getLogger(__name__)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
RECHECK_SECONDS = 15.0
"""How long a stream or websocket goes on after its session ended."""
MAX_FORM_BYTES = 64 * 1024
DENIALS_A_MINUTE = 60
"""Audit lines of denials for one address; further ones are not written."""
CLOSE_UNAUTHORIZED = 4401


class Login:
    """ASGI middleware.

    Args:
        public: tells of a path (without prefix) whether it is shown without a login.
        ours: tells of a path whether it is a page or the API; its cookie requests need a CSRF token too.
        sessions: None: no login at all, everybody is an administrator (loopback only).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        sessions: Sessions | None,
        origins: Origins,
        prefix: str,
        public: Callable[[str], bool],
        ours: Callable[[str], bool],
        audit_days: int,
    ) -> None:
        self.app = app
        self._access = access
        self._sessions = sessions
        self._origins = origins
        self._prefix = prefix
        self._public = public
        self._ours = ours
        self._audit_days = audit_days
        self._denials: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._threads: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._origins.knows_host(scope):
            await _refuse(scope, receive, send, 421, "This server is not known by that name.")
            return
        path = scope["path"].removeprefix(self._prefix)
        try:
            principal = await self._principal(scope)
        except BadCredentialError:
            await self._audit(scope, ANONYMOUS, AuditNote(), "denied", "bad token")
            await _refuse(scope, receive, send, 401, "The token is unknown, expired or revoked.")
            return
        note = set_principal(scope, principal)
        if principal.session is not None:
            scope["headrace.csrf"] = csrf_token(principal.session)
        if principal.kind == "anonymous" and not self._public(path):
            await self._ask_to_log_in(scope, receive, send, path)
            return
        receive, refusal = await self._forged(scope, receive, principal, path)
        if refusal:
            await self._audit(scope, principal, note, "denied", refusal)
            await _refuse(scope, receive, send, 403, refusal)
            return
        await self._serve(scope, receive, send, principal, note)

    async def _principal(self, scope: Scope) -> Principal:
        if self._sessions is None:
            return EVERYONE
        return await self._in_thread(self._sessions.principal, scope)

    async def _in_thread(self, call: Callable[..., Principal], *arguments: object) -> Principal:
        if self._threads is None:  # of its own, so that blocked drivers keep nobody out
            self._threads = CapacityLimiter(8)
        return await to_thread.run_sync(call, *arguments, limiter=self._threads)

    async def _ask_to_log_in(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        headers = Headers(scope=scope)
        navigates = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and not headers.get("hx-request")
        if navigates and "text/html" in headers.get("accept", "") and not path.startswith(("/api/", "/graphql")):
            query = scope["query_string"].decode("latin-1")
            wanted = quote(path + (f"?{query}" if query else ""), safe="/")
            answer = RedirectResponse(f"{self._prefix}/headrace/login?next={wanted}", 303)
            await answer(scope, receive, send)
            return
        await _refuse(scope, receive, send, 401, "A login or an API token is needed.")

    async def _forged(self, scope: Scope, receive: Receive, principal: Principal, path: str) -> tuple[Receive, str]:
        """Why the request cannot come from one of our pages, if it cannot. A token proves itself: no site has it."""
        if principal.kind in ("token", "stack"):
            return receive, ""
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            return receive, ""
        if not self._origins.same_origin(scope, unless_told=principal.kind == "everyone"):
            return receive, "The request came from another site."
        if principal.session is None or scope["type"] == "websocket" or not self._ours(path):
            return receive, ""
        expected = csrf_token(principal.session)
        headers = Headers(scope=scope)
        given = headers.get("x-csrf-token")
        if given is None and headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            receive, given = await _form_field(receive, "csrf_token")
        if hmac.compare_digest((given or "").encode(), expected.encode()):
            return receive, ""
        return receive, "The form is not of this session: load the page again."

    async def _serve(self, scope: Scope, receive: Receive, send: Send, principal: Principal, note: AuditNote) -> None:
        status = 0
        next_check = time.monotonic() + RECHECK_SECONDS

        async def watched(message: Message) -> None:
            nonlocal status, next_check
            if message["type"] == "http.response.start":
                status = message["status"]
            streams = message["type"] == "websocket.send" or message.get("more_body")
            if streams and principal.kind in ("user", "token") and time.monotonic() > next_check:
                next_check = time.monotonic() + RECHECK_SECONDS
                if not await self._still(scope, principal):
                    if message["type"] == "websocket.send":
                        await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED})
                    else:
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
                    raise _EndedError
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except _EndedError:
            pass
        except BaseException:
            status = status or 500
            raise
        finally:
            if scope["type"] == "http":
                with anyio.CancelScope(shield=True):
                    await self._audit_answer(scope, principal, note, status)

    async def _still(self, scope: Scope, principal: Principal) -> bool:
        try:
            return await self._principal(scope) == principal
        except BadCredentialError:
            return False

    async def _audit_answer(self, scope: Scope, principal: Principal, note: AuditNote, status: int) -> None:
        if status in (401, 403):
            await self._audit(scope, principal, note, "denied", note.detail)
        elif note.action or (scope["method"] not in SAFE_METHODS and not note.reads_only):
            outcome = "done" if 0 < status < 400 else "failed"
            await self._audit(scope, principal, note, outcome, note.detail or f"status {status}")

    async def _audit(self, scope: Scope, principal: Principal, note: AuditNote, outcome: Outcome, detail: str) -> None:
        address = address_of(scope)
        if outcome == "denied" and not self._may_write(address):
            return
        action = note.action or ("websocket" if scope["type"] == "websocket" else scope["method"])
        target = note.target or scope["path"]

        def write() -> None:
            try:
                self._access.audit(
                    principal.name or "anonymous",
                    action,
                    target,
                    outcome=outcome,
                    address=address,
                    detail=detail,
                    keep_days=self._audit_days,
                )
            except Exception as error:  # the answer is on its way: the log of the process has to do
                _log.error("an audit line was not written: %s", type(error).__name__)

        await to_thread.run_sync(write)

    def _may_write(self, address: str) -> bool:
        now = time.monotonic()
        since, count = self._denials.pop(address, (now, 0))
        if now - since > 60:
            since, count = now, 0
        self._denials[address] = (since, count + 1)
        while len(self._denials) > 1000:
            self._denials.popitem(last=False)
        return count < DENIALS_A_MINUTE


class _EndedError(Exception):
    """The session of a stream has ended."""


def address_of(scope: Scope) -> str:
    """Where the request comes from, as the server (behind its trusted proxies) sees it."""
    return str((scope.get("client") or ("",))[0])


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED if status == 401 else 4403})
        return
    titles = {401: "Login needed", 403: "Not allowed", 421: "Misdirected"}
    problem = {"type": "about:blank", "title": titles[status], "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    answer: Response = JSONResponse(problem, status, headers, media_type="application/problem+json")
    await answer(scope, receive, send)


async def _form_field(receive: Receive, name: str) -> tuple[Receive, str | None]:
    """A field of a small form, and a ``receive`` that gives the body once more."""
    body, more = b"", True
    while more and len(body) <= MAX_FORM_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > MAX_FORM_BYTES:
        return receive, None
    values = parse_qs(body.decode("utf-8", "replace"), max_num_fields=1000).get(name)
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again, values[0] if values else None
