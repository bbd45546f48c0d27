"""Calls of drivers that may block: in threads of their own, a few at once, each given up after its time."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from orchestration.api.problems import ApiError

AT_ONCE = 8
Result = TypeVar("Result")


class BlockingCalls:
    """Runs blocking calls. A call that is given up keeps its thread until the driver returns."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._slots = threading.BoundedSemaphore(at_once)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="headrace-api")

    async def run(self, call: Callable[[], Result], seconds: float) -> Result:
        """Await the call.

        Raises:
            ApiError: all threads are taken (503), or it took too long (504).
        """
        if not self._slots.acquire(blocking=False):
            raise ApiError(503, "All threads for sources are taken. Try again soon.", headers={"Retry-After": "5"})

        def released() -> Result:
            try:
                return call()
            finally:
                self._slots.release()

        work = asyncio.get_running_loop().run_in_executor(self._threads, contextvars.copy_context().run, released)
        try:
            return await asyncio.wait_for(asyncio.shield(work), seconds)
        except TimeoutError:
            work.add_done_callback(lambda done: done.exception())  # nobody waits for it any more
            raise ApiError(504, f"The source did not answer within {seconds:.0f} s.", retryable=True) from None
