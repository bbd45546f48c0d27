"""Many small tables of a dataset: a few steps for all of them instead of a workflow each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from assets.sync import TableResult, TableSync, Together
    from temporal_bridge.workflows.cancellation import gather_all, raise_cancellation
    from temporal_bridge.workflows.step_inputs import SyncTimeouts, TogetherInput
    from temporal_bridge.workflows.task_queues import role_queue

LOOKED_AT_ONCE = 250
MOST_AT_ONCE = 25


class SmallTables:
    """Sorts a dataset's tables into those without news, small ones and others, and syncs the small ones.

    Args:
        free: a place for each step or child at once.
        parallel: how many places there are.
        ended: told of each table's result.
    """

    def __init__(self, free: asyncio.Semaphore, parallel: int, ended: Callable[[TableResult], None]) -> None:
        self._free, self._parallel, self._ended = free, parallel, ended
        self._small: list[TableSync] = []
        self._timeouts = SyncTimeouts()

    async def first_look(self, works: Sequence[TableSync]) -> tuple[TableSync, ...]:
        """End the tables without news, keep the small ones for `sync`, and return the others."""
        self._timeouts = await workflow.execute_local_activity(
            "sync_timeouts",
            result_type=SyncTimeouts,
            schedule_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        left: list[TableSync] = []
        for start in range(0, len(works), LOOKED_AT_ONCE):
            some = works[start : start + LOOKED_AT_ONCE]
            done = await self._step("prove_unchanged", some)
            small = set(done.small)
            self._small += [work for work in some if work.table in small]
            left += _left(some, done)
        return tuple(left)

    async def sync(self, alone: Callable[[TableSync], Awaitable[None]]) -> None:
        """Sync the small tables; ``alone`` those that turn out to need a workflow of their own."""
        several = max(1, min(MOST_AT_ONCE, -(-len(self._small) // self._parallel)))
        groups = [self._small[start : start + several] for start in range(0, len(self._small), several)]

        async def one(works: Sequence[TableSync]) -> None:
            async with self._free:
                done = await self._step("sync_together", works)
            await gather_all(*(alone(work) for work in _left(works, done)))

        await gather_all(*(one(works) for works in groups))

    async def _step(self, step: str, works: Sequence[TableSync]) -> Together:
        """One step for all of ``works``. Where it fails as a whole, each is left to a workflow of its own."""
        raise_cancellation()
        try:
            done: Together = await workflow.execute_activity(
                step,
                TogetherInput(works=tuple(works)),
                result_type=Together,
                task_queue=role_queue(workflow.info().task_queue, "extract"),
                summary=f"{works[0].connector}: {len(works)} tables",
                start_to_close_timeout=timedelta(hours=2),
                schedule_to_close_timeout=timedelta(hours=12),
                heartbeat_timeout=timedelta(seconds=self._timeouts.heartbeat_seconds),
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            done = Together(left=tuple(work.table for work in works))
        for result in done.results:
            self._ended(result)
        return done


def _left(works: Sequence[TableSync], done: Together) -> list[TableSync]:
    left = set(done.left)
    return [work for work in works if work.table in left]
