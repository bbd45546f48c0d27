"""The checks of a connector as they are tried: one line of JSON each, which the page's script puts in its place."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from assets.errors import ConfigurationError, HeadraceError
from assets.sync import CheckResult
from orchestration.api.connectors import TEST_SECONDS
from orchestration.api.problems import ApiError
from orchestration.web.config_form import input_of
from orchestration.web.templates import fragment

_log = logging.getLogger(__name__)
MAX_CHECKS = 200


def stream_checks(
    request: Request,
    begin: Callable[[], Iterator[CheckResult]],
    sent: Mapping[str, str] | None = None,
    needs_person: Callable[[], bool] = lambda: False,
) -> StreamingResponse:
    """Answer with ``{"html": ...}`` a check and at last ``{"done": true, "ok", "login", "html", "fields"}``.

    Args:
        begin: starts the checks, in a thread.
        sent: the form that the config came from; wrong fields are named as its inputs are.
        needs_person: asked at the end: a person has to log in at the source, which a stored connector can offer.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    lines = _lines(request, begin, sent or {}, needs_person)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


async def _lines(
    request: Request,
    begin: Callable[[], Iterator[CheckResult]],
    sent: Mapping[str, str],
    needs_person: Callable[[], bool],
) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[CheckResult | None] = asyncio.Queue(MAX_CHECKS + 1)

    def tell(item: CheckResult | None) -> None:
        if not queue.full():
            queue.put_nowait(item)

    def work() -> None:
        for check in begin():
            loop.call_soon_threadsafe(tell, check)

    task = asyncio.ensure_future(request.app.state.blocking.run(work, TEST_SECONDS))
    task.add_done_callback(lambda _: tell(None))
    told: list[CheckResult] = []
    while (check := await queue.get()) is not None:
        told.append(check)
        yield _line(html=fragment(request, "check.html", check=check, untried=_untried(check)))
    yield _end(request, task, told, sent, needs_person)


def _untried(check: CheckResult) -> bool:
    return not check.ok and check.detail.startswith("not tried")


def _end(
    request: Request,
    task: asyncio.Future[None],
    told: list[CheckResult],
    sent: Mapping[str, str],
    needs_person: Callable[[], bool],
) -> str:
    text = ""
    fields: list[dict[str, str]] = []
    try:
        task.result()
    except ConfigurationError as error:
        text = error.text
        fields = [{"field": input_of(path, sent), "message": message} for path, message in error.fields]
    except HeadraceError as error:
        text = error.text
    except ApiError as error:
        text = error.problem.detail
    except Exception as error:  # its text may hold a secret
        _log.error("a connection test failed with %s", type(error).__name__)
        text = f"The server failed ({type(error).__name__}). Its log says where."
    ok = not text and bool(told) and all(check.ok for check in told)
    failed = [check.name for check in told if not check.ok and not _untried(check)]
    untried = sum(map(_untried, told))
    login = not text and failed == ["login"] and needs_person()
    outcome = {"ok": ok, "tried": len(told), "failed": failed, "untried": untried, "text": text, "login": login}
    html = fragment(request, "checks_end.html", **outcome)
    return _line(done=True, ok=ok, login=login, html=html, fields=fields)


def _line(**content: Any) -> str:
    return json.dumps(content) + "\n"
