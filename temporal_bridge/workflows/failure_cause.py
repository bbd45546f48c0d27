"""The one cause worth telling in a chain of Temporal failures."""

from __future__ import annotations

from typing import NamedTuple

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,
)


class FailureCause(NamedTuple):
    """Class name, text, and whether the cause itself said that no retry helps."""

    error_type: str
    text: str
    non_retryable: bool = False


def failure_cause(error: BaseException) -> FailureCause:
    """Find the innermost cause.

    Args:
        error: what an activity or a child workflow raised.
    """
    step = ""
    innermost = error
    while innermost.__cause__ is not None and not isinstance(innermost, ApplicationError):
        if isinstance(innermost, ActivityError):
            step = innermost.activity_type
        innermost = innermost.__cause__
    if isinstance(innermost, ApplicationError):
        return FailureCause(innermost.type or "ApplicationError", innermost.message, innermost.non_retryable)
    if isinstance(innermost, TimeoutError):
        kind = innermost.type.name.lower().replace("_", " ") if innermost.type else "time limit"
        return FailureCause(
            "TimeoutError", f"{step or 'the work'} gave no answer in time ({kind}) in any of its attempts"
        )
    if isinstance(innermost, CancelledError):
        return FailureCause("Cancelled", "cancelled")
    if isinstance(innermost, TerminatedError):
        return FailureCause("Terminated", f"terminated: {innermost.message}")
    if isinstance(innermost, ChildWorkflowError):
        return FailureCause("ChildWorkflowError", innermost.message)
    return FailureCause(type(innermost).__name__, str(innermost))
