"""One listing of a file table being read: all files, or those that are new or overwritten since the last load."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.bronze import UPSERT
from assets.encoded_rows import EncodedRows
from assets.errors import SourceUnreachableError, WatermarkError
from assets.lakehouse.interface import OP, POSITION
from assets.row_filter import RowFilter
from assets.sources.file_chunks import changed_chunks, files_of
from assets.sources.file_reading import FILE, ROW, ObjectFacts, TableFile
from assets.sources.file_values import joined
from assets.sources.interface import BATCH_ROWS, UNFIT_COLUMN, Remaining, TableRead, count_unfit
from assets.sources.loaded_files import LoadedFiles, mark_rows
from assets.sources.newest_rows import NewestRows
from assets.sources.object_files import KEY, ObjectFilesConnector, digest_of
from assets.sources.object_store import WHOLE_BYTES, ObjectChangedError, StoredObject
from assets.sync import Chunk, ChunkRead, Column, SourceTable, Watermark, WindowPlan
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

READ_AHEAD = 3
"""Files that are fetched and decoded while another is staged."""
CHANGES = 3
"""How often one file may be overwritten while it is read."""


class FileRows(TableRead):
    """Rows of files under a plan's columns, the next files fetched while one is consumed."""

    reader = "files"

    def __init__(self, connector: ObjectFilesConnector, columns: Sequence[Column], key: Sequence[str]) -> None:
        import pyarrow as pa

        self._connector = connector
        self._columns = tuple(columns)
        self._known = {column.name for column in columns}  # and those that are not read
        self._key = tuple(key)
        fields = [(c.name, arrow_type(c.arrow_type)) for c in columns]
        self.schema = pa.schema([*fields, (UNFIT_COLUMN, pa.string())])
        self.low = self.high = None
        self.watermark = None
        self.position = time.time_ns() // 1000
        self._unfit = 0
        self._swapped: dict[str, TableFile | None] = {}
        self._filter: RowFilter | None = None
        self._encoded = False

    @property
    def own_key(self) -> bool:
        return set(self._key) != set(KEY)

    @property
    def unfit_values(self) -> int:
        return self._unfit

    def rows_of(self, files: Sequence[TableFile], columns: Sequence[Column] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows of the files in the given order."""
        wanted = self._columns if columns is None else columns
        waiting: deque[tuple[TableFile, Future[list[Any]] | None]] = deque()
        ahead = iter(files)
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="files") as pool:
            try:
                while True:
                    while len(waiting) <= READ_AHEAD and (file := next(ahead, None)) is not None:
                        small = file.found.size <= WHOLE_BYTES
                        waiting.append((file, pool.submit(self._whole, file, wanted) if small else None))
                    if not waiting:
                        return
                    file, future = waiting.popleft()
                    batches = future.result() if future else self._streamed(file, wanted)
                    if self.unforeseen:
                        return
                    for batch in batches:
                        if not isinstance(batch, EncodedRows):
                            self._unfit += count_unfit(batch.column(batch.num_columns - 1))
                        yield batch
            finally:
                for _, future in waiting:
                    if future:
                        future.cancel()

    def _rows_in(self, file: TableFile, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        return file.encoded_batches(columns) if self._encoded else file.batches(columns, row_filter=self._filter)

    def _whole(self, file: TableFile, columns: Sequence[Column]) -> list[pa.RecordBatch]:
        for _ in range(CHANGES):
            try:
                return list(self._rows_in(file, columns))
            except ObjectChangedError:
                newer = self._now(file)
                if newer is None:
                    return []
                file = newer
        raise self._restless(file)

    def _streamed(self, file: TableFile, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        for _ in range(CHANGES):
            yielded = False
            try:
                for batch in self._rows_in(file, columns):
                    yielded = True
                    yield batch
                return
            except ObjectChangedError:
                newer = None if yielded else self._now(file)
                if yielded:
                    raise self._restless(file) from None
                if newer is None:
                    return
                file = newer
        raise self._restless(file)

    def _now(self, file: TableFile) -> TableFile | None:
        """The file's present version; None where it is gone, or has columns that the plan does not know."""
        found = file.store.stat(file.found.key)
        newer = TableFile(file.store, found, file.table, file.kind, file.compression) if found else None
        if newer is not None:
            try:
                if not newer.facts().columns.keys() <= self._known:
                    newer = None
            except ObjectChangedError:
                raise self._restless(file) from None
        self._swapped[file.found.key] = newer
        return newer

    @staticmethod
    def _restless(file: TableFile) -> SourceUnreachableError:
        return SourceUnreachableError("the file was overwritten while it was read", where=file.where)

    def newest(self, files: Sequence[TableFile], columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        """The rows of which no later one with the same key exists, files ordered by age."""
        ordered = sorted(files, key=_age)
        by_name = {column.name: column for column in self._columns}
        keys = [by_name[name] for name in self._key]
        folder = self._connector.home
        with NewestRows([c.name for c in keys], folder / "scratch" if folder else None) as newest:
            for batch in self.rows_of(ordered, keys):
                newest.add(batch)
            yield from newest.filtered(self.rows_of(ordered, columns))


def _age(file: TableFile) -> tuple[float, str]:
    return file.found.modified, file.found.key


class ObjectRead(FileRows):
    """The window of one sync.

    Args:
        listing: tells the table's files as they are now; asked once, when the first of them is wanted.
    """

    def __init__(
        self,
        connector: ObjectFilesConnector,
        plan: WindowPlan,
        listing: Callable[[], list[TableFile]],
        loaded: Callable[[], Iterator[pa.RecordBatch]] | None,
    ) -> None:
        super().__init__(connector, plan.table.columns, plan.key)
        self._plan, self._listing = plan, listing
        self._known |= {column.name for column in plan.shape.seen}
        self._previous = plan.previous if plan.mode == "incremental" else None
        self._facts_rows: dict[str, int] = {}
        self._loaded = LoadedFiles()
        self._bronze = loaded
        self._whole_table = plan.mode == "full"
        self._unchanged = self._pending = False
        self._left: list[TableFile] = []
        self._partial = bool(plan.table.row_filter or plan.shape.converts)
        if plan.table.row_filter and not self.own_key:  # with a key of their own all rows say which one is the newest
            self._filter = RowFilter.parse(plan.table.row_filter)
        self._contract = {column.name: column.arrow_type for column in plan.table.columns}
        self._learned: list[tuple[TableFile, ObjectFacts]] = []
        self._stored: dict[str, bytearray] = {}  # rows of replaced files that are stored again, one bit each
        self._kept: dict[str, int] = {}  # rows that are stored of each file that was read
        self._rows = 0
        if self._previous:
            self._continue(self._previous, loaded)

    @cached_property
    def _listed(self) -> list[TableFile]:
        return self._listing()

    @cached_property
    def _read(self) -> list[TableFile]:
        """What is read of them: in full, those that fit, or all where each one tells its columns when it is read."""
        return list(self._listed) if self._plan.table.sampled else self._fitting(self._listed)

    @cached_property
    def reader(self) -> str:  # type: ignore[override]
        kinds = sorted({file.kind for file in self._read})
        return f"{len(self._read)} of {len(self._listed)} files" + (f" ({', '.join(kinds)})" if kinds else "")

    def _continue(self, previous: Watermark, loaded: Callable[[], Iterator[pa.RecordBatch]] | None) -> None:
        state = previous.position
        if state.get("key") != sorted(self._key) or loaded is None:
            raise WatermarkError(
                "the key of the table changed" if loaded else "what was loaded is not known",
                where=f"{self._connector.name}/{self._plan.table.name}",
                remedy=f"Run: headrace sync {self._connector.name} {self._plan.table.name} --mode full",
            )
        self.position = max(self.position, int(state["listed"]) + 1)
        if state.get("digest") == digest_of([file.found for file in self._listed]):
            self._unchanged, self._read = True, []
            return
        self._loaded = LoadedFiles.of_bronze(loaded())
        new = [f for f in self._listed if f.found.key in self._loaded.gone or not self._holds(f)]
        fitting = self._fitting(new)
        if not self.own_key:
            self._read = fitting
            return
        newest = tuple(state["newest"] or (0.0, ""))
        current = {file.found.key for file in self._listed}
        replaced = any(file.found.key in self._loaded.version for file in new)
        in_order = all(_age(file) > newest for file in new)
        if in_order and not replaced and self._loaded.live() <= current:
            self._read = fitting
        else:  # a row of an older file may show again, so all files are compared anew
            self._read = self._fitting(self._listed)
            self._whole_table = True

    def _holds(self, file: TableFile) -> bool:
        return self._loaded.version.get(file.found.key) == file.found.version

    def _fitting(self, files: list[TableFile]) -> list[TableFile]:
        """Files whose columns the plan knows; one that came with others since is left for the next run."""
        kept = []
        for file, facts in self._connector.facts_of(files):
            if facts.columns.keys() <= self._known:
                kept.append(file)
                self._facts_rows[file.found.key] = facts.rows
            else:
                self._left.append(file)
                self._pending = True
        return kept

    def _rows_in(self, file: TableFile, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        if self._plan.table.sampled:
            held = file.held()
            facts = held.facts()
            self._learned.append((file, facts))  # not the one with its content
            self._facts_rows[file.found.key] = facts.rows
            if not self._foreseen(facts):
                self.unforeseen = True
                return
            file = held
        yield from super()._rows_in(file, columns)

    def _foreseen(self, facts: ObjectFacts) -> bool:
        """Whether the plan's columns hold all that the file has."""
        for name, kind in facts.columns.items():
            wanted = self._contract.get(name)
            if wanted is None or not isinstance(kind, str) or joined(wanted, kind) != wanted:
                return False
        return True

    def batches(self) -> Iterator[pa.RecordBatch]:
        rows = self.newest(self._read, self._columns) if self.own_key else self.rows_of(self._read)
        for batch in rows:
            self._rows += batch.num_rows
            yield batch
        self._connector.cache.add(self._learned)
        self._learned = []

    def encoded_batches(self) -> Iterator[pa.RecordBatch | EncodedRows]:
        self._encoded = not self.own_key and self._filter is None
        return self.batches()

    def to_read(self) -> tuple[list[TableFile], int]:
        """The files of this window, and their rows; of a sampled table an estimate."""
        if self._plan.table.sampled:
            return self._read, self._plan.table.estimated_rows or 0
        return self._read, sum(self._facts_rows.get(file.found.key, 0) for file in self._read)

    def _settled(self) -> dict[str, TableFile | None]:
        """The files as they were read: one overwritten meanwhile in its newer version, a gone one None."""
        return {file.found.key: self._swapped.get(file.found.key, file) for file in self._read}

    def _rows_now(self) -> dict[str, int]:
        rows = dict(self._facts_rows)
        for key, file in self._swapped.items():
            rows[key] = file.facts().rows if file else 0
        return rows

    def deleted_keys(self, asked: bool) -> Iterator[pa.RecordBatch] | None:
        """Rows that an overwritten file has no more; if ``asked``, those of deleted files too."""
        if self.own_key:
            return None
        if self._unchanged or self._previous is None:
            return iter(())
        rows = self._rows_now()
        now = self._settled()
        live = self._loaded.live()
        surplus = [
            (key, rows[key], self._loaded.past[key])
            for key, file in now.items()
            if file and key in live and (self._partial or rows[key] < self._loaded.past[key])
        ]
        missing = sorted(self._missing(now))
        if missing and not asked:
            self._pending = True
        if asked:
            surplus += [(key, 0, self._loaded.past[key]) for key in missing]
        return self._left_rows([key for key, _, _ in surplus]) if self._partial else self._key_batches(surplus)

    def stores(self, batch: pa.RecordBatch) -> None:
        """Where rows are left out, a replaced file's rows may be gone in its middle, too."""
        if not self._partial or self.own_key:
            return
        for found in batch.column(FILE).value_counts().to_pylist():
            self._kept[found["values"]] = self._kept.get(found["values"], 0) + found["counts"]
        if self._previous is not None:
            mark_rows(self._stored, batch, self._loaded.past)

    def _left_rows(self, files: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of these files that Bronze holds of their last version and this read does not store again."""
        import numpy as np
        import pyarrow as pa

        if not files or self._bronze is None:
            return
        past = {file: self._loaded.past[file] for file in files}
        before: dict[str, bytearray] = {}
        pc = arrow_compute()
        positions = self._loaded.position
        for batch in self._bronze():
            rows = batch.filter(pc.equal(batch.column(OP), UPSERT))
            newest = [positions.get(file, -1) for file in rows.column(FILE).to_pylist()]
            mark_rows(before, rows.filter(pc.equal(rows.column(POSITION), pa.array(newest, pa.int64()))), past)
        for file in files:
            held = np.frombuffer(before.get(file, b""), np.uint8)
            again = np.frombuffer(self._stored.get(file, bytes(len(held))), np.uint8)
            gone = np.flatnonzero(np.unpackbits(held & ~again, bitorder="little")).astype(np.int64)
            for start in range(0, len(gone), BATCH_ROWS):
                numbers = pa.array(gone[start : start + BATCH_ROWS])
                columns = {FILE: pa.repeat(pa.scalar(file), len(numbers)), ROW: numbers}
                yield pa.RecordBatch.from_arrays([columns[name] for name in self._key], names=list(self._key))

    def _missing(self, now: dict[str, TableFile | None]) -> set[str]:
        present = {file.found.key for file in self._listed} - {key for key, file in now.items() if file is None}
        return self._loaded.live() - present

    def _key_batches(self, spans: list[tuple[str, int, int]]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for key, first, past in spans:
            for start in range(first, past, BATCH_ROWS):
                numbers = pa.arange(start, min(past, start + BATCH_ROWS))
                columns = {FILE: pa.repeat(pa.scalar(key), len(numbers)), ROW: numbers}
                yield pa.RecordBatch.from_arrays([columns[name] for name in self._key], names=list(self._key))

    def keys(self) -> Iterator[pa.RecordBatch]:
        by_name = {column.name: column for column in self._columns}
        for batch in self.rows_of(self._listed, [by_name[name] for name in self._key]):
            yield batch.select(list(self._key))

    def source_rows(self) -> int | None:
        if self.own_key:
            return self._rows if self._whole_table else None
        if self._unchanged and self._previous:
            return self._previous.position.get("rows")
        return self._live_rows()

    def filtered_rows(self) -> int | None:
        """Of the files that were read, the rows that were stored; of the others, those that Bronze holds."""
        if self.own_key:
            return None
        if self._unchanged and self._previous:
            return self._previous.position.get("kept")
        return self._live_rows(self._kept)

    def _live_rows(self, rows: Mapping[str, int] | None = None) -> int:
        """Of all files that are there. ``rows``: of those that were read; default: all that they hold."""
        rows = self._rows_now() if rows is None else rows
        now = self._settled()
        left = self._loaded.live() - now.keys() - self._missing(now)
        return sum(rows.get(key, 0) for key, file in now.items() if file) + sum(self._loaded.rows[key] for key in left)

    @property
    def watermark(self) -> Watermark | None:  # type: ignore[override]
        """The previous one where nothing changed."""
        if self._unchanged:
            return self._previous
        now = self._settled()
        listed = [now.get(file.found.key, file) for file in self._listed]
        present = [file for file in listed if file]
        newest = max((_age(file) for file in present), default=None)
        return Watermark(
            position={
                "digest": "" if self._pending or None in listed else digest_of([file.found for file in present]),
                "files": len(present),
                "rows": None if self.own_key else self._live_rows(),
                "kept": self.filtered_rows() if self._partial else None,
                "listed": self.position,
                "newest": newest,
                "key": sorted(self._key),
            }
        )

    @watermark.setter
    def watermark(self, value: None) -> None: ...

    # in chunks: a table in full, under no key of its own

    def of_chunk(self, chunk: Chunk) -> ObjectRead:
        files = files_of(chunk, self._connector.store())
        read = ObjectRead(self._connector, self._plan, lambda: files, None)
        read.reader = f"files ({', '.join(sorted({file.kind for file in files}))})"
        return read

    @property
    def found(self) -> dict[str, Any]:  # type: ignore[override]
        """The files as they were read, their rows, and those that are left for the next sync."""
        if self.unforeseen:  # it ended somewhere, and all is read anew
            return {}
        rows, now = self._rows_now(), self._settled()
        return {
            "files": [[*astuple(file.found), rows[key]] for key, file in now.items() if file],
            "left": [[file.found.key, file.found.version] for file in self._left],
            "kept": self._kept,
            "pending": self._pending,
            "position": self.position,
        }

    def remaining(self, done: Sequence[ChunkRead]) -> list[Remaining]:
        return [Remaining(chunk) for chunk in changed_chunks(self._listed, done)]

    def take_over(self, done: Sequence[ChunkRead]) -> None:
        read = {key: (StoredObject(key, *about), rows) for d in done for key, *about, rows in d.found["files"]}
        left = {key for chunk in done for key, _ in chunk.found["left"]}
        self._read = [file for file in self._listed if file.found.key not in left]
        self._facts_rows = {key: rows for key, (_, rows) in read.items()}
        for number, file in enumerate(self._read):
            if found := read.get(file.found.key):
                self._read[number] = TableFile(file.store, found[0], file.table, file.kind, file.compression)
            else:  # gone when its turn came
                self._facts_rows[file.found.key], self._swapped[file.found.key] = 0, None
        self._kept = {key: rows for chunk in done for key, rows in chunk.found.get("kept", {}).items()}
        self._pending = any(chunk.found["pending"] for chunk in done)
        self.position = max([self.position, *(chunk.found["position"] for chunk in done)])


class VerifyRead(FileRows):
    """All rows as they are now; whole rows by another decoder than that of a sync, where there is one."""

    def __init__(
        self,
        connector: ObjectFilesConnector,
        described: SourceTable,
        files: list[TableFile],
        columns: Sequence[str] | None,
    ) -> None:
        wanted = described.columns if columns is None else [c for c in described.columns if c.name in columns]
        super().__init__(connector, wanted, described.primary_key)
        self._files, self._described = files, described
        self._known |= {column.name for column in described.columns}
        self._again = columns is None

    def _rows_in(self, file: TableFile, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        home = self._connector.home
        return file.batches(columns, again=self._again, scratch=home / "scratch" if home else None)

    def batches(self) -> Iterator[pa.RecordBatch]:
        if not self.own_key:
            yield from self.rows_of(self._files)
            return
        wanted, self._columns = self._columns, self._described.columns
        yield from self.newest(self._files, wanted)

    def keys(self) -> Iterator[pa.RecordBatch]:
        for batch in self.batches():
            yield batch.select(list(self._key))

    def source_rows(self) -> int:
        if not self.own_key:
            return sum(facts.rows for _, facts in self._connector.facts_of(self._files))
        self._columns = self._described.columns
        return sum(batch.num_rows for batch in self.newest(self._files, self._key_columns()))

    def _key_columns(self) -> list[Column]:
        return [column for column in self._described.columns if column.name in self._key]
