"""What goes wrong on request, set by ``POST /standin/failpoints``, and the record of what was asked.

A failpoint names the calls it takes (``call``: a pattern over ``METHOD /path`` and, for statements, their text) and
what happens there:

| action | what happens |
|---|---|
| ``drop_before`` | the connection is closed, nothing was done |
| ``drop_after`` | the call takes effect, the connection is closed without a reply |
| ``status`` | HTTP ``status`` (429, 503, ...) with ``Retry-After`` |
| ``fail`` | the statement fails with ``message`` (a conflict, for instance) when it is about to write |
| ``slow`` | the call, or the statement, takes ``seconds`` longer |
| ``kill_before``, ``kill_after`` | SIGKILL to the process that called, before or after the effect, on this machine |
"""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import asdict, dataclass
from typing import Any

import psutil


@dataclass
class Failpoint:
    call: str
    action: str
    times: int = 1
    skip: int = 0
    """Calls that match and pass before it fires."""
    status: int = 503
    retry_after: float = 0
    message: str = ""
    seconds: float = 0
    fired: int = 0


class Failpoints:
    """The failpoints of one server, and its log of calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: list[Failpoint] = []
        self.calls: list[dict[str, Any]] = []

    def set(self, points: list[dict[str, Any]]) -> None:
        with self._lock:
            self._points = [Failpoint(**point) for point in points]

    def told(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(point) for point in self._points]

    def record(self, call: dict[str, Any]) -> None:
        with self._lock:
            self.calls.append(call)
            del self.calls[:-20_000]

    def clear_calls(self) -> None:
        with self._lock:
            self.calls.clear()

    def take(self, call: str, *actions: str) -> Failpoint | None:
        """The failpoint that fires at this call, if one does."""
        with self._lock:
            for point in self._points:
                if point.action not in actions or point.fired >= point.times or not re.search(point.call, call, re.S):
                    continue
                if point.skip:
                    point.skip -= 1
                    continue
                point.fired += 1
                return point
        return None


def kill_peer(port: int) -> None:
    """SIGKILL the process that holds the other end of a loopback connection."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.pid not in (None, os.getpid()):
            assert connection.pid is not None
            os.kill(connection.pid, signal.SIGKILL)
