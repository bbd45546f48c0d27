"""The changes of one PostgreSQL table: which transactions count, from the last sync's snapshot to this one's.

A position in the log alone is no exact bound: a commit stands in the log a moment before snapshots see it. A watermark
is therefore a position and a snapshot. A transaction is new if it committed at or after ``lsn``, unless it committed
before ``fence`` and the watermark's snapshot saw it; it counts if this sync's snapshot, taken first, sees it. So what
was read is what that snapshot shows, each transaction once, and the source's rows can be counted in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import SchemaChangedError, StreamLostError
from assets.row_filter import RowFilter
from assets.sources.interface import UNFIT_COLUMN, ChangeBatch, ChangeRead
from assets.sources.pgoutput import PgoutputDecoder, TableShape
from assets.sources.postgres_capture import (
    fence,
    leaves,
    publication_identity,
    publication_name,
    require_followable,
    reset_command,
    slot_name,
)
from assets.sources.postgres_connection import PostgresConfig, connection
from assets.sources.postgres_log_stream import LogStream, log_stream, lsn_text
from assets.sources.postgres_snapshot import system_identifier
from assets.sync import STREAM, SourceTable, Watermark, WindowPlan
from assets.types import arrow_type

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa
    from psycopg import sql

UNMOVED_BYTES = 16 << 20
"""A table without changes gets a new watermark only when the log has grown by as much."""

_COLUMNS = """
SELECT a.attnum, a.attname, a.atttypid::bigint, a.atttypmod,
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, t.typname
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_BASE_TYPES = """
WITH RECURSIVE base(number, type) AS (
    SELECT attnum, atttypid FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT b.number, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT a.attname, t.typname FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_attribute a ON a.attrelid = %s AND a.attnum = b.number
"""


@dataclass(frozen=True)
class Snapshot:
    """``pg_current_snapshot()``: which transactions it sees."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        xmin, xmax, listed = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(x) for x in listed.split(",") if x))

    def sees(self, transaction: int) -> bool:
        """Whether it sees a transaction, whose id has lost its upper 32 bits in the log."""
        whole = (self.xmax & ~0xFFFFFFFF) | transaction
        if whole - self.xmax > 1 << 31:
            whole -= 1 << 32
        elif self.xmax - whole > 1 << 31:
            whole += 1 << 32
        return whole < self.xmin or (whole < self.xmax and whole not in self.in_progress)


def table_facts(opened: psycopg.Connection[Any], table: int) -> dict[str, Any]:
    """What a watermark keeps of the table: its columns by number, and the tables that hold its rows."""
    rows = opened.execute(_COLUMNS, [table]).fetchall()
    return {
        "columns": {str(number): [name, oid, modifier] for number, name, oid, modifier, _, _ in rows},
        "leaves": leaves(opened, table),
    }


def begin_position(opened: psycopg.Connection[Any], stream: dict[str, Any], table: int) -> dict[str, Any]:
    """The position of a first load, asked in the transaction of its snapshot."""
    row = opened.execute(
        "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn() - '0/0'::pg_lsn, "
        "(SELECT oid::bigint FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    assert row is not None
    return stream | {
        "snapshot": row[0],
        "fence": int(row[1]),
        "last": int(row[1]),
        "system": system_identifier(opened),
        "database": row[2],
        "table": table,
        **table_facts(opened, table),
    }


class PostgresChangeRead(ChangeRead):
    """One table's changes, streamed from a copy of the connector's slot."""

    reader = "pgoutput"

    def __init__(
        self,
        shape: TableShape,
        stream: LogStream,
        publication: str,
        previous: Watermark,
        position: dict[str, Any],
        rows: int,
    ) -> None:
        self._stream, self._publication = stream, publication
        self._previous, self._position, self._rows = previous, position, rows
        before = previous.position
        self._from, self._before_fence = int(before["lsn"]), int(before["fence"])
        self._seen, self._now = Snapshot.parse(before["snapshot"]), Snapshot.parse(position["snapshot"])
        self._end = int(position["fence"])
        self._first_left: int | None = None
        self._decoder = PgoutputDecoder(shape, self._wanted, max(int(before["last"]), previous.newest))
        self.schema = self._decoder.schema
        self.low, self.high = lsn_text(self._from), lsn_text(self._end)
        self._any = False

    def _wanted(self, commit: int, transaction: int) -> bool:
        if commit < self._from or (commit < self._before_fence and self._seen.sees(transaction)):
            return False
        if commit < self._end and self._now.sees(transaction):
            return True
        if self._first_left is None:
            self._first_left = commit
        return False

    def batches(self) -> Iterator[ChangeBatch]:
        import pyarrow as pa

        decoder = self._decoder
        feed = decoder.feed
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in self.schema], schema=self.schema)
        for message in self._stream.messages(self._from, self._end, self._publication):
            if message is None:
                yield ChangeBatch(empty, "u", pa.array([], pa.int64()))
                continue
            feed(message)
            if decoder.commit_position >= self._end:
                break
            if decoder.full:
                yield from self._noted(decoder.take())
        yield from self._noted(decoder.take())

    def _noted(self, batches: Iterator[ChangeBatch]) -> Iterator[ChangeBatch]:
        for batch in batches:
            self._any = True
            yield batch

    @property
    def truncates(self) -> Sequence[int]:
        return self._decoder.truncates

    @property
    def watermark(self) -> Watermark:
        lsn = self._end if self._first_left is None else min(self._first_left, self._end)
        unchanged = not self._any and not self.truncates
        facts = ("columns", "leaves")
        same = all(self._position[name] == self._previous.position[name] for name in facts)
        if unchanged and same and lsn - self._from < UNMOVED_BYTES:
            return self._previous
        position = self._position | {"lsn": lsn, "last": self._decoder.last}
        return Watermark(value=lsn_text(lsn), position=position)

    def source_rows(self) -> int:
        return self._rows

    @property
    def unfit_values(self) -> int:
        return self._decoder.unfit


@contextmanager
def open_changes(connector: str, config: PostgresConfig, plan: WindowPlan) -> Iterator[PostgresChangeRead]:
    """See ``Connector.open_changes``."""
    from psycopg import sql

    from assets.sources.postgres_catalogue import list_tables

    where = f"{connector}/{plan.table.name}"
    remedy = reset_command(connector, plan.table.name)
    assert plan.previous is not None
    before = plan.previous.position
    slot = slot_name(connector, config)
    try:
        with connection(connector, config) as opened:
            ((oid, table),) = list_tables(opened, connector, None, [plan.table.name])
            relation = sql.Identifier(table.schema_name, table.table_name)
            require_followable(opened, where, plan.table, oid, plan.key)
            opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                now = begin_position(opened, {STREAM: slot}, oid)
                now["publication"] = publication_identity(opened, slot, table, oid, where)
                _require_same(opened, before, now, oid, where, remedy)
                shape = _shape(opened, plan, oid, where, remedy)
                rows = _count(opened, relation, plan.table, shape.row_filter)
            finally:
                opened.execute("ROLLBACK")
            now["fence"] = fence(opened)
        with log_stream(connector, config) as stream:
            reached = stream.copy_slot(slot)
            if reached > int(before["lsn"]):
                raise StreamLostError(
                    f"the replication slot {slot} was moved past the last sync, to {lsn_text(reached)}", where=where
                )
            yield PostgresChangeRead(shape, stream, publication_name(slot, table.name), plan.previous, now, rows)
    except StreamLostError as error:
        raise StreamLostError(error.what, where=where, remedy=remedy) from None


def _require_same(
    opened: psycopg.Connection[Any], before: dict[str, Any], now: dict[str, Any], oid: int, where: str, remedy: str
) -> None:
    """Refuse to go on where changes may have been made that no log tells.

    Raises:
        StreamLostError: another server, database, table, slot or publication; a partition is gone.
        SchemaChangedError: a column was renamed, retyped, or added with a default.
    """
    for name, told in (
        ("system", "the server is another one"),
        ("database", "the database is another one"),
        ("table", "the table was dropped and created again"),
        (STREAM, "the connector's replication slot is another one"),
        ("publication", "the table's publication was dropped and created again"),
    ):
        if before.get(name) != now.get(name):
            raise StreamLostError(f"{told} since the last sync", where=where)
    if int(before["fence"]) > int(now["fence"]):
        raise StreamLostError("the server's log ends before the last sync: it was restored", where=where)
    if set(before["leaves"]) - set(now["leaves"]):
        raise StreamLostError("partitions were detached or dropped since the last sync", where=where)
    kinds = {str(row[0]): row for row in opened.execute(_COLUMNS, [oid]).fetchall()}
    for number, (name, type_oid, modifier) in now["columns"].items():
        known = before["columns"].get(number)
        if known is None:
            if kinds[number][4]:
                raise SchemaChangedError(
                    f"column {name} was added with a default: no log tells its value in the rows before",
                    where=where,
                    remedy=remedy,
                )
        elif known[0] != name:
            raise SchemaChangedError(f"column {known[0]} is now named {name}", where=where, remedy=remedy)
        elif known[1] != type_oid or not _same_values(kinds[number][5], known[2], modifier):
            raise SchemaChangedError(
                f"the type of column {name} changed since the last sync", where=where, remedy=remedy
            )


def _same_values(kind: str, before: int, now: int) -> bool:
    """Whether a changed length or precision left the stored values alone: else they were rewritten, untold."""
    numeric = kind == "numeric" and before >= 4 and now >= 4 and (before - 4) & 0x7FF == (now - 4) & 0x7FF
    return before == now or kind == "varchar" or numeric


def _shape(opened: psycopg.Connection[Any], plan: WindowPlan, oid: int, where: str, remedy: str) -> TableShape:
    bases = dict(opened.execute(_BASE_TYPES, [oid, oid]).fetchall())
    oids = {name: int(type_oid) for _, name, type_oid, _, _, _ in opened.execute(_COLUMNS, [oid])}
    texts: dict[str, Callable[[pa.Array], pa.Array]] = {}
    for column in plan.table.columns:
        if column.rule == "money":
            texts[column.name] = _Money(arrow_type(column.arrow_type).scale)  # type: ignore[attr-defined]
        elif column.rule == "text" and bases.get(column.name) == "inet":
            texts[column.name] = _with_mask
    return TableShape(
        where=where,
        remedy=remedy,
        columns=plan.table.columns,
        key=plan.key,
        type_oids=oids,
        texts=texts,
        parts=frozenset(plan.previous.position["leaves"] if plan.previous else ()),
        row_filter=RowFilter.parse(plan.table.row_filter) if plan.table.row_filter else None,
    )


def _count(
    opened: psycopg.Connection[Any], relation: sql.Identifier, table: SourceTable, row_filter: RowFilter | None
) -> int:
    """The table's rows; those of a filter are judged here, as changes are."""
    import pyarrow as pa
    from psycopg import sql

    from assets.sources.postgres_read import selected
    from assets.sources.postgres_text import text_batches

    if row_filter is None:
        row = opened.execute(sql.SQL("SELECT count(*) FROM {}").format(relation)).fetchone()
        return int(row[0]) if row else 0
    columns = [column for column in table.columns if column.name in row_filter.columns]
    fields = [pa.field(column.name, arrow_type(column.arrow_type)) for column in columns]
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(selected, columns)), relation)
    schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
    return sum(row_filter.mask(batch).true_count for batch in text_batches(opened, query, columns, schema))


class _Money:
    """``-$1,234.56`` of the C locale as the contract's decimal: the digits are cents of whatever the server counts."""

    def __init__(self, scale: int) -> None:
        self._scale = scale

    def __call__(self, texts: pa.Array) -> pa.Array:
        import pyarrow as pa

        def decimal(text: str | None) -> str | None:
            if text is None:
                return None
            digits = "".join(c for c in text if c.isdigit()).rjust(self._scale + 1, "0")
            whole, part = digits[: len(digits) - self._scale], digits[len(digits) - self._scale :]
            return f"{'-' if text.startswith(('-', '(')) else ''}{whole}{'.' if part else ''}{part}"

        return pa.array([decimal(text) for text in texts.to_pylist()], pa.string())


def _with_mask(texts: pa.Array) -> pa.Array:
    """``inet`` as text has its mask always; its output leaves the mask of a single host out."""
    import pyarrow as pa

    pc = arrow_compute()
    host = pc.if_else(pc.match_substring(texts, ":"), "/128", "/32")
    masked = pc.binary_join_element_wise(texts, host, "")
    return pc.if_else(pc.match_substring(texts, "/"), texts, masked).cast(pa.string())
