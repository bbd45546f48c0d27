"""A message for the next page that the person sees: what the last action did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from itsdangerous import BadSignature
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestration.web.signed_cookies import signer

if TYPE_CHECKING:
    from assets.settings import Settings

COOKIE = "headrace_flash"
SECONDS = 60
MAX_TEXT = 1500
"""A cookie holds 4 kB."""
Kind = Literal["done", "problem"]


@dataclass(frozen=True)
class Flash:
    text: str
    kind: Kind = "done"


def read_flash(request: Request) -> Flash | None:
    """The message that came with the request, if there is one that this server signed."""
    value = request.cookies.get(COOKIE)
    if not value:
        return None
    try:
        kind, text = signer(_settings(request), "flash").loads(value, max_age=SECONDS)
    except (BadSignature, ValueError, TypeError):
        return None
    return Flash(text, kind)


def clear_flash(request: Request, answer: Response) -> None:
    answer.delete_cookie(COOKIE, path=_path(request))


def go_to(request: Request, address: str, text: str = "", kind: Kind = "done") -> Response:
    """Send the browser to one of our pages (path without prefix), which shows ``text``; htmx is sent there too."""
    target = _prefix(request) + address
    answer: Response
    if request.headers.get("hx-request"):
        answer = Response(status_code=204, headers={"HX-Redirect": target})
    else:
        answer = RedirectResponse(target, 303)
    if text:
        answer.set_cookie(
            COOKIE,
            str(signer(_settings(request), "flash").dumps([kind, text[:MAX_TEXT]])),
            max_age=SECONDS,
            path=_path(request),
            secure=request.app.state.origins.encrypted(request.scope),
            httponly=True,
            samesite="lax",
        )
    return answer


def _settings(request: Request) -> Settings:
    return request.app.state.headrace.settings


def _prefix(request: Request) -> str:
    return str(request.app.state.path_prefix)


def _path(request: Request) -> str:
    return _prefix(request) or "/"
