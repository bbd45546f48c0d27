"""Errors of pages and of Dagster's routes, as pages with what to do next; the API has handlers of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from assets.errors import HeadraceError
from orchestration.api.problems import ApiError, problem_of
from orchestration.web.security_headers import EVERYWHERE, POLICY
from orchestration.web.templates import render_error, render_problem

_log = logging.getLogger(__name__)
_TITLES = {403: "Not allowed", 404: "Not found", 405: "Not allowed here"}
_DETAILS = {404: "There is nothing at this address."}


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    detail = _DETAILS.get(status, str(error.detail))
    answer = render_problem(request, status, detail, title=_TITLES.get(status, ""))
    answer.headers.update(error.headers or {})
    return answer


def _of_headrace(request: Request, error: Exception) -> Response:
    assert isinstance(error, HeadraceError)
    problem = problem_of(error)
    return render_error(request, problem.status, problem.title, error)


def _of_api(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    problem = error.problem
    answer = render_problem(
        request, problem.status, problem.detail, where=problem.where, remedy=problem.remedy, title=problem.title
    )
    answer.headers.update(error.headers or {})
    return answer


def _unforeseen(request: Request, error: Exception) -> Response:
    # its text may hold anything, a secret too: only its type is told. Served outside the middleware: headers by hand
    _log.error("%s %s failed with %s", request.method, request.url.path, type(error).__name__)
    detail = f"The server failed ({type(error).__name__}). Its log says where."
    answer = render_problem(request, 500, detail, title="Internal error")
    answer.headers.update(EVERYWHERE | {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
    return answer


PAGE_ERRORS: Mapping[Any, Callable[[Request, Exception], Response]] = {
    HTTPException: _of_http,
    HeadraceError: _of_headrace,
    ApiError: _of_api,
    Exception: _unforeseen,
}
