"""A DuckDB database in memory: sets larger than the memory limit spill into its folder, which goes with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


def quoted(name: str) -> str:
    """A name as an SQL identifier, for DuckDB and PostgreSQL alike."""
    return '"' + name.replace('"', '""') + '"'


def scratch_folder(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process in ``scratch``; what killed processes left there is removed."""
    scratch.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(scratch)
    return tempfile.TemporaryDirectory(prefix=f"scratch-{os.getpid()}-", dir=scratch)


class ScratchDatabase:
    """Opened when made, removed when left; what a killed process left goes with the next one. Times are UTC.

    Args:
        memory_limit: DuckDB memory limit.
        scratch: folder that the database's own folder is made in.
    """

    def __init__(self, memory_limit: str, scratch: Path) -> None:
        import duckdb

        self._folder = scratch_folder(scratch)
        self._db = duckdb.connect(
            config={"memory_limit": memory_limit, "threads": 2, "temp_directory": self._folder.name},
        )
        self._db.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._folder.cleanup()


def _remove_abandoned(scratch: Path) -> None:
    import psutil

    for folder in scratch.glob("scratch-*-*"):
        if not psutil.pid_exists(int(folder.name.split("-")[1])):
            shutil.rmtree(folder, ignore_errors=True)
