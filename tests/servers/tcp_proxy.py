"""A TCP proxy on loopback that breaks connections the way networks do: for any server of the tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from orchestration.child_process import LOOPBACK

BLOCK = 16_384


class TcpProxy:
    """Forwards ``host:port`` (its own) to a server. ``received`` counts the bytes that came from the server."""

    def __init__(self, host: str, port: int) -> None:
        self.host = LOOPBACK
        self.received = 0
        self._target = (host, port)
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silenced: set[socket.socket] = set()
        self._limit: tuple[int, Callable[[], None]] | None = None
        self._canned: tuple[bytes, int] = (b"", 0)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]

    def at(self, received: int, action: Callable[[], None]) -> None:
        """Call ``action`` once when so many more bytes have come from the server: ``cut``, ``silence``, anything."""
        with self._lock:
            self._limit = (self.received + received, action)

    def cut(self) -> None:
        """Break all connections, as a router's reset does. New ones are forwarded."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Deliver nothing more on the present connections, and leave them open. New ones are forwarded."""
        with self._lock:
            self._silenced.update(end for pair in self._pairs for end in pair)

    def answer(self, text: bytes, times: int) -> None:
        """Answer the next connections' first request with a fixed text instead of the server, and close them."""
        with self._lock:
            self._canned = (text, times)

    def _answer(self, client: socket.socket, text: bytes) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(5)
            client.recv(BLOCK)
            client.sendall(text)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                text, times = self._canned
                self._canned = (text, max(0, times - 1))
            if times:
                threading.Thread(target=self._answer, args=(client, text), daemon=True).start()
                continue
            try:
                server = socket.create_connection(self._target, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for source, target, counted in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, target, counted), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                if source in self._silenced:
                    continue
                if counted:
                    self._count(len(data))
                    if source in self._silenced:
                        continue
                target.sendall(data)
        if source not in self._silenced:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        action = None
        with self._lock:
            self.received += size
            if self._limit and self.received >= self._limit[0]:
                action, self._limit = self._limit[1], None
        if action:
            action()

    def __enter__(self) -> TcpProxy:
        threading.Thread(target=self._accept, name="tcp-proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
