"""How a blocked read is broken off: a driver that waits in C hears no exception, so its connection is told instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Interruption:
    """The break-offs of one step. `interrupt` is called from another thread, again and again until the step ends."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def add(self, callback: Callable[[], None]) -> None:
        with self._lock:
            self._callbacks.append(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        with self._lock:
            self._callbacks.remove(callback)

    def interrupt(self) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()


_current: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


@contextmanager
def interruptible(interruption: Interruption) -> Iterator[None]:
    """Connections that open in this block register with ``interruption``."""
    token = _current.set(interruption)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
    """Have ``callback`` called when the step is cancelled while the block runs. It must not block for long."""
    interruption = _current.get()
    if interruption is None:
        yield
        return
    interruption.add(callback)
    try:
        yield
    finally:
        interruption.remove(callback)
