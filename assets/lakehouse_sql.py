"""One read-only SQL query over tables of the lakehouse, in a locked DuckDB: no files, no network, bounded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import HeadraceError, NotFoundError
from assets.lakehouse.interface import Lakehouse, TableId
from assets.naming import table_slug
from assets.scratch_database import ScratchDatabase, quoted
from assets.sync import Model

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.catalog.store import Catalog

MAX_QUERY = 20_000
MAX_ROWS = 1_000
MAX_RESULT_BYTES = 1 << 20
MAX_SECONDS = 60.0


class QueryError(HeadraceError):
    """The query is no single SELECT, names a table that may not be read, or failed."""


class QueryResult(Model):
    """Rows as JSON values: text, numbers, booleans, None; anything else as text."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False
    tables: tuple[str, ...] = ()


def table_address(table: TableId) -> str:
    """How a query names a table: ``silver.shop__public__orders``."""
    return f"{table.layer}.{table.connector}__{table_slug(table.table)}"


def known_tables(catalog: Catalog, others: Sequence[TableId] = ()) -> dict[str, TableId]:
    """The tables that syncs made, and ``others``, by the name that a query gives them."""
    tables = [
        TableId(layer=layer, connector=run.connector, table=run.table)
        for run in catalog.latest_table_runs()
        for layer in ("bronze", "silver")
    ]
    return {table_address(table): table for table in [*tables, *others]}


def tables_of(sql: str) -> tuple[str, ...]:
    """The lakehouse tables that a query reads, as it names them, in order.

    Raises:
        QueryError: it is no single SELECT.
    """
    from sqlglot import exp

    return tuple(dict.fromkeys(_address(table) for table in _parsed(sql).find_all(exp.Table) if _is_stored(table)))


def _parsed(sql: str) -> Any:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if len(sql) > MAX_QUERY:
        raise QueryError(f"the query is longer than {MAX_QUERY} characters", where="query")
    try:
        statements = [statement for statement in sqlglot.parse(sql, dialect="duckdb") if statement is not None]
    except SqlglotError as error:
        raise QueryError(f"the query cannot be parsed: {str(error).splitlines()[0]}", where="query") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise QueryError("only one SELECT is allowed", where="query")
    (query,) = statements
    if query.find(exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy, exp.Create, exp.Drop, exp.Command, exp.Into):
        raise QueryError("only one SELECT is allowed", where="query")
    return query


def _address(table: Any) -> str:
    return f"{table.db}.{table.name}" if table.db else table.name


def _is_stored(table: Any) -> bool:
    """Not a CTE of the query, and not a function in FROM."""
    from sqlglot import exp

    if not isinstance(table.this, exp.Identifier):
        return False
    if table.db:
        return True
    scope = table.find_ancestor(exp.Query)
    while scope is not None:
        if any(cte.alias == table.name for cte in scope.ctes):
            return False
        scope = scope.find_ancestor(exp.Query)
    return True


class LakehouseSql:
    """Answers queries over the lakehouse.

    Args:
        lakehouse: holds the tables.
        tables: what may be read, by name: see `known_tables`.
        memory_limit: DuckDB memory limit; what does not fit spills into ``scratch``.
        allowed: name patterns (``silver.shop__*``) that narrow ``tables``.
        streams: a query that reads one table once reads it as it goes, without a copy of it. For a process that ends
            with its query: DuckDB may still be reading when the rows wanted are there.
    """

    def __init__(
        self,
        lakehouse: Lakehouse,
        tables: Mapping[str, TableId],
        *,
        memory_limit: str,
        scratch: Path,
        allowed: Sequence[str] = ("*",),
        streams: bool = False,
    ) -> None:
        self._lakehouse = lakehouse
        self._tables = tables
        self._memory_limit = memory_limit
        self._scratch = scratch
        self._allowed = allowed
        self._streams = streams

    def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        max_rows: int = MAX_ROWS,
        max_seconds: float = MAX_SECONDS,
    ) -> QueryResult:
        """Run one SELECT; ``$name`` in it is bound from ``parameters``.

        Raises:
            QueryError: it is refused, fails, or takes longer than ``max_seconds``.
            NotFoundError: it names a table that is not there.
        """
        found: list[QueryResult] = []

        def take(result: Any, tables: tuple[str, ...]) -> None:
            columns = tuple(column[0] for column in result.description)
            types = tuple(str(column[1]) for column in result.description)
            rows: list[tuple[Any, ...]] = []
            size = 0
            while (row := result.fetchone()) is not None:
                plain = tuple(_plain(value) for value in row)
                size += sum(len(str(value)) for value in plain)
                if len(rows) >= max_rows or size > MAX_RESULT_BYTES:
                    found.append(
                        QueryResult(columns=columns, types=types, rows=tuple(rows), truncated=True, tables=tables)
                    )
                    return
                rows.append(plain)
            found.append(QueryResult(columns=columns, types=types, rows=tuple(rows), tables=tables))

        self._run(sql, parameters, max_seconds, take)
        return found[0]

    def each_batch(
        self, sql: str, take: Callable[[pa.RecordBatchReader], None], parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Run one SELECT and hand its rows to ``take`` as a stream, typed and whole. Errors as in `query`."""
        self._run(sql, parameters, 3600, lambda result, _: take(result.to_arrow_reader(65_536)))

    def _run(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None,
        max_seconds: float,
        take: Callable[[Any, tuple[str, ...]], None],
    ) -> None:
        import duckdb

        query = _parsed(sql)
        tables = self._checked(tables_of(sql))
        with _LockedDatabase(self._memory_limit, self._scratch) as database, contextlib.ExitStack() as opened:
            timer = threading.Timer(max_seconds, database.interrupt)
            timer.daemon = True
            timer.start()
            try:
                for address, table in tables.items():
                    if self._streams and _reads_once(query):
                        database.stream(address, self._lakehouse, table, _columns(query), opened)
                    else:
                        database.load(address, self._lakehouse, table, _columns(query))
                take(database.execute(sql, parameters), tuple(tables))
            except duckdb.InterruptException:
                raise QueryError(f"the query took longer than {max_seconds:.0f} s", where="query") from None
            except duckdb.Error as error:
                raise QueryError(str(error).splitlines()[0][:1000], where="query") from None
            finally:
                timer.cancel()

    def _checked(self, names: Sequence[str]) -> dict[str, TableId]:
        found = {}
        for name in names:
            if not any(fnmatchcase(name, pattern) for pattern in self._allowed):
                raise QueryError(f"the table {name} may not be read here", where="query")
            if name not in self._tables:
                raise NotFoundError(
                    f"there is no table {name}",
                    where="query",
                    remedy="Tables: headrace tables, as LAYER.CONNECTOR__TABLE.",
                )
            found[name] = self._tables[name]
        return found


def _reads_once(query: Any) -> bool:
    """Whether the one table of a query is certainly scanned once: no subquery, CTE, set operation or pivot."""
    from sqlglot import exp

    several = (exp.With, exp.SetOperation, exp.Pivot, exp.Subquery)
    selects, tables = list(query.find_all(exp.Select)), list(query.find_all(exp.Table))
    return len(selects) == len(tables) == 1 and query.find(*several) is None


def _columns(query: Any) -> set[str] | None:
    """Names of all columns that the query mentions; None where it takes all columns of something."""
    from sqlglot import exp

    if any(not isinstance(star.parent, exp.Count) for star in query.find_all(exp.Star)):
        return None
    if any(isinstance(column.this, exp.Star) for column in query.find_all(exp.Column)):
        return None
    # a table's own name as a column is the whole row
    sources = {table.alias_or_name for table in query.find_all(exp.Table)}
    names = {column.name for column in query.find_all(exp.Column)}
    return None if names & sources else names


class _LockedDatabase(ScratchDatabase):
    """Tables are loaded first; then nothing outside can be reached any more."""

    def __init__(self, memory_limit: str, scratch: Path) -> None:
        super().__init__(memory_limit, scratch)
        self._locked = False

    def load(self, address: str, lakehouse: Lakehouse, table: TableId, columns: set[str] | None) -> None:
        """Copy the columns of a table."""
        name, wanted = self._place(address, lakehouse, table, columns)
        with lakehouse.scan(table, wanted) as rows:
            self._db.register("incoming", rows)
            self._db.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            self._db.unregister("incoming")

    def stream(
        self,
        address: str,
        lakehouse: Lakehouse,
        table: TableId,
        columns: set[str] | None,
        opened: contextlib.ExitStack,
    ) -> None:
        """Let a query read the table once, as it goes; ``opened`` holds what it reads from."""
        name, wanted = self._place(address, lakehouse, table, columns)
        self._db.register("incoming", opened.enter_context(lakehouse.scan(table, wanted)))
        self._db.execute(f"CREATE VIEW {name} AS SELECT * FROM incoming")

    def _place(
        self, address: str, lakehouse: Lakehouse, table: TableId, columns: set[str] | None
    ) -> tuple[str, list[str]]:
        if lakehouse.state(table) is None:
            raise NotFoundError(f"the table {address} was never loaded", where="query")
        names = lakehouse.schema(table).names
        lowered = None if columns is None else {name.lower() for name in columns}
        wanted = [name for name in names if lowered is None or name.lower() in lowered]
        layer, _, name = address.partition(".")
        self._db.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(layer)}")
        return f"{quoted(layer)}.{quoted(name)}", wanted or names[:1]

    def execute(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        if not self._locked:
            for setting in ("autoinstall_known_extensions", "autoload_known_extensions", "enable_external_access"):
                self._db.execute(f"SET {setting} = false")
            self._db.execute("SET lock_configuration = true")
            self._locked = True
        return self._db.execute(sql, dict(parameters)) if parameters else self._db.execute(sql)

    def interrupt(self) -> None:
        self._db.interrupt()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
