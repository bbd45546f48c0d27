"""Errors as ``application/problem+json`` (RFC 9457): what is wrong, which field, what to do next. Never a value."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from assets.errors import (
    BridgeError,
    ChangedError,
    ConfigurationError,
    ConflictError,
    HeadraceError,
    NotFoundError,
    SourceAccessError,
    SourceUnreachableError,
)
from assets.lakehouse_sql import QueryError
from orchestration.sql_box import SqlBusyError

_log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_STATUS: dict[type[HeadraceError], tuple[int, str]] = {
    SqlBusyError: (503, "Busy"),
    QueryError: (422, "Not valid"),
    NotFoundError: (404, "Not found"),
    ChangedError: (412, "Changed meanwhile"),
    ConflictError: (409, "Conflict"),
    ConfigurationError: (422, "Not valid"),
    SourceUnreachableError: (502, "The source does not answer"),
    SourceAccessError: (502, "The source refuses"),
    BridgeError: (503, "Temporal or its worker is missing"),
}
_TITLES = {
    400: "Bad request",
    401: "Login needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Media type not supported",
    422: "Not valid",
    428: "Precondition required",
    429: "Too many requests",
    503: "Busy",
    504: "Timed out",
}


class FieldProblem(BaseModel):
    """One wrong field: where it stands in the request, and what is wrong with it."""

    field: str
    message: str


class Problem(BaseModel):
    """An error. ``where`` names the connector, table or column; ``remedy`` says what to do next."""

    type: str = Field(default="about:blank", description="kind of error, such as `ConflictError`")
    title: str
    status: int
    detail: str
    where: str = ""
    remedy: str = ""
    retryable: bool = False
    errors: list[FieldProblem] = []


class ApiError(Exception):
    """An answer with a status of its own."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        self.problem = Problem(title=_TITLES.get(status, "Error"), status=status, detail=detail, **more)
        self.headers = headers
        super().__init__(detail)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation may answer with, for its entry in the OpenAPI document."""
    return {
        status: {
            "description": _TITLES.get(status, "Error"),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(mode="json"), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )


def problem_of(error: HeadraceError) -> Problem:
    """What a typed error says to a client."""
    status, title = next(
        (found for kind, found in _STATUS.items() if isinstance(error, kind)), (500, "The installation has a problem")
    )
    return Problem(
        type=type(error).__name__,
        title=title,
        status=status,
        detail=error.what,
        where=error.where,
        remedy=error.remedy,
        retryable=error.retryable,
        errors=[FieldProblem(field=field, message=message) for field, message in getattr(error, "fields", ())],
    )


def _field(location: tuple[Any, ...]) -> str:
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    return ".".join(parts)


def install(app: FastAPI) -> None:
    """Turn every error of the app into a problem."""

    @app.exception_handler(HeadraceError)
    async def _headrace(_: Request, error: HeadraceError) -> JSONResponse:
        return answer(problem_of(error))

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return answer(error.problem, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # pydantic's own text may repeat the value, which may be a secret: its type and place are enough
        wrong = [
            FieldProblem(field=_field(item["loc"]), message=_message(item["type"], item["msg"]))
            for item in error.errors()[:20]
        ]
        detail = "; ".join(f"{item.field}: {item.message}" for item in wrong)
        return answer(Problem(title=_TITLES[422], status=422, detail=detail, errors=wrong))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        title = _TITLES.get(error.status_code, "Error")
        headers = dict(error.headers) if error.headers else None
        return answer(Problem(title=title, status=error.status_code, detail=str(error.detail)), headers)

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        # the text of an unforeseen error may hold anything, a secret too: only its type is told
        _log.error("%s %s failed with %s", request.method, request.url.path, type(error).__name__)
        detail = f"internal error ({type(error).__name__})"
        return answer(Problem(title="Internal error", status=500, detail=detail))


def _message(kind: str, message: str) -> str:
    return "is not valid JSON" if kind == "json_invalid" else message
