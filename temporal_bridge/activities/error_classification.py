"""One place that decides which error is worth a retry, and what of it may stand in a workflow's history."""

from __future__ import annotations

import functools
import logging
import re
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from assets.errors import HeadraceError
from temporal_bridge.payload_size import refuse_large_payload

logger = logging.getLogger(__name__)
Step = TypeVar("Step", bound=Callable[..., Any])

MAX_MESSAGE_CHARACTERS = 4000

_SECRETS = (
    # scheme://user:password@host
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    # password=..., "token": "...", PWD='...', api_key: ...
    (
        re.compile(
            r"(?i)(\b[\w-]*(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|credential|sas)[\w-]*"
            r"[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&)\"']+)"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), r"\1 ***"),
    # PostgreSQL repeats row values: Key (id)=(5), Failing row contains (...)
    (re.compile(r"(?s)(\bKey \([^)]*\)=|Failing row contains )\(.*?\)"), r"\1(***)"),
)


def scrub(text: str) -> str:
    """Take secrets out of a foreign message, and cut it to a bounded length."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = f"{text[:MAX_MESSAGE_CHARACTERS]} ... ({len(text)} characters)"
    return text


def classify(error: Exception) -> ApplicationError:
    """Turn any error of a step into the one that Temporal is given. Raise it ``from None``: causes hold foreign text.

    A `HeadraceError` says itself whether a retry may help. An unknown error may be a passing fault of a library or of
    the network: it is retried, within the attempts that every activity bounds.
    """
    if isinstance(error, ApplicationError):
        return error
    name = type(error).__name__
    if isinstance(error, HeadraceError):
        return ApplicationError(scrub(error.text), type=name, non_retryable=not error.retryable)
    return ApplicationError(scrub(f"{name}: {error}"), type=name, non_retryable=False)


def classified(step: Step) -> Step:
    """Classify errors once, and refuse a result that no payload holds."""

    @functools.wraps(step)
    def call(*args: Any) -> Any:
        try:
            result = step(*args)
            refuse_large_payload(result, f"the result of {step.__name__}")
            return result
        except CancelledError:
            raise
        except Exception as error:
            if activity.is_cancelled():  # its connection was broken off
                raise CancelledError("cancelled") from None
            failure = classify(error)
            if not isinstance(error, HeadraceError):  # unexpected: where it came from; its own text may hold secrets
                frames = "".join(traceback.format_tb(error.__traceback__))
                logger.warning("%s: %s\n%s", step.__name__, failure.message, scrub(frames))
            # `from None`: a cause's text would stand in the history unscrubbed.
            raise failure from None

    return call  # type: ignore[return-value]
