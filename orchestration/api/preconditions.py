"""ETags: a change is refused where somebody else's came first."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated

from fastapi import Header, Response

from orchestration.api.problems import ApiError

IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=200, description="ETag of what was read; needed to change it")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="the same key with the same request has one effect; kept for a day",
    ),
]


def etag(version: datetime | str) -> str:
    """``version``: when it was last changed, or all of its state."""
    text = version if isinstance(version, str) else version.isoformat()
    return '"' + hashlib.sha256(text.encode()).hexdigest()[:20] + '"'


def tag(response: Response, version: datetime | str) -> None:
    response.headers["ETag"] = etag(version)


def check(if_match: str | None, version: datetime | str, *, needed: bool = True) -> None:
    """Compare with what the caller read.

    Raises:
        ApiError: no ``If-Match`` came (428), or it was changed meanwhile (412).
    """
    if if_match is None:
        if needed:
            raise ApiError(428, "Send If-Match with the ETag of what you read.")
        return
    if if_match.strip() != "*" and etag(version) not in [part.strip() for part in if_match.split(",")]:
        raise ApiError(412, "It was changed since you read it. Read it again.")
