"""Large MySQL and MariaDB tables in ranges of their primary key: which there are, and which changed meanwhile.

Two connections share no snapshot here. So each chunk is read in a snapshot of its own, whose place in the binlog is
noted with it. The read that ends them has the last snapshot: a chunk none of whose keys was changed by a transaction of
the log which that snapshot shows and the chunk's own does not, holds the same rows in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import SchemaChangedError, SourceAccessError, StreamLostError, UnsupportedTableError
from assets.sources.even_groups import group_starts
from assets.sources.interface import MAX_CHUNKS, ChangedRows, Remaining
from assets.sources.mysql_check import binlog_prerequisites
from assets.sources.mysql_connection import MysqlConfig, quoted, rows
from assets.sources.mysql_estimate import planned_rows
from assets.sync import Chunk, ChunkRead, SourceTable

if TYPE_CHECKING:
    import numpy as np
    import pymysql

    from assets.sources.mysql_changes import MysqlChangeRead
    from assets.sources.mysql_log_window import LogWindow

PIECES_A_CHUNK = 4
"""The planner's guesses of pieces so much smaller than a chunk are put together."""
MOST_KEYS = 50_000
"""A chunk with more keys that changed is read again as a whole."""
MOST_CHANGED = 4
"""So is one of which more than one in so many rows may have changed."""
_LEADING = """
SELECT column_name FROM information_schema.statistics
WHERE table_schema = %s AND table_name = %s AND index_name = 'PRIMARY' AND seq_in_index = 1
"""
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")


def key_chunks(
    opened: pymysql.Connection[Any], name: str, config: MysqlConfig, table: SourceTable, chunk_bytes: int
) -> list[Chunk]:
    """Ranges of the primary key's first column, each of about ``chunk_bytes``; empty where the table cannot be cut.

    It cannot where that column is no integer (others have an order that the server alone knows), and where the log
    would not tell all changes to this login.
    """
    column = _leading_integer(opened, table)
    if column is None or not _is_logged(opened, name, config, table, column):
        return []
    relation = f"{quoted(table.schema_name)}.{quoted(table.table_name)}"
    ((low, high),) = rows(opened, f"SELECT min({quoted(column)}), max({quoted(column)}) FROM {relation}")
    if low is None:
        return []
    number = min(-(-(table.estimated_bytes or 0) // chunk_bytes), MAX_CHUNKS)
    asked = f"SELECT 1 FROM {relation} FORCE INDEX (PRIMARY) WHERE {quoted(column)}"

    def guessed(first: int, past: int) -> int:
        return planned_rows(opened, f"{asked} >= {first} AND {quoted(column)} < {past}")

    most = max(1, (table.estimated_rows or 0) // (PIECES_A_CHUNK * number))
    pieces: list[tuple[int, int]] = []  # where each begins, and its rows
    waiting = [(int(low), int(high) + 1)]
    while waiting:
        first, past = waiting.pop()
        found = guessed(first, past)
        if found > most and past - first > 1 and len(pieces) + len(waiting) < 2 * PIECES_A_CHUNK * MAX_CHUNKS:
            middle = (first + past) // 2
            waiting += [(middle, past), (first, middle)]
        else:
            pieces.append((first, found))
    starts = group_starts([found for _, found in pieces], number)
    edges = [pieces[start][0] for start in starts[1:]]
    ranges = zip([None, *edges], [*edges, None], strict=True)
    chunks = [{"column": column, "first": first, "past": past} for first, past in ranges]
    return [Chunk(id=str(place), where=where) for place, where in enumerate(chunks)] if edges else []


def _leading_integer(opened: pymysql.Connection[Any], table: SourceTable) -> str | None:
    """The first column of the primary key, if it is an integer that is read."""
    if table.kind not in ("table", "partitioned"):
        return None
    found = {name for (name,) in rows(opened, _LEADING, [table.schema_name, table.table_name])}
    for column in table.columns:
        if column.name in found and column.source_type.partition("(")[0].split()[0].lower() in _INTEGERS:
            return column.name
    return None


def _is_logged(
    opened: pymysql.Connection[Any], name: str, config: MysqlConfig, table: SourceTable, column: str
) -> bool:
    """Whether the log tells this login every change of the table. Names of columns are not needed."""
    from assets.sources import mysql_capture as capture
    from assets.sources.mysql_binlog_stream import binlog_stream

    where = f"{name}/{table.name}"
    if binlog_prerequisites(opened, config, named=False)[0]:
        return False
    try:
        capture.require_followable(opened, where, table, [column])
        file = capture.require_logged(opened, where, config, table.schema_name)
        with binlog_stream(name, config) as stream:
            stream.begun(file)
    except (SourceAccessError, UnsupportedTableError, StreamLostError):
        return False
    return True


def condition(chunk: Chunk) -> str:
    """What a row of the chunk fulfils."""
    bounds = ((sign, chunk.where[name]) for sign, name in ((">=", "first"), ("<", "past")))
    return " AND ".join(f"{quoted(chunk.where['column'])} {sign} {int(at)}" for sign, at in bounds if at is not None)


def changed_chunks(
    opened: pymysql.Connection[Any],
    name: str,
    config: MysqlConfig,
    table: SourceTable,
    now: dict[str, Any],
    done: Sequence[ChunkRead],
) -> list[Remaining]:
    """The chunks of a table that are not as they were read in the snapshot whose `MysqlRead.state` is ``now``.

    Where the log does not tell (it was purged or begun anew, the table was altered or truncated), all are.
    """
    import pyarrow as pa

    from assets.sources.mysql_binlog_events import MalformedEventError
    from assets.sources.mysql_changes import key_changes
    from assets.sources.mysql_log_window import log_window

    others = [Remaining(read.chunk) for read in done if read.state != now]
    ordered = sorted(done, key=lambda read: (read.chunk.where["first"] is not None, read.chunk.where["first"]))
    states = [read.state for read in ordered]
    if not others or not all("gtid" in state for state in (now, *states)):
        return others
    column = next(c for c in table.columns if c.name == ordered[0].chunk.where["column"])
    try:
        window = log_window(opened, f"{name}/{table.name}", config, now, states)
        changes = key_changes(opened, name, config, table, column, window)
        edges = [read.chunk.where["first"] for read in ordered[1:]]
        changed = changed_keys(changes, window, edges, states)
    except (StreamLostError, SchemaChangedError, UnsupportedTableError, MalformedEventError):
        return others  # whatever happened, every row is read again
    found: list[Remaining] = []
    for read, keys in zip(ordered, changed, strict=True):
        if keys is None or MOST_CHANGED * len(keys) > read.rows:
            found.append(Remaining(read.chunk))
        elif len(keys):
            values = pa.array(keys).cast(changes.schema.field(0).type)
            found.append(Remaining(read.chunk, ChangedRows(column.name, values)))
    return found


def changed_keys(
    changes: MysqlChangeRead, window: LogWindow, edges: Sequence[int], states: Sequence[dict[str, Any]]
) -> list[np.ndarray | None]:
    """For each range between edges the keys that changed after its snapshot, each once; None: too many to be kept.

    Raises:
        StreamLostError: the table was truncated.
    """
    import numpy as np
    import pyarrow as pa

    kind = pa.uint64() if pa.types.is_decimal(changes.schema.field(0).type) else pa.int64()
    firsts = np.array(edges, kind.to_pandas_dtype())
    ages = np.array([window.age(state) for state in states])
    found: list[np.ndarray | None] = [np.array([], kind.to_pandas_dtype()) for _ in ages]
    for batch in changes.batches():
        keys = batch.rows.column(0).cast(kind).to_numpy()
        places = np.searchsorted(firsts, keys, side="right")
        later = window.shown(batch.positions.to_numpy()) > ages[places]
        for place in np.unique(places[later]):
            known = found[place]
            if known is not None:
                known = np.union1d(known, keys[later & (places == place)])
                found[place] = known if len(known) <= MOST_KEYS else None
    if changes.truncates:
        raise StreamLostError("the table was truncated")
    return found
