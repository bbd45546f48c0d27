"""A workflow that is no part of Headrace: the bridge carries any."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError


@workflow.defn
class GreetingWorkflow:
    """Greets; waits for the signal first if the name is ``waiting``; fails for the name ``nobody``."""

    def __init__(self) -> None:
        self._released = False

    @workflow.run
    async def run(self, name: str) -> str:
        if name == "nobody":
            raise ApplicationError("nobody is there", type="NobodyError", non_retryable=True)
        if name.startswith("waiting"):
            await workflow.wait_condition(lambda: self._released, timeout=timedelta(minutes=2))
        return f"Hello, {name[:100]}!"

    @workflow.signal
    def release(self) -> None:
        self._released = True
