"""The fast reader: binary rows into Arrow by DuckDB's PostgreSQL scanner, connections sharing one snapshot.

What the scanner gets wrong, measured on 1.5.5, and what is done: NaN in a decimal becomes 0 (columns with zeros are
checked on the server), numerics without precision become double, times lose 24:00 and offsets, oid becomes text (all
selected as text or int8), char(n) loses its blanks (selected through its output function).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import HeadraceError, SourceUnreachableError
from assets.interruption import on_interrupt
from assets.sources.interface import BATCH_ROWS, CarefulReadNeeded
from assets.sources.postgres_connection import SESSION, PostgresConfig, connection, parameters, scrubbed

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGE = "duckdb-extension-postgres"
MEMORY_LIMIT = "64MB"
WAITING_BATCHES = 2


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


class FastReader:
    """Reads queries of one exported snapshot side by side.

    Args:
        queries: statements whose select lists are alike; read by up to ``readers`` connections.
    """

    def __init__(
        self,
        name: str,
        config: PostgresConfig,
        snapshot: str,
        queries: Sequence[str],
        schema: pa.Schema,
        extension: Path,
        *,
        readers: int,
    ) -> None:
        self._name, self._config, self._snapshot, self._schema = name, config, snapshot, schema
        self._extension = extension
        self._todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        for query in queries:
            self._todo.put(query)
        self._threads = min(readers, len(queries))
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=WAITING_BATCHES)
        self._stop = threading.Event()
        self._backends: list[int] = []

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, in no order.

        Raises:
            CarefulReadNeeded: the server refused a query: the careful reader is told why.
            SourceUnreachableError: a connection broke.
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

    def _ready_batches(self, running: int) -> Iterator[pa.RecordBatch]:
        while running:
            item = self._ready.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                text = scrubbed(str(item), self._config)
                if "ERROR: " in text and not self._stop.is_set():  # the server's; DuckDB passes on no error codes
                    raise CarefulReadNeeded from None
                raise SourceUnreachableError(f"reading stopped: {text}", where=self._name) from None
            else:
                yield item

    def _break_off(self) -> None:
        """End the readers' statements on the server; their errors wake the thread that waits for batches."""
        self._stop.set()
        with suppress(HeadraceError), connection(self._name, self._config) as opened:
            opened.execute("SELECT pg_cancel_backend(pid) FROM unnest(%s::int[]) AS pid", [list(self._backends)])

    def _read(self) -> None:
        import tempfile

        try:
            with tempfile.TemporaryDirectory(prefix="headrace-scanner-") as folder:
                self._read_all(_load_path(self._extension, Path(folder)))
        except BaseException as error:  # handed to batches()
            self._ready.put(error)
        else:
            self._ready.put(None)

    def _read_all(self, extension: Path) -> None:
        import duckdb
        import pyarrow as pa

        database = duckdb.connect(
            config={"allow_unsigned_extensions": "true", "threads": "1", "memory_limit": MEMORY_LIMIT}
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
            while not self._stop.is_set():
                try:
                    query = self._todo.get_nowait()
                except queue.Empty:
                    break
                result = database.execute(f"SELECT * FROM postgres_query('source', {_literal(query)})")
                for batch in result.to_arrow_reader(BATCH_ROWS):
                    if self._stop.is_set():
                        return
                    if batch.num_rows:
                        arrays = [
                            c if c.type == f.type else c.cast(f.type)
                            for c, f in zip(batch.columns, self._schema, strict=True)
                        ]
                        self._ready.put(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        finally:
            if began:
                # a broken connection must not surface in a destructor, where DuckDB aborts the process
                try:
                    database.execute("ROLLBACK")
                except duckdb.Error:
                    self._stop.set()
            database.close()

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
