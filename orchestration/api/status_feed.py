"""The live state of every table: one look at the catalog a second, shared by all who watch."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from orchestration.api.problems import ApiError

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.catalog.table_states import TableState

_log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
MAX_WATCHERS = 200
QUEUE_EVENTS = 100
"""A watcher that is further behind is sent away; its browser comes again and reads anew."""
COMMENT_SECONDS = 10.0
_OVERLAP = timedelta(seconds=5)
"""Rows are written with the time before their commit: looks overlap, and what was told is not told again."""


class StatusFeed:
    """Watches while somebody watches it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._watchers: set[asyncio.Queue[str | None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self) -> AsyncIterator[str]:
        """Server-sent events of one watcher: what changes from now on.

        Raises:
            ApiError: there are too many watchers.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise ApiError(503, "Too many watch the status. Try again later.", headers={"Retry-After": "30"})
        queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE_EVENTS)
        self._watchers.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        return self._events(queue)

    async def _events(self, queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            yield "retry: 3000\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), COMMENT_SECONDS)
                except TimeoutError:
                    event = ": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._watchers.discard(queue)

    async def _watch(self) -> None:
        from assets.catalog.models import now

        since, told = now(), dict[tuple[str, str], object]()
        while self._watchers:
            await asyncio.sleep(LOOK_SECONDS)
            looked_at = now()
            try:
                changed = await run_in_threadpool(self._catalog.tables_changed_since, since - _OVERLAP)
            except Exception as error:  # the catalog may be away for a while
                _log.warning("the status was not read: %s", type(error).__name__)
                continue
            fresh = [state for state in changed if told.get((state.connector, state.table)) != state.changed_at]
            told = {(state.connector, state.table): state.changed_at for state in changed}
            since = looked_at
            if fresh:
                self._tell(fresh)

    def _tell(self, states: list[TableState]) -> None:
        data = json.dumps([state.model_dump(mode="json") for state in states])
        for queue in list(self._watchers):
            try:
                queue.put_nowait(f"event: tables\ndata: {data}\n\n")
            except asyncio.QueueFull:
                self._watchers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
