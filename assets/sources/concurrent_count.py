"""A table's rows counted on another connection, in the snapshot that is read meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from assets.errors import HeadraceError
from assets.interruption import on_interrupt

COUNT_MEANWHILE_FROM_BYTES = 64 << 20
"""A smaller table is counted in less time than another connection takes."""
CLOSE_SECONDS = 5
HEAD_START_SECONDS = 0.1
"""The window's read begins alone: its first rows are work for others, and a count takes all processors it finds."""


@dataclass(frozen=True)
class Counting:
    """A connection that has the snapshot.

    Attributes:
        rows: counts, and raises a `HeadraceError` where it cannot.
        break_off: ends the count, from another thread.
    """

    rows: Callable[[], int]
    break_off: Callable[[], None]


class ConcurrentCount:
    """Counts on a thread of its own, from ``HEAD_START_SECONDS`` on, or once it is asked.

    Args:
        opening: opens the connection, on that thread; yields None where it cannot have the snapshot.
    """

    def __init__(self, opening: AbstractContextManager[Counting | None]) -> None:
        self._opening = opening
        self._rows: int | None = None
        self._counting: Counting | None = None
        self._stopped = False
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source-count", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(HeadraceError), self._opening as counting:  # whoever asks counts again
            if counting is None:
                return
            self._counting = counting
            self._asked.wait(HEAD_START_SECONDS)
            if not self._stopped:
                self._rows = counting.rows()

    def rows(self) -> int | None:
        """Wait for the count. None: it could not be taken, or was broken off."""
        self._asked.set()
        with on_interrupt(self._break_off):
            self._thread.join()
        return self._rows

    def _break_off(self) -> None:
        self._stopped = True
        self._asked.set()
        if self._counting is not None:
            self._counting.break_off()

    def close(self) -> None:
        """End the count where it still runs. A thread whose server is silent ends by itself, later."""
        last = time.monotonic() + CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < last:
            self._break_off()
            self._thread.join(0.1)
