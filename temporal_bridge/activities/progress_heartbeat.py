"""Heartbeats of a blocking step: they carry progress, and stop when nothing moves."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType

from temporalio import activity

from temporal_bridge.workflows.step_inputs import StepProgress

logger = logging.getLogger(__name__)


class ProgressHeartbeat:
    """Beats while the step lives, from a thread of its own, so that a dead worker is noticed in one heartbeat timeout.

    A timer alone would hide a stuck reader. With ``silence_seconds`` the beats end when no progress was reported for
    that long: the server then takes the step for dead and gives it to another worker. Without, the step's
    ``start_to_close`` limit bounds it.

    Args:
        step: name in the heartbeat details.
        silence_seconds: how long the step may be silent.
    """

    def __init__(self, step: str, silence_seconds: float | None = None) -> None:
        self._details = StepProgress(step=step)
        self._silence_seconds = silence_seconds
        self._moved = time.monotonic()
        self._done = threading.Event()
        timeout = activity.info().heartbeat_timeout
        self._interval = max(0.05, timeout.total_seconds() / 4) if timeout else 10.0
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._beat,), name=f"heartbeat-{step}", daemon=True
        )

    def __call__(self, rows: int, size: int) -> None:
        """Report progress: rows and bytes so far."""
        self._moved = time.monotonic()
        self._details = self._details.model_copy(update={"rows": rows, "bytes": size})
        activity.heartbeat(self._details)

    def __enter__(self) -> ProgressHeartbeat:
        activity.heartbeat(self._details)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()

    def _beat(self) -> None:
        while not self._done.wait(self._interval):
            silent = time.monotonic() - self._moved
            if self._silence_seconds is not None and silent > self._silence_seconds:
                logger.warning("%s is silent for %.0f s: no more heartbeats", self._details.step, silent)
                return
            activity.heartbeat(self._details)
