"""What files hold, remembered by their version: a table's columns over 100,000 files cost the new ones only.

A cache, nothing more: what is missing is found again, and another machine finds the same.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from assets.sources.file_reading import ObjectFacts, TableFile
from assets.sources.file_values import joined
from assets.sync import Column
from assets.text_columns import ColumnFacts

FORMAT = "1"
"""Part of every cached entry's name: another number when facts are found in another way."""
THREADS = 8
CHUNK = 256


class FactsCache:
    """Facts by (key, version, how the file is read). Without a folder nothing is kept.

    Args:
        folder: of the installation's caches.
        name: the connector's.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._file = folder / f"files-{name}.sqlite" if folder else None

    def of(self, files: Sequence[TableFile]) -> Iterator[tuple[TableFile, ObjectFacts]]:
        """Each file with its facts, in order; what is not known is read, several files at once.

        Raises:
            ObjectChangedError: a listed version is gone.
            SourceUnreachableError, SourceAccessError.
        """
        with self._opened() as database, ThreadPoolExecutor(THREADS, thread_name_prefix="facts") as pool:
            for start in range(0, len(files), CHUNK):
                chunk = files[start : start + CHUNK]
                known = [self._known(database, file) for file in chunk]
                asked = {i: pool.submit(file.facts) for i, file in enumerate(chunk) if known[i] is None}
                new = []
                try:
                    for i, file in enumerate(chunk):
                        facts = known[i]
                        if facts is None:
                            facts = asked[i].result()
                            new.append((*_name(file), facts.dump()))
                        yield file, facts
                finally:
                    for future in asked.values():
                        future.cancel()
                    self._keep(database, new)

    def unknown(self, files: Sequence[TableFile]) -> list[TableFile]:
        """Those whose facts have to be read."""
        with self._opened() as database:
            return [file for file in files if self._known(database, file) is None]

    def add(self, found: Sequence[tuple[TableFile, ObjectFacts]]) -> None:
        """Keep what was learned of files by reading them."""
        with self._opened() as database:
            self._keep(database, [(*_name(file), facts.dump()) for file, facts in found])

    @staticmethod
    def _keep(database: sqlite3.Connection | None, new: Sequence[tuple[str, str, str, str]]) -> None:
        if database and new:
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", new)
            database.commit()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        if self._file is None:
            yield None
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(
                "CREATE TABLE IF NOT EXISTS facts (key TEXT, version TEXT, how TEXT, facts TEXT, "
                "PRIMARY KEY (key, version, how)) WITHOUT ROWID"
            )
            yield database

    @staticmethod
    def _known(database: sqlite3.Connection | None, file: TableFile) -> ObjectFacts | None:
        if database is None:
            return None
        row = database.execute(
            "SELECT facts FROM facts WHERE key = ? AND version = ? AND how = ?", _name(file)
        ).fetchone()
        return ObjectFacts.load(row[0]) if row else None


def _name(file: TableFile) -> tuple[str, str, str]:
    how = f"{FORMAT}|{file.kind}|{file.compression}|{file.table.csv.model_dump_json()}|{file.table.sheet}"
    return file.found.key, file.found.version, hashlib.sha256(how.encode()).hexdigest()[:16]


class UnifiedColumns:
    """The columns of a table's files, in the order of their first appearance, their types joined.

    Args:
        declared: contract types that the user names; they win over what texts show.
    """

    def __init__(self, declared: dict[str, str]) -> None:
        self._declared = declared
        self._types: dict[str, str | None] = {}
        self._texts: dict[str, ColumnFacts] = {}
        self._nullable: dict[str, int] = {}
        self.rows = 0

    def add(self, facts: ObjectFacts) -> None:
        self.rows += facts.rows
        for name, found in facts.columns.items():
            known = self._types.setdefault(name, None)
            if isinstance(found, str):
                self._types[name] = joined(known, found) if known else found
            else:
                self._texts.setdefault(name, ColumnFacts()).merge(found)

    def columns(self) -> list[Column]:
        return [self._column(name) for name in self._types]

    def _column(self, name: str) -> Column:
        typed, text = self._types[name], self._texts.get(name)
        if name in self._declared and text is not None:
            return Column(name=name, source_type="declared", arrow_type=self._declared[name], rule="declared")
        if text is None:
            return Column(name=name, source_type="file", arrow_type=typed or "string")
        found = text.arrow_type()
        if typed:
            found = joined(typed, found) if text.kinds else typed
        kinds = " and ".join(sorted(text.kinds)) or "empty"
        return Column(name=name, source_type=f"{kinds} values", arrow_type=found)
