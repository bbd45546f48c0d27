"""``headrace lakehouse status``: is the lakehouse reachable, what is missing, what does it hold."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import Field

from assets.errors import HeadraceError
from assets.sync import CheckResult, Model


class StoredTable(Model):
    """One table as it is stored. ``reader`` and ``writer`` are its Delta protocol's versions, where known."""

    name: str
    rows: int
    bytes: int | None = None
    files: int | None = None
    version: int
    reader: int | None = None
    writer: int | None = None


class LakehouseStatus(Model):
    """``ok`` is false where a check failed; each failed check names its remedy, a missing grant as the GRANT itself."""

    engine: str
    where: str
    ok: bool
    checks: tuple[CheckResult, ...]
    free_bytes: int | None = Field(default=None, description="local engine on a folder: space left on its disk")
    tables: tuple[StoredTable, ...] = ()


Attempt = Callable[[], tuple[str, str, str]]
"""Returns (detail, problem, fix); a problem is empty where all is well."""


def tried(name: str, attempt: Attempt) -> CheckResult:
    """Run one check; an error of it is its outcome."""
    started = time.monotonic()
    try:
        detail, problem, fix = attempt()
    except HeadraceError as error:
        detail, problem, fix = "", f"{error.where}: {error.what}".lstrip(": "), error.remedy
    except OSError as error:
        detail, problem, fix = "", f"{type(error).__name__}: {error.strerror}", ""
    seconds = round(time.monotonic() - started, 3)
    return CheckResult(name=name, ok=not problem, detail=problem or detail, fix=fix, seconds=seconds)
