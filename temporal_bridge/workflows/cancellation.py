"""A workflow's cancellation: where the SDK may have told it to nobody, and where it comes to many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

Outcome = TypeVar("Outcome")


def raise_cancellation() -> None:
    """Raise if this workflow is cancelled.

    The SDK raises a cancellation once, in what the workflow awaits then. It is lost where that ends well all the same:
    an activity that had finished, a signal that was on its way to another workflow. So it is asked for between steps.

    Raises:
        asyncio.CancelledError: the workflow is cancelled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def was_cancelled(error: BaseException) -> bool:
    """Whether ``error`` ended the work because it was cancelled.

    A step whose worker died as it was cancelled runs out of time: the server tries it no more, and tells the time limit
    instead. Raise the end with `raise_cancellation` then, or the workflow ends as failed.
    """
    return is_cancelled_exception(error) or workflow.cancellation_reason() is not None


async def gather_all(*steps: Awaitable[Outcome]) -> list[Outcome]:
    """The outcomes of all ``steps``, in order; the first error once every one of them has ended.

    `asyncio.gather` passes the first error on at once: a cancelled workflow would end with the first of its children
    that has, while others still close their run rows. Histories of that time replay as they were.
    """
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        if workflow.patched("end-with-the-last"):
            await asyncio.gather(*tasks, return_exceptions=True)
        raise
