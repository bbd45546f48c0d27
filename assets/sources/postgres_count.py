"""A table's rows counted in a snapshot that another connection reads meanwhile."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from assets.errors import HeadraceError
from assets.interruption import on_interrupt
from assets.sources.postgres_connection import PostgresConfig, break_off, connection

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

CLOSE_SECONDS = 5
HEAD_START_SECONDS = 0.1
"""The window's read begins alone: its first rows are work for others, and a count takes all processors it finds."""


class ConcurrentCount:
    """Counts on a connection and a thread of its own, from ``HEAD_START_SECONDS`` on, or once it is asked.

    Args:
        shared: the snapshot, as `shared_snapshot` exported it; its transaction stays open.
        query: selects one number.
    """

    def __init__(self, name: str, config: PostgresConfig, shared: str, query: sql.Composed) -> None:
        self._name, self._config, self._shared, self._query = name, config, shared, query
        self._rows: int | None = None
        self._opened: psycopg.Connection[Any] | None = None
        self._stopped = False
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postgres-count", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from assets.sources.postgres_snapshot import join_snapshot

        with suppress(HeadraceError), connection(self._name, self._config) as opened:  # whoever asks counts again
            self._opened = opened
            if join_snapshot(opened, self._shared) is None:
                return
            self._asked.wait(HEAD_START_SECONDS)
            if not self._stopped:
                row = opened.execute(self._query).fetchone()
                self._rows = row[0] if row else None

    def rows(self) -> int | None:
        """Wait for the count. None: it could not be taken, or was broken off."""
        self._asked.set()
        with on_interrupt(self._break_off):
            self._thread.join()
        return self._rows

    def _break_off(self) -> None:
        self._stopped = True
        self._asked.set()
        if self._opened is not None:
            break_off(self._opened)

    def close(self) -> None:
        """End the count where it still runs. A thread whose server is silent ends by itself, later."""
        last = time.monotonic() + CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < last:
            self._break_off()
            self._thread.join(0.1)
