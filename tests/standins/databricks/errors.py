"""Errors as the service words them: an HTTP status with an error code, or a failed statement."""

from __future__ import annotations


class ApiError(Exception):
    """Answered as ``{"error_code": ..., "message": ...}``.

    Args:
        details: entries of ``details``, such as an ``ErrorInfo`` with a reason.
    """

    def __init__(self, status: int, code: str, message: str, *, details: list[dict[str, object]] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details or []


class SqlError(Exception):
    """A statement that fails: its text begins with the error class in brackets."""


def not_found(kind: str, name: str) -> ApiError:
    return ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind.capitalize()} '{name}' does not exist.")
