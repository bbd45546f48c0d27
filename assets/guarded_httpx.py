"""``httpx`` behind the URL guard: the pool's network backend resolves, judges and pins the address itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from assets.errors import UrlRefusedError

if TYPE_CHECKING:
    import ssl

    from assets.url_guard import UrlGuard

_NO_SOCKET_FILES = "user-supplied URLs lead to no unix socket"


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, guard: UrlGuard) -> None:
        self._guard, self._inner = guard, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception | None = None
        for address in self._guard.addresses(host, port):
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise UrlRefusedError(_NO_SOCKET_FILES)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _GuardedAsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, guard: UrlGuard) -> None:
        self._guard = guard
        # httpcore hides its type where anyio might be missing
        self._inner: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()  # type: ignore[assignment]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        from anyio import to_thread

        failure: Exception | None = None
        for address in await to_thread.run_sync(self._guard.addresses, host, port):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise UrlRefusedError(_NO_SOCKET_FILES)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class GuardedTransport(httpx.HTTPTransport):
    """httpx has no argument for its pool's network backend, so the pool is made here."""

    def __init__(self, guard: UrlGuard, verify: ssl.SSLContext | bool = True) -> None:
        super().__init__(verify=verify)
        self._pool.close()
        context = httpx.create_ssl_context(verify=verify)
        self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=_GuardedBackend(guard))


class GuardedAsyncTransport(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    def __init__(self, guard: UrlGuard, verify: ssl.SSLContext | bool = True) -> None:
        super().__init__(verify=verify)
        context = httpx.create_ssl_context(verify=verify)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=context, network_backend=_GuardedAsyncBackend(guard))
