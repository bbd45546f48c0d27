"""Keeps the snapshot of a chunked read open in this process, while chunks are read here and in other workers.

It is a help and no promise: where the process dies, the remaining chunks are read in snapshots of their own, and
``finish_chunks`` reads again what changed in between.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from assets.sources.interface import TableRead

LOOK_SECONDS = 1.0
WAIT_SECONDS = 0.2


class SnapshotKeeper:
    """Opens a read on a thread of its own and closes it when it is not wanted any more.

    Args:
        opened: the read to hold, not yet entered.
        progress: called while the read opens; may raise to give up.
    """

    def __init__(self, opened: AbstractContextManager[TableRead], progress: Callable[[], None]) -> None:
        self._opened = opened
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="snapshot-keeper", daemon=True).start()
        answer = None
        try:
            while answer is None:
                progress()
                try:
                    answer = self._ready.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    continue
        except BaseException:
            self._wanted.put(None)
            raise
        if isinstance(answer, BaseException):
            raise answer
        self.read: TableRead = answer

    def keep_while(self, wanted: Callable[[], bool]) -> None:
        """Look at ``wanted`` every second, and close the read when it is false or fails. Call once."""
        self._wanted.put(wanted)

    def close(self) -> None:
        self._wanted.put(None)

    def _run(self) -> None:
        try:
            with self._opened as read:
                _ = read.state
                self._ready.put(read)
                wanted = self._wanted.get()
                while wanted is not None and wanted():
                    time.sleep(LOOK_SECONDS)
        except BaseException as error:  # handed to the constructor; later ones only end the help
            self._ready.put(error)
