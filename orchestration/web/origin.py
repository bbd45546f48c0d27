"""Where a request comes from: this server's own pages, another site, another name of this address."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether a server on this address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Origins:
    """What counts as this server.

    Args:
        web_url: address under which people reach it, if it is another than the one it listens on.
        loopback_only: it listens on loopback: then a request that names another host was led here by a foreign name
            (DNS rebinding).
    """

    def __init__(self, web_url: str | None, loopback_only: bool) -> None:
        self._public = urlsplit(web_url) if web_url else None
        self._loopback_only = loopback_only

    def knows_host(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("host", "")
        if self._public is not None and host == self._public.netloc:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name in LOOPBACK_NAMES if self._loopback_only else bool(host)

    def same_origin(self, scope: Scope, *, unless_told: bool) -> bool:
        """Whether one of this server's own pages sent the request, by ``Origin`` or ``Sec-Fetch-Site``.

        ``unless_told`` is the answer where the client says neither, as programs do.
        """
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None:
            netloc = urlsplit(origin).netloc
            return bool(netloc) and netloc in {headers.get("host"), self._public.netloc if self._public else None}
        site = headers.get("sec-fetch-site")
        return unless_told if site is None else site in ("same-origin", "none")

    def encrypted(self, scope: Scope) -> bool:
        """Whether the browser speaks HTTPS with us, so that cookies may be bound to it."""
        secure = self._public is not None and self._public.scheme == "https"
        return secure or scope.get("scheme") in ("https", "wss")
