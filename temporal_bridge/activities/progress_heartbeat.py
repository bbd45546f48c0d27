"""Heartbeats of a blocking step: they carry progress, and stop when nothing moves."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType

from temporalio import activity

from assets.interruption import Interruption, interruptible
from temporal_bridge.workflows.step_inputs import StepProgress

logger = logging.getLogger(__name__)
MAX_INTERVAL = 1.0
"""A cancel is noticed, and a blocked driver told, this often; Temporal itself is asked less often (its throttle).

More beats, say one for each batch, would only cost time on the worker's event loop.
"""


class ProgressHeartbeat:
    """Beats while the step lives, from a thread of its own, so that a dead worker is noticed in one heartbeat timeout.

    A timer alone would hide a stuck reader. With ``silence_seconds`` the beats end when no progress was reported for
    that long: the server then takes the step for dead and gives it to another worker. Without, the step's
    ``start_to_close`` limit bounds it.

    Args:
        step: name in the heartbeat details.
        silence_seconds: how long the step may be silent.
        cancellable: whether a cancel breaks off what the step's connections are doing.
    """

    def __init__(self, step: str, silence_seconds: float | None = None, *, cancellable: bool = False) -> None:
        self._details = StepProgress(step=step)
        self._silence_seconds = silence_seconds
        self._cancellable = cancellable
        self._moved = self._beaten = time.monotonic()
        self._done = threading.Event()
        timeout = activity.info().heartbeat_timeout
        self._interval = max(0.05, min(MAX_INTERVAL, timeout.total_seconds() / 4)) if timeout else MAX_INTERVAL
        self._interruption = Interruption()
        self._interruptible = interruptible(self._interruption)
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._beat,), name=f"heartbeat-{step}", daemon=True
        )

    def __call__(self, rows: int, size: int) -> None:
        """Report progress: rows and bytes so far."""
        self._moved = time.monotonic()
        self._details = self._details.model_copy(update={"rows": rows, "bytes": size})
        if self._moved - self._beaten >= self._interval:
            self._heartbeat()

    def _heartbeat(self) -> None:
        self._beaten = time.monotonic()
        activity.heartbeat(self._details)

    def __enter__(self) -> ProgressHeartbeat:
        self._heartbeat()
        self._interruptible.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._interruptible.__exit__(None, None, None)

    def _beat(self) -> None:
        while not self._done.wait(self._interval):
            if activity.is_cancelled():
                # The cancel is raised in the step's thread when its driver returns: see that it does.
                if self._cancellable:
                    self._interruption.interrupt()
                continue
            silent = time.monotonic() - self._moved
            if self._silence_seconds is not None and silent > self._silence_seconds:
                logger.warning("%s is silent for %.0f s: no more heartbeats", self._details.step, silent)
                return
            self._heartbeat()
