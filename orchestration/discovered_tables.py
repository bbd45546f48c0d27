"""The tables of every source, remembered between two looks: an added connector costs one discovery, not one of all."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from assets.catalog.models import now
from assets.errors import HeadraceError
from assets.sync import Column, Model

if TYPE_CHECKING:
    from pathlib import Path

    from assets.catalog.records import ConnectorRecord
    from assets.catalog.store import Catalog

_log = logging.getLogger(__name__)
AT_ONCE = 8
AGAIN_SECONDS = 3.0
"""How long sources that are known already are asked again, those first that were asked longest ago. Nobody who adds a
connector waits for them."""


class FoundTable(Model):
    """A table that can be synced."""

    name: str
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    by_default: bool = True


class FoundTables(Model):
    """A connector's tables. ``updated_at``: of the config they were found with; ``error``: the last look failed."""

    updated_at: datetime | None = None
    asked_at: datetime
    tables: tuple[FoundTable, ...] = ()
    error: str | None = None


class _Remembered(Model):
    connectors: dict[str, FoundTables] = {}  # noqa: RUF012


def discovered(
    path: Path, catalog: Catalog, records: Sequence[ConnectorRecord], *, ask_again: bool = True
) -> dict[str, FoundTables]:
    """The tables of each connector, by its name.

    New and changed connectors are asked now; where there is none, of the others as many as the time allows. One that
    does not answer keeps the tables that it had.

    Args:
        path: where they are remembered.
        catalog: opens the connectors.
        records: the connectors.
        ask_again: False: only new and changed ones are asked.
    """
    try:
        known = _Remembered.model_validate_json(path.read_bytes()).connectors
    except (OSError, ValidationError):
        known = {}
    fresh = [record for record in records if not _is_known(known.get(record.name), record)]
    again = [record for record in records if _is_known(known.get(record.name), record)] if ask_again else []
    again.sort(key=lambda record: known[record.name].asked_at)
    is_new = any(r.name not in known or known[r.name].asked_at < r.updated_at for r in fresh)
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="headrace-discover")
    try:
        asked: dict[str, Future[FoundTables]] = {
            record.name: pool.submit(_asked, catalog, record, known.get(record.name)) for record in (*fresh, *again)
        }
        wait([asked[record.name] for record in fresh])
        wait(asked.values(), timeout=0.0 if is_new else AGAIN_SECONDS)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    found = {
        record.name: future.result()
        if (future := asked.get(record.name)) and future.done() and not future.cancelled()
        else known[record.name]
        for record in records
    }
    _remember(path, found)
    return found


def _is_known(found: FoundTables | None, record: ConnectorRecord) -> bool:
    return found is not None and found.updated_at == record.updated_at


def _asked(catalog: Catalog, record: ConnectorRecord, before: FoundTables | None) -> FoundTables:
    try:
        tables = tuple(
            FoundTable(name=table.name, columns=table.columns, key=table.primary_key, by_default=table.by_default)
            for table in catalog.connector(record.name).discover()
            if table.refusal is None
        )
    except HeadraceError as error:
        if before is not None:
            return before.model_copy(update={"asked_at": now(), "error": error.text})
        runs = [(run.table, run.result) for run in catalog.latest_table_runs(record.name)]
        had = (FoundTable(name=n, columns=r.columns, key=r.key) if r else FoundTable(name=n) for n, r in runs)
        return FoundTables(asked_at=now(), tables=tuple(had), error=error.text)
    return FoundTables(updated_at=record.updated_at, asked_at=now(), tables=tables)


def _remember(path: os.PathLike[str], found: dict[str, FoundTables]) -> None:
    partial = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(_Remembered(connectors=found).model_dump_json(exclude_defaults=True))
        os.replace(partial, path)
    except OSError as error:  # the next look asks every source, then
        _log.warning("the discovered tables were not remembered: %s", error.strerror)
