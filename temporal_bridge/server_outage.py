"""Which errors of a call to Temporal mean that the server, or the way to it, is away for now."""

from __future__ import annotations

BROKEN_CONNECTION = ("transport error", "h2 protocol error", "error reading a body from connection")
"""Texts of a connection that breaks during a call. The SDK's core reports it as UNKNOWN or INTERNAL, which servers use
for errors of their own as well (https://github.com/grpc/grpc-rust/issues/628)."""


def server_is_away(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    from temporalio.service import RPCError, RPCStatusCode

    if not isinstance(error, RPCError):
        return False
    if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
        return True
    vague = error.status in (RPCStatusCode.UNKNOWN, RPCStatusCode.INTERNAL)
    return vague and any(text in str(error) for text in BROKEN_CONNECTION)
