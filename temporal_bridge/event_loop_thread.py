"""One daemon thread with one event loop, and one Temporal connection a target: Temporal's client is async."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from assets.errors import BridgeError

if TYPE_CHECKING:
    from temporalio.client import Client

T = TypeVar("T")
SLICE_SECONDS = 0.5
"""The main thread never waits longer than this at a time: Dagster raises its interrupt there."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class EventLoopThread:
    """Runs coroutines for blocking callers. Made on first use, never at import; a forked child makes its own."""

    _shared: EventLoopThread | None = None
    _shared_lock = threading.Lock()
    used = False

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="temporal-client", daemon=True)
        self._thread.start()
        self._clients: dict[Any, asyncio.Task[Client]] = {}

    @classmethod
    def shared(cls) -> EventLoopThread:
        with cls._shared_lock:
            if cls._shared is None or cls._shared._pid != os.getpid() or not cls._shared._thread.is_alive():
                cls._shared = cls()
                cls.used = True
            return cls._shared

    @classmethod
    def close_shared(cls) -> None:
        """Stop the thread."""
        with cls._shared_lock:
            shared, cls._shared = cls._shared, None
        if shared is not None and shared._pid == os.getpid():
            shared._stop()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end; an interrupt in this thread cancels the coroutine."""
        future = self.submit(coroutine)
        try:
            while True:
                done, _ = concurrent.futures.wait([future], timeout=SLICE_SECONDS)
                if done:
                    return future.result()
        except BaseException:
            future.cancel()
            raise

    async def client(
        self, key: Any, target: str, connect: Callable[[], Coroutine[Any, Any, Client]], deadline_seconds: float
    ) -> Client:
        """Return the connection of `key`, made once; runs on the loop."""
        task = self._clients.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.ensure_future(connect_until(target, connect, deadline_seconds))
            self._clients[key] = task
        return await asyncio.shield(task)

    def _stop(self) -> None:
        async def cancel_all() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=2) if tasks else None
            self._clients.clear()

        if not self._thread.is_alive():
            return
        with contextlib.suppress(concurrent.futures.TimeoutError):
            self.submit(cancel_all()).result(timeout=3)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=3)
        if not self._thread.is_alive():
            self._loop.close()


async def connect_until(
    target: str, connect: Callable[[], Coroutine[Any, Any, Client]], deadline_seconds: float
) -> Client:
    """Connect with retries and backoff.

    Raises:
        BridgeError: the server was unreachable for ``deadline_seconds``.
    """
    deadline = time.monotonic() + deadline_seconds
    pause = _FIRST_PAUSE
    while True:
        remaining = deadline - time.monotonic()
        try:
            return await asyncio.wait_for(connect(), timeout=max(0.1, remaining))
        # An unreachable server is a RuntimeError of the core.
        except (TimeoutError, RuntimeError) as error:
            if time.monotonic() + pause >= deadline:
                raise unreachable(target, deadline_seconds, error) from None
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


def unreachable(target: str, seconds: float, error: BaseException) -> BridgeError:
    """The error of a server that did not answer for so long."""
    return BridgeError(
        f"Temporal unreachable at {target} for {seconds:.0f} s ({_first_line(error)}).",
        remedy="Start it with `headrace up`, or set TEMPORAL_ADDRESS to the server's address.",
        retryable=True,
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or "no answer"
    return text.splitlines()[0][:200]


def _end_at_exit() -> None:
    """Stop the thread before the interpreter goes.

    Threads of Temporal's core hold the interpreter's lock for a moment after they delivered a result. One that gives
    it back while the interpreter ends crashes the process (SIGSEGV or SIGABRT, 4 of 60 on a busy machine), so they are
    let through first.
    """
    EventLoopThread.close_shared()
    if EventLoopThread.used:
        for _ in range(10):
            time.sleep(0.015)


atexit.register(_end_at_exit)
