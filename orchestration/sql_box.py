"""One read-only query over Silver for a person, in a process of its own that is ended when it takes too much.

`assets.lakehouse_sql.LakehouseSql` keeps the query from files and the network; the process bounds what DuckDB does not:
memory outside its buffers, time in which it hears no interrupt, and the disk that copies of tables take.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import SecretStr

from assets.errors import ConflictError, NotFoundError
from assets.lakehouse_sql import QueryError, QueryResult, table_address, tables_of

if TYPE_CHECKING:
    from assets.lakehouse.interface import TableId
    from orchestration.headrace import Headrace

AT_ONCE = 2
MAX_ROWS, DEFAULT_ROWS = 1_000, 100
MAX_SECONDS = 30.0
START_SECONDS = 30.0
"""What a loaded machine needs to import the libraries; not counted as the query's time."""
MAX_PROCESS_BYTES = 2 << 30
MAX_SCRATCH_BYTES = 8 << 30
MAX_ANSWER_BYTES = 8 << 20
LOOK_SECONDS = 0.1
_SETTINGS = ("home", "lakehouse", "staging_url", "retention_hours", "databricks", "s3", "memory_limit")
_slots = threading.BoundedSemaphore(AT_ONCE)


class SqlBusyError(ConflictError):
    """As many queries as there may be at once run already."""

    retryable_by_default = True


def ask(headrace: Headrace, sql: str, *, max_rows: int = DEFAULT_ROWS) -> QueryResult:
    """Run one SELECT over the tables of Silver.

    Raises:
        QueryError: it is refused, fails, or takes more time, memory or disk than it may.
        NotFoundError: it names a table that is not there.
        SqlBusyError: two queries run already.
    """
    named = tables_of(sql)
    known = silver_tables(headrace, named)
    for name in named:
        if name not in known:
            raise NotFoundError(
                f"there is no table {name[:200]}", where="query", remedy="Tables: silver.CONNECTOR__TABLE."
            )
    work = {
        "settings": _lakehouse_settings(headrace),
        "sql": sql,
        "tables": {name: known[name].model_dump() for name in named},
        "max_rows": max(1, min(max_rows, MAX_ROWS)),
        "max_seconds": MAX_SECONDS,
        "max_scratch_bytes": MAX_SCRATCH_BYTES,
    }
    if not _slots.acquire(blocking=False):
        raise SqlBusyError("other queries run already.", remedy="Try again when they have ended.")
    try:
        answer = _in_a_process(work)
    finally:
        _slots.release()
    if "error" in answer:
        kind = NotFoundError if answer["error"] == "NotFoundError" else QueryError
        raise kind(answer["what"], where="query")
    return QueryResult.model_validate(answer)


def silver_tables(headrace: Headrace, named: Iterable[str]) -> dict[str, TableId]:
    """Those of the named tables that syncs or knowledge made, by the name that a query gives them."""
    from assets.knowledge.tables import SILVER, silver
    from assets.lakehouse.interface import TableId

    found = {table_address(silver(name)): silver(name) for name in SILVER}
    for connector in {part for name in named for part in _prefixes(name)}:
        for table in headrace.catalog.table_names(connector):
            of = TableId(layer="silver", connector=connector, table=table)
            found[table_address(of)] = of
    return found


def _prefixes(name: str) -> Iterator[str]:
    """What may be the connector of ``silver.CONNECTOR__TABLE``: both may hold two underscores."""
    if name.startswith("silver."):
        words = name.removeprefix("silver.").split("__")
        yield from ("__".join(words[:count]) for count in range(1, min(len(words), 9)))


def _lakehouse_settings(headrace: Headrace) -> dict[str, Any]:
    """What the process has to know to open the lakehouse; it goes through a pipe."""
    found = {name: getattr(headrace.settings, name) for name in type(headrace.settings).model_fields}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in (found | {"home": str(headrace.settings.home_path)}).items()
        if name.startswith(_SETTINGS)
    }


def _in_a_process(work: dict[str, Any]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    with tempfile.TemporaryFile() as answered:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestration.sql_box_process"],
            stdin=subprocess.PIPE,
            stdout=answered,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as asked:
                asked.write(json.dumps(work).encode())
            _watch(process, time.monotonic() + START_SECONDS + MAX_SECONDS)
        finally:
            process.kill()
            process.wait()
        answered.seek(0)
        text = answered.read(MAX_ANSWER_BYTES + 1)
    try:
        return json.loads(text)
    except ValueError:
        raise QueryError(
            "the query was ended by a fault of its process, such as a lack of memory", where="query"
        ) from None


def _watch(process: subprocess.Popen[bytes], deadline: float) -> None:
    seen = psutil.Process(process.pid)
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise QueryError("the query took longer than it may", where="query")
        try:
            used = seen.memory_info().rss
        except psutil.Error:
            used = 0
        if used > MAX_PROCESS_BYTES:
            raise QueryError("the query needs more memory than it may have", where="query")
        time.sleep(LOOK_SECONDS)
