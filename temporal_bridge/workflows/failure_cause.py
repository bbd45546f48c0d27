"""The one cause worth telling in a chain of Temporal failures."""

from __future__ import annotations

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,
)


def failure_cause(error: BaseException) -> tuple[str, str]:
    """Return ``(error type, message)`` of the innermost cause.

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
        return innermost.type or "ApplicationError", innermost.message
    if isinstance(innermost, TimeoutError):
        kind = innermost.type.name.lower().replace("_", " ") if innermost.type else "time limit"
        return "TimeoutError", f"{step or 'the work'} gave no answer in time ({kind}) in any of its attempts"
    if isinstance(innermost, CancelledError):
        return "Cancelled", "cancelled"
    if isinstance(innermost, TerminatedError):
        return "Terminated", f"terminated: {innermost.message}"
    if isinstance(innermost, ChildWorkflowError):
        return "ChildWorkflowError", innermost.message
    return type(innermost).__name__, str(innermost)
