"""The fast reader: binary rows into Arrow by DuckDB's PostgreSQL scanner, connections sharing one snapshot.

What the scanner gets wrong, measured on 1.5.5, and what is done: NaN in a decimal becomes 0 (columns with zeros are
checked on the server), numerics without precision become double, times lose 24:00 and offsets, oid becomes text (all
selected as text or int8), char(n) loses its blanks (put back here, or selected through its output function).

Where rows come fast and none of them is large, DuckDB writes each query's rows as a Parquet file that is stored as it
is: that takes a third of the processor time of going through Arrow.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.encoded_rows import EncodedRows
from assets.errors import HeadraceError, SourceUnreachableError
from assets.interruption import on_interrupt
from assets.scratch_database import scratch_folder
from assets.sources.interface import BATCH_ROWS, CarefulReadNeeded
from assets.sources.postgres_connection import SESSION, PostgresConfig, connection, parameters, scrubbed

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sync import Column

PACKAGE = "duckdb-extension-postgres"
MEMORY_LIMIT, ENCODING_MEMORY_LIMIT = "64MB", "256MB"
WAITING_BATCHES = 2
GROUP_BYTES = 12 << 20
DICTIONARY_VALUES = 5_000
"""A column that has more in a row group is written plain. DuckDB hashes values until it knows, else a fifth of them."""
SECONDS_A_FILE = 10
"""No progress is seen while a file is written. Where one would take longer, its rows are taken as they come."""
LEAST_BYTES, LEAST_PART = 2 << 20, 1 / 16
"""A query reads so many bytes of pages, and so much of the one before was rows, or row groups would be tiny."""


def extension_file() -> tuple[Path | None, str]:
    """The scanner's file, or None and why it is absent."""
    import duckdb

    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None, f"the package {PACKAGE} is not installed"
    wanted = f"v{duckdb.__version__}/postgres.duckdb_extension"
    for file in files:
        if str(file).endswith(wanted):
            return Path(str(file.locate())), ""
    return None, f"{PACKAGE} holds no file for DuckDB {duckdb.__version__}"


def _load_path(file: Path, folder: Path) -> Path:
    # DuckDB derives the entry point from the file's name
    link = folder / "postgres_scanner.duckdb_extension"
    link.symlink_to(file)
    return link


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class ScannerQuery:
    """A statement on the source.

    Args:
        selected: what is selected here of its columns ``c0``, ``c1`` and so on.
        size: about the bytes of its rows.
    """

    text: str
    selected: str
    size: int


@dataclass(frozen=True)
class FastRows:
    """Rows of one query. ``watched``: their values of the column that the caller watches."""

    query: int
    rows: pa.RecordBatch | EncodedRows
    watched: pa.Array | None


class FastReader:
    """Reads queries of one exported snapshot side by side.

    Args:
        queries: statements whose select lists are alike; read by up to ``readers`` connections.
        columns: what is selected.
        watched: the number of the column whose values the caller wants to see, rows being encoded or not.
        scratch: where encoded rows are written first; None: all rows come as batches.
    """

    def __init__(
        self,
        name: str,
        config: PostgresConfig,
        snapshot: str,
        queries: Sequence[ScannerQuery],
        columns: Sequence[Column],
        schema: pa.Schema,
        extension: Path,
        *,
        readers: int,
        watched: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._name, self._config, self._snapshot = name, config, snapshot
        self._columns, self._schema = columns, schema
        self._extension, self._watched, self._scratch = extension, watched, scratch
        self._queries, self._greatest = queries, max(query.size for query in queries)
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(queries)):
            self._todo.put(number)
        self._threads = min(readers, len(queries))
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=WAITING_BATCHES)
        self._stop = threading.Event()
        self._backends: list[int] = []

    def rows(self) -> Iterator[FastRows]:
        """Yield all rows, in no order.

        Raises:
            CarefulReadNeeded: the server refused a query: the careful reader is told why.
            SourceUnreachableError: a connection broke.
            OSError: there is no room in the scratch folder.
        """
        threads = [threading.Thread(target=self._read, daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            with on_interrupt(self._break_off):
                yield from self._ready_batches(running)
        finally:
            self._stop.set()
            while any(thread.is_alive() for thread in threads):
                try:
                    self._ready.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _ready_batches(self, running: int) -> Iterator[FastRows]:
        while running:
            item = self._ready.get()
            if item is None:
                running -= 1
            elif isinstance(item, OSError):
                raise item
            elif isinstance(item, BaseException):
                text = scrubbed(str(item), self._config)
                if "ERROR: " in text and not self._stop.is_set():  # the server's; DuckDB passes on no error codes
                    raise CarefulReadNeeded from None
                raise SourceUnreachableError(f"reading stopped: {text}", where=self._name) from None
            else:
                yield item
        if self._stop.is_set():  # between two queries no reader has an error to tell
            raise SourceUnreachableError("reading was broken off", where=self._name)

    def _break_off(self) -> None:
        """End the readers' statements on the server; their errors wake the thread that waits for batches."""
        self._stop.set()
        with suppress(HeadraceError), connection(self._name, self._config) as opened:
            opened.execute("SELECT pg_cancel_backend(pid) FROM unnest(%s::int[]) AS pid", [list(self._backends)])

    def _read(self) -> None:
        try:
            with scratch_folder(self._scratch) if self._scratch else tempfile.TemporaryDirectory() as folder:
                extension = _load_path(self._extension, Path(folder))
                if self._scratch is None or not self._read_all(extension, Path(folder)):
                    self._read_all(extension, None)
        except BaseException as error:  # handed to rows()
            self._ready.put(error)
        else:
            self._ready.put(None)

    def _read_all(self, extension: Path, scratch: Path | None) -> bool:
        """Read what is to do. Returns whether all is read: not where encoding needs more memory than there is."""
        import duckdb

        limit = ENCODING_MEMORY_LIMIT if scratch else MEMORY_LIMIT
        database = duckdb.connect(
            config={
                "allow_unsigned_extensions": "true",
                "threads": "1",
                "memory_limit": limit,
                "preserve_insertion_order": "false",  # to keep it takes memory
                "temp_directory": str(extension.parent),
            }
        )
        began = False
        try:
            database.execute(f"LOAD {_literal(str(extension))}")
            database.execute("SET TimeZone = 'UTC'")
            database.execute("SET pg_pool_enable_reaper_thread = false")
            self._attach(database)
            database.execute("BEGIN")
            began = True
            setup = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "
            setup += _literal(self._snapshot)
            setup += "".join(f"; SET LOCAL {key} = {_literal(value)}" for key, value in SESSION.items())
            database.execute(f"CALL postgres_execute('source', {_literal(setup)})")
            own = "SELECT * FROM postgres_query('source', 'SELECT pg_backend_pid() AS pid')"
            self._backends.extend(row[0] for row in database.execute(own).fetchall())
            encodes = False
            while not self._stop.is_set():
                try:
                    number = self._todo.get_nowait()
                except queue.Empty:
                    break
                began_at = time.monotonic()
                size = self._queries[number].size
                if encodes and scratch and size >= LEAST_BYTES:
                    try:
                        nbytes = self._encode(database, number, scratch)
                    except duckdb.OutOfMemoryException:
                        self._todo.put(number)
                        return False
                else:
                    nbytes = self._batches(database, number)
                fast = (time.monotonic() - began_at) * self._greatest <= size * SECONDS_A_FILE
                encodes = fast and nbytes > size * LEAST_PART
        finally:
            if began:
                # a broken connection must not surface in a destructor, where DuckDB aborts the process
                with suppress(duckdb.Error):
                    database.execute("ROLLBACK")
            database.close()
        return True

    def _selected(self, number: int) -> str:
        query = self._queries[number]
        return f"SELECT {query.selected} FROM postgres_query('source', {_literal(query.text)})"

    def _batches(self, database: Any, number: int) -> int:
        """Hand on a query's rows. Returns their bytes; 0 where their types are not the contract's as they come."""
        import pyarrow as pa

        nbytes = 0
        reader = database.execute(self._selected(number)).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            if self._stop.is_set():
                break
            if batch.num_rows:
                arrays = [
                    c if c.type == f.type else c.cast(f.type) for c, f in zip(batch.columns, self._schema, strict=True)
                ]
                rows = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
                nbytes += rows.nbytes
                self._ready.put(FastRows(number, rows, None if self._watched is None else rows.column(self._watched)))
        return nbytes if reader.schema.types == self._schema.types else 0

    def _encode(self, database: Any, number: int, scratch: Path) -> int:
        """Hand on a query's rows in row groups that DuckDB encodes as our own writer would. Returns their bytes."""
        import duckdb
        import pyarrow.parquet as pq

        from assets.sources.written_groups import written_groups

        file = scratch / f"{number}.parquet"
        try:
            database.execute(
                f"COPY ({self._selected(number)}) TO {_literal(str(file))} (FORMAT parquet, COMPRESSION snappy, "
                f"ROW_GROUP_SIZE 1000000, ROW_GROUP_SIZE_BYTES {GROUP_BYTES}, WRITE_BLOOM_FILTER false, "
                f"DICTIONARY_SIZE_LIMIT {DICTIONARY_VALUES})"
            )
        except duckdb.IOException as error:
            if str(file) in str(error):  # not the source's connection
                raise OSError(f"rows could not be written to the scratch folder: {error}") from None
            raise
        nbytes = 0
        with file.open("rb") as written:
            file.unlink()
            parquet = None if self._watched is None else pq.ParquetFile(written)
            for place, rows in enumerate(written_groups(written, self._columns)):
                watched = None
                if parquet is not None:
                    values = parquet.read_row_group(place, [f"c{self._watched}"], use_threads=False).column(0)
                    watched = values.combine_chunks().cast(self._schema.types[self._watched])
                self._ready.put(FastRows(number, rows, watched))
                nbytes += rows.nbytes
        return nbytes

    def _attach(self, database: Any) -> None:
        """Attach with a secret held in memory: the password stands in no connection string and no log."""
        values = parameters(self._config)
        password = self._config.password.get_secret_value() if self._config.password else ""
        database.execute(
            "CREATE TEMPORARY SECRET source_login (TYPE postgres, "
            f"HOST {_literal(values.pop('host'))}, PORT {_literal(values.pop('port'))}, "
            f"DATABASE {_literal(values.pop('dbname'))}, USER {_literal(values.pop('user'))}, "
            f"PASSWORD {_literal(password)})"
        )
        values.pop("options")
        rest = " ".join(f"{key}='{value}'" for key, value in values.items())
        database.execute(f"ATTACH {_literal(rest)} AS source (TYPE postgres, READ_ONLY, SECRET source_login)")
