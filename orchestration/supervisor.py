"""Keeps the server processes of one stack alive, and ends them together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestration.child_process import ChildProcess, ServerProcessError

_log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_RESTARTS_IN_WINDOW = 20
_WINDOW_SECONDS = 600.0


@dataclass
class SupervisedServer:
    """One server: its process, when it counts as up, and how long that may take."""

    child: ChildProcess
    ready: Callable[[], bool]
    ready_seconds: float = 60
    stage: int = 0
    """Servers of one stage start together; a stage starts when all of the one before are ready."""
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=_RESTARTS_IN_WINDOW))
    restart_at: float | None = None

    def pause(self) -> float:
        """Seconds until the next start: doubles with each restart of the last ten minutes."""
        recent = sum(1 for at in self.restarts if at > time.monotonic() - _WINDOW_SECONDS)
        return min(_FIRST_PAUSE_SECONDS * 2**recent, _LONGEST_PAUSE_SECONDS)

    def exhausted(self) -> bool:
        return len(self.restarts) == _RESTARTS_IN_WINDOW and self.restarts[0] > time.monotonic() - _WINDOW_SECONDS


class Supervisor:
    """Starts servers in order, starts one again when it dies, stops all in reverse order.

    Everything happens in one thread, because the kernel ends a child with the *thread* that started it.
    A server that dies 20 times in ten minutes stays down and `failure` says so.
    """

    def __init__(self, servers: list[SupervisedServer]) -> None:
        self.servers = servers
        self.failure: str | None = None
        self._up = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._supervise, name="headrace-supervisor", daemon=True)

    def start(self) -> None:
        """Start all servers and wait until each one answers.

        Raises:
            ServerProcessError: one did not come up; the others are stopped again.
        """
        self._thread.start()
        try:
            while not self._up.wait(0.2):
                pass
        except BaseException:
            self.stop()
            raise
        if self._error is not None:
            self._thread.join()
            raise self._error

    def stop(self) -> None:
        """Stop all servers; returns when every process is gone. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        try:
            for stage in sorted({server.stage for server in self.servers}):
                together = [server for server in self.servers if server.stage == stage]
                for server in together:
                    if self._stop.is_set():
                        return
                    server.child.start()
                for server in together:
                    server.child.wait_until(
                        lambda ready=server.ready: self._stop.is_set() or ready(), server.ready_seconds
                    )
            self._up.set()
            while not self._stop.wait(0.1):
                for server in self.servers:
                    self._revive(server)
        except BaseException as error:
            self._error = error
            self.failure = str(error)
        finally:
            for server in reversed(self.servers):
                server.child.stop()
            self._up.set()

    def _revive(self, server: SupervisedServer) -> None:
        child = server.child
        if child.running:
            return
        now = time.monotonic()
        if server.restart_at is None:
            if server.exhausted():
                raise ServerProcessError(
                    f"died {_RESTARTS_IN_WINDOW} times in ten minutes: {child.last_lines()}", where=child.name
                )
            child.kill_group()  # what it left behind must not meet its successor
            server.restart_at = now + server.pause()
            _log.warning("%s ended with status %s; it is started again", child.name, child.returncode)
        elif now >= server.restart_at:
            server.restarts.append(now)
            server.restart_at = None
            child.start()
