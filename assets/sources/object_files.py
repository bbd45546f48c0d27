"""Tables made of files in an object store: what the connector types ``s3``, ``gcs`` and ``upload`` share.

A row's key is its file and its number in it, unless the table names a key. What was loaded is told by the Bronze table
itself: each row names its file and the file's version, so what is new, overwritten or gone is exact for any number of
files and is committed with the data. The watermark holds a digest of the listing, which makes "nothing changed" cheap.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, NotFoundError, SourceAccessError
from assets.sources.file_chunks import file_chunks
from assets.sources.file_facts import FactsCache, UnifiedColumns
from assets.sources.file_reading import FILE, ROW, VERSION, ObjectFacts, TableFile
from assets.sources.file_tables import SCHEMA, FileTable, FileTablesConfig, file_kind, hidden, tables_of
from assets.sources.interface import Connector, TableRead
from assets.sources.object_store import ObjectStore, StoredObject, run_checks
from assets.sync import CheckResult, Chunk, Column, SourceTable, WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sources.object_read import ObjectRead

KEY = (FILE, ROW)
SAMPLED_FILES = 5
LOOKED_AT_FIRST = 32
"""Files spread over a table that is read for the first time, where twice as many or more are not known."""
SHOWN_FILES = 20
SAMPLED_TEXT_BYTES = 4 << 20
METADATA = (
    Column(name=FILE, source_type="file name", arrow_type="string", nullable=False),
    Column(name=ROW, source_type="row number", arrow_type="int64", nullable=False),
    Column(name=VERSION, source_type="file version", arrow_type="string", nullable=False),
)


def digest_of(files: Sequence[StoredObject]) -> str:
    """Differs when an object was added, overwritten or removed."""
    digest = hashlib.sha256()
    for found in sorted(files, key=lambda item: item.key):
        digest.update(f"{len(found.key)}:{found.key}\0{found.version}\n".encode())
    return digest.hexdigest()


class ObjectFilesConnector(Connector):
    """Base of the connector types over an object store."""

    Config: ClassVar[type[FileTablesConfig]]
    config: FileTablesConfig
    check_names: ClassVar[tuple[str, ...]] = ("network", "login", "bucket", "list", "read")

    @abstractmethod
    def store(self) -> ObjectStore:
        """Open the store; raises ConfigurationError, SourceAccessError."""

    def check(self) -> list[CheckResult]:
        return list(self.checks())

    def checks(self) -> Iterator[CheckResult]:
        yield from run_checks(self.store, self.check_names)

    # which files there are

    def _below_prefix(self, key: str) -> str:
        return key[len(self.config.prefix) :].lstrip("/")

    def _grouped(self, store: ObjectStore) -> tuple[dict[str, FileTable], dict[str, list[TableFile]]]:
        listed = {found.key: found for found in store.objects(self.config.prefix)}
        paths = {key: self._below_prefix(key) for key in listed}
        tables = tables_of(self.config, paths.values())
        files: dict[str, list[TableFile]] = {name: [] for name in tables}
        configured = bool(self.config.tables)
        for key in sorted(listed):
            path = paths[key]
            if path.endswith("/") or not path or (not configured and hidden(path)):
                continue
            for name, table in tables.items():
                if not table.matches(path):
                    continue
                kind, compression = file_kind(path, table)
                if kind is not None:
                    files[name].append(TableFile(store, listed[key], table, kind, compression))
        return tables, files

    def files_of(self, store: ObjectStore, name: str) -> tuple[FileTable, list[TableFile]]:
        """A table and its files as they are now, by key.

        Raises:
            NotFoundError: there is no such table.
        """
        tables, files = self._grouped(store)
        short = name.removeprefix(f"{SCHEMA}.")
        if name != f"{SCHEMA}.{short}" or short not in tables:
            raise NotFoundError(
                "there is no such table.",
                where=f"{self.name}/{name}",
                remedy=f"Run: headrace connectors discover {self.name}",
            )
        return tables[short], files[short]

    @property
    def cache(self) -> FactsCache:
        return FactsCache(self.home / "cache" if self.home else None, self.name)

    def facts_of(self, files: Sequence[TableFile]) -> Iterator[tuple[TableFile, ObjectFacts]]:
        """Each file with what it holds, as the cache knows it or the file tells it."""
        for found in self.cache.of(files):
            if self.progress:
                self.progress(0, 0)
            yield found

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        """Without names, a few files of a table are looked at; a named table's columns are those of all its files."""
        store = self.store()
        if tables is not None:
            return [self._described(*self.files_of(store, name)) for name in tables]
        known, files = self._grouped(store)
        return [self._shown(known[name], files[name]) for name in sorted(known)]

    def first_look(self, table: str) -> SourceTable:
        """Of many Parquet files some are asked for their columns: each file tells its own when it is read."""
        known, files = self.files_of(self.store(), table)
        unknown = self.cache.unknown(files)
        plain = all(file.kind == "parquet" and file.compression == "none" for file in files)
        if not plain or known.key or len(unknown) < 2 * LOOKED_AT_FIRST:
            return self._described(known, files)
        last = len(unknown) - 1
        asked = {unknown[last * n // (LOOKED_AT_FIRST - 1)].found.key for n in range(LOOKED_AT_FIRST)}
        left = {file.found.key for file in unknown} - asked
        looked_at = [file for file in files if file.found.key not in left]
        return self._described(known, files, looked_at).model_copy(update={"sampled": True})

    def _shown(self, table: FileTable, files: list[TableFile]) -> SourceTable:
        """By a few files; where those cannot be read, without their columns."""
        quick = [f for f in files if f.kind == "parquet" or f.found.size <= SAMPLED_TEXT_BYTES]
        return self._described(table, files, quick[-SAMPLED_FILES:], lenient=True)

    def _described(
        self,
        table: FileTable,
        files: list[TableFile],
        looked_at: list[TableFile] | None = None,
        *,
        lenient: bool = False,
    ) -> SourceTable:
        size = sum(file.found.size for file in files)
        looked_at = files if looked_at is None else looked_at
        unified = UnifiedColumns(table.columns)
        try:
            for _, facts in self.facts_of(looked_at):
                unified.add(facts)
        except SourceAccessError:
            if not lenient:
                raise
        columns = unified.columns()
        seen = sum(file.found.size for file in looked_at)
        reserved = [c.name for c in columns if c.name.lower() in (FILE, ROW, VERSION)]
        return SourceTable(
            name=f"{SCHEMA}.{table.name}",
            schema_name=SCHEMA,
            table_name=table.name,
            kind="files",
            tracks="objects",
            columns=(*METADATA, *columns),
            primary_key=tuple(table.key) or KEY,
            estimated_rows=round(unified.rows * size / seen) if seen else (None if files else 0),
            estimated_bytes=size,
            refusal=f"columns are named as Headrace's own: {', '.join(reserved)}" if reserved else None,
        )

    def probe(self, tables: Sequence[str]) -> str:
        store = self.store()
        _, files = self._grouped(store)
        facts = []
        for name in sorted(tables):
            found = files.get(name.removeprefix(f"{SCHEMA}."), [])
            facts.append((name, digest_of([file.found for file in found])))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    # reading

    def open_read(self, plan: WindowPlan) -> AbstractContextManager[TableRead]:
        return self._opened(plan, None)

    def open_objects_read(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]]
    ) -> AbstractContextManager[TableRead]:
        return self._opened(plan, loaded)

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        """By the listing: the files that would be read, and their rows as their headers or an earlier look say."""
        with self._opened(plan, loaded) as read:
            files, rows = read.to_read()
            listed = [f"GET {self.store().where}/{f.found.key} ({f.found.size} bytes)" for f in files[:SHOWN_FILES]]
            more = [f"... and {len(files) - SHOWN_FILES} files more"] if len(files) > SHOWN_FILES else []
            return ReadEstimate(
                rows=rows,
                bytes=sum(file.found.size for file in files),
                statements=(f"LIST {self.store().where}/{self.config.prefix}", *listed, *more),
                detail=f"the listing: {read.reader}",
            )

    @contextmanager
    def _opened(self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None) -> Iterator[ObjectRead]:
        from assets.sources.object_read import ObjectRead

        yield ObjectRead(self, plan, lambda: self.files_of(self.store(), plan.table.name)[1], loaded)

    def chunks(self, plan: WindowPlan, chunk_bytes: int) -> list[Chunk]:
        """Groups of files of a full load; under a key of their own all files say which row is the newest."""
        small = plan.table.estimated_bytes is not None and plan.table.estimated_bytes < 2 * chunk_bytes
        if plan.mode != "full" or set(plan.key) != set(KEY) or small:
            return []
        return file_chunks(self.files_of(self.store(), plan.table.name)[1], chunk_bytes)

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        from assets.sources.object_read import VerifyRead

        store = self.store()
        yield VerifyRead(self, table, self.files_of(store, table.name)[1], columns)

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.arrow_dlt import arrow_source

        if options:
            raise ConfigurationError(f"no such options: {', '.join(sorted(options))}.", where=self.name)
        return arrow_source(self, tables)
