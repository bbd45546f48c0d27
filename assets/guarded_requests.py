"""``requests`` behind the URL guard: the pool's connections resolve, judge and pin the address themselves."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.poolmanager import PoolManager
from urllib3.util.connection import create_connection

from assets.errors import UrlRefusedError

if TYPE_CHECKING:
    import socket

    from assets.url_guard import UrlGuard


def _connect(connection: Any, guard: UrlGuard) -> socket.socket:
    """What urllib3's ``_new_conn`` does, to the addresses that the guard lets pass."""
    failure: OSError | None = None
    for address in guard.addresses(connection.host, connection.port):
        try:
            opened = create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            failure = error
            continue
        sys.audit("http.client.connect", connection, connection.host, connection.port)
        return opened
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"Connection to {connection.host} timed out") from failure
    raise NewConnectionError(connection, f"Failed to establish a new connection: {failure}") from failure


def guarded_pools(guard: UrlGuard) -> dict[str, Any]:
    """urllib3's pools by scheme, with guarded connections; for any ``PoolManager``."""

    class GuardedHttp(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, guard)

    class GuardedHttps(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, guard)

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = GuardedHttp  # type: ignore[assignment]

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = GuardedHttps  # type: ignore[assignment]

    return {"http": HttpPool, "https": HttpsPool}


class GuardedAdapter(HTTPAdapter):
    """Connects through the guard and through nothing else."""

    def __init__(self, guard: UrlGuard, **options: Any) -> None:
        self._pools = guarded_pools(guard)
        super().__init__(**options)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **_: Any) -> Any:
        raise UrlRefusedError("requests to user-supplied URLs do not go through a proxy")


class GuardedSession(requests.Session):
    """A session that speaks http and https, to judged addresses, with a timeout."""

    def __init__(self, guard: UrlGuard, timeout: tuple[float, float]) -> None:
        super().__init__()
        self.trust_env = False
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
        self.verify = bundle or True
        self.secret_headers: set[str] = set()
        self._timeout = timeout
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            self.mount(scheme, GuardedAdapter(guard))

    def get_adapter(self, url: str) -> Any:
        if not url.lower().startswith(("http://", "https://")):
            raise UrlRefusedError("only http:// and https:// URLs are requested", where=url.partition(":")[0][:20])
        return super().get_adapter(url)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        return super().send(request, **options)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """On a redirect: secrets stay with the host that they were meant for."""
        before, after = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, after):
            for name in [n for n in prepared_request.headers if n.lower() in self.secret_headers | {"authorization"}]:
                del prepared_request.headers[name]
