"""A workflow's cancellation, where the SDK may have told it to nobody."""

from __future__ import annotations

import asyncio

from temporalio import workflow


def raise_cancellation() -> None:
    """Raise if this workflow is cancelled.

    The SDK raises a cancellation once, in what the workflow awaits then. It is lost where that ends well all the same:
    an activity that had finished, a signal that was on its way to another workflow. So it is asked for between steps.

    Raises:
        asyncio.CancelledError: the workflow is cancelled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError
