"""The changes of one Snowflake table by the CHANGES clause: what differs between two moments, one row a key.

A position is the id of a statement: the first load reads ``AT (STATEMENT => it)``, the next sync asks for the changes
from it to a statement of its own, and counts the rows there. Nothing is made at the source; its retention says how far
back a position may lie. No stand-in has the clause: the tests hold its statements, and recorded results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import SchemaChangedError, StreamLostError, UnsupportedTableError
from assets.row_filter import RowFilter
from assets.sources.interface import UNFIT_COLUMN, ChangeBatch, ChangeRead, TableRead
from assets.sources.server_filter import whole_condition
from assets.sources.snowflake_connection import TIME_TRAVEL_LOST, error_number, rows, scrubbed
from assets.sources.snowflake_filter import SnowflakeWords
from assets.sources.snowflake_names import exact, literal, quoted, relation
from assets.sources.snowflake_snapshot import Snapshot, open_snapshot
from assets.sync import STREAM, SourceTable, Watermark, WindowPlan
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.connector import SnowflakeConnection

    from assets.sources.snowflake import SnowflakeConnector

CLAUSE = "changes"
UNMOVED = timedelta(hours=1)
"""A table without changes gets a new position when its last one is this old: retention runs."""
ACTION = '"METADATA$ACTION"'


def changes_query(connector: SnowflakeConnector, plan: WindowPlan, since: str, until: str) -> str:
    """Inserted rows as they are now, and the keys of deleted ones whose key did not come back.

    A changed row is both, with its new and its old values: a filter judges the two, so what left it is a deleted row.
    """
    from assets.sources.snowflake_arrow import selected

    items = ", ".join(selected(column) for column in plan.table.columns)
    key = ", ".join(quoted(exact(name)) for name in plan.key)
    source = relation(connector.database, plan.table.schema_name, plan.table.table_name)
    return (
        f"SELECT {items}, {ACTION} FROM {source} CHANGES (INFORMATION => DEFAULT) "
        f"AT (STATEMENT => {literal(since)}) END (STATEMENT => {literal(until)}){_filtered(plan.table)} "
        f"QUALIFY {ACTION} = 'INSERT' OR COUNT_IF({ACTION} = 'INSERT') OVER (PARTITION BY {key}) = 0"
    )


def _filtered(table: SourceTable) -> str:
    """The clause of the table's filter."""
    if not table.row_filter:
        return ""
    condition = whole_condition(table.row_filter, table.columns, SnowflakeWords())
    assert condition is not None  # the table is followable
    return f" WHERE {condition}"


def _require_judged_alike(opened: SnowflakeConnection, connector: SnowflakeConnector, table: SourceTable) -> None:
    """Refuse a filter that the server could judge otherwise than a read of the whole table is judged here.

    Raises:
        UnsupportedTableError: with what it compares.
    """
    where, remedy = f"{connector.name}/{table.name}", "Use --mode incremental --deletes keys."
    named = [c for c in table.columns if c.name in RowFilter.parse(table.row_filter).columns]
    if whole_condition(table.row_filter, table.columns, SnowflakeWords()) is None:
        kinds = ", ".join(f"{c.name} {c.source_type}" for c in named)
        told = f"mode cdc takes a filter of numbers, booleans, dates, and the equality of text: {kinds}"
        raise UnsupportedTableError(told, where=where, remedy=remedy)
    texts = [literal(exact(c.name)) for c in named if c.source_type.startswith("VARCHAR")]
    if not texts:
        return
    query = (
        f"SELECT column_name FROM {quoted(connector.database)}.information_schema.columns "
        f"WHERE table_schema = {literal(table.schema_name)} AND table_name = {literal(table.table_name)} "
        f"AND column_name IN ({', '.join(texts)}) AND collation_name IS NOT NULL"
    )
    if found := rows(opened, query):
        told = f"the row filter compares column {found[0][0]}, which has a collation"
        raise UnsupportedTableError(told, where=where, remedy=remedy)


def tracked_tables(opened: SnowflakeConnection, scope: str, name: str | None = None) -> dict[tuple[str, str], bool]:
    """Whether changes are tracked, by schema and table, for 10,000 tables at most.

    Args:
        scope: ``DATABASE "X"`` or ``SCHEMA "X"."Y"``.
        name: limits it to tables that are called so, by a pattern: others may come too.
    """
    from snowflake.connector import DictCursor

    with opened.cursor(DictCursor) as cursor:
        cursor.execute(f"SHOW TABLES {f'LIKE {literal(name)} ' if name else ''}IN {scope}")
        found = [row for row in cursor.fetchall() if isinstance(row, dict)]
    return {(row["schema_name"], row["name"]): row.get("change_tracking") == "ON" for row in found}


def reset_command(connector: str, table: str) -> str:
    return f"Run: headrace sync {connector} {table} --mode cdc --reset"


def require_followable(
    opened: SnowflakeConnection,
    connector: SnowflakeConnector,
    table: SourceTable,
    key: Sequence[str],
    snapshot: Snapshot,
) -> None:
    """Refuse a table whose changes the server does not keep.

    Raises:
        UnsupportedTableError: with the statement that mends it.
    """
    where = f"{connector.name}/{table.name}"
    place = relation(connector.database, table.schema_name, table.table_name)
    if table.kind != "table":
        raise UnsupportedTableError(f"a {table.kind.replace('_', ' ')} has no change tracking of its own", where=where)
    if not key:
        raise UnsupportedTableError("the table has no key", where=where, remedy="Name one with --key.")
    if snapshot.reason:
        remedy = f"ALTER TABLE {place} SET DATA_RETENTION_TIME_IN_DAYS = 1;"
        raise UnsupportedTableError(snapshot.reason, where=where, remedy=remedy)
    scope = f"SCHEMA {quoted(connector.database)}.{quoted(table.schema_name)}"
    if not tracked_tables(opened, scope, table.table_name).get((table.schema_name, table.table_name), False):
        remedy = f"ALTER TABLE {place} SET CHANGE_TRACKING = TRUE;"
        raise UnsupportedTableError("changes of the table are not tracked", where=where, remedy=remedy)
    if table.row_filter:
        _require_judged_alike(opened, connector, table)


def _position(connector: SnowflakeConnector, plan: WindowPlan, snapshot: Snapshot, last: int) -> dict[str, Any]:
    return {
        STREAM: CLAUSE,
        "statement": snapshot.statement,
        "clock": snapshot.position,
        "last": last,
        "account": snapshot.account,
        "created": snapshot.created,
        "database": connector.database,
        "columns": {c.name: c.source_type for c in plan.table.columns},
    }


@contextmanager
def open_first_read(connector: SnowflakeConnector, plan: WindowPlan) -> Iterator[TableRead]:
    """The full read that the changes build on: its snapshot is where they begin."""
    from assets.sources.snowflake import SnowflakeRead

    table = plan.table
    with connector.session(f"{connector.name}/{table.name}") as opened:
        snapshot = open_snapshot(opened, connector.database, table)
        require_followable(opened, connector, table, plan.key, snapshot)
        read = SnowflakeRead(connector, opened, table, snapshot, table.columns)
        read.key = plan.key
        read.high = snapshot.statement
        position = _position(connector, plan, snapshot, snapshot.position)
        read.watermark = Watermark(value=snapshot.statement, position=position)
        yield read


class SnowflakeChangeRead(ChangeRead):
    """What differs between the last sync's statement and this one's."""

    reader = "changes clause"

    def __init__(
        self,
        connector: SnowflakeConnector,
        opened: SnowflakeConnection,
        plan: WindowPlan,
        snapshot: Snapshot,
    ) -> None:
        import pyarrow as pa

        from assets.sources.snowflake_arrow import ArrowParser

        assert plan.previous is not None
        self._connector, self._opened, self._plan, self._snapshot = connector, opened, plan, snapshot
        self._previous = plan.previous
        before = plan.previous.position
        self._last = max(int(before["last"]), self._previous.newest, snapshot.position)
        self._first = self._last
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in plan.table.columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        where = f"{connector.name}/{plan.table.name}"
        self._parser = ArrowParser(where, plan.table.columns, self.schema, plan.key)
        self.low, self.high = str(before["statement"]), snapshot.statement

    def batches(self) -> Iterator[ChangeBatch]:
        from snowflake.connector import errors

        from assets.sources.snowflake_arrow import result_batches

        with closing(self._opened.cursor()) as cursor:
            try:
                cursor.execute(changes_query(self._connector, self._plan, self.low or "", self.high or ""))
            except errors.ProgrammingError as error:
                raise self._explained(error) from None
            for *arrays, actions in result_batches(cursor):
                yield from self._split(self._parser.batch(arrays), actions)

    def _split(self, batch: pa.RecordBatch, actions: pa.Array) -> Iterator[ChangeBatch]:
        import pyarrow as pa

        pc = arrow_compute()
        for action, op in (("DELETE", "d"), ("INSERT", "u")):
            changed = batch.filter(pc.equal(actions, action))
            if changed.num_rows:
                first = self._last + 1
                self._last += changed.num_rows
                yield ChangeBatch(changed, op, pa.array(range(first, self._last + 1), pa.int64()))

    def _explained(self, error: Any) -> Exception:
        table = self._plan.table.name
        text = scrubbed(str(error.msg or error), self._connector.config)
        if (
            error_number(error) in TIME_TRAVEL_LOST
            or "change tracking" in text.lower()
            or "time travel" in text.lower()
        ):
            return StreamLostError(
                f"the changes since the last sync are not kept any more: {text}",
                where=f"{self._connector.name}/{table}",
                remedy=reset_command(self._connector.name, table),
            )
        return error

    @property
    def truncates(self) -> Sequence[int]:
        return ()  # a truncated table's rows come as deletes

    @property
    def watermark(self) -> Watermark:
        age = timedelta(microseconds=self._snapshot.position - int(self._previous.position["clock"]))
        position = _position(self._connector, self._plan, self._snapshot, self._last)
        same = position["columns"] == self._previous.position["columns"]
        if self._last == self._first and same and age < UNMOVED:
            return self._previous
        return Watermark(value=self._snapshot.statement, position=position)

    def source_rows(self) -> int:
        table = self._plan.table
        place = relation(self._connector.database, table.schema_name, table.table_name)
        ((count,),) = rows(self._opened, f"SELECT COUNT(*) FROM {place}{self._snapshot.at}{_filtered(table)}")
        return int(count)

    @property
    def unfit_values(self) -> int:
        return self._parser.unfit_values


@contextmanager
def open_changes(connector: SnowflakeConnector, plan: WindowPlan) -> Iterator[ChangeRead]:
    """See ``Connector.open_changes``."""
    assert plan.previous is not None
    table = plan.table
    with connector.session(f"{connector.name}/{table.name}") as opened:
        snapshot = open_snapshot(opened, connector.database, table)
        require_followable(opened, connector, table, plan.key, snapshot)
        _require_same(opened, connector, plan, snapshot)
        yield SnowflakeChangeRead(connector, opened, plan, snapshot)


def _require_same(
    opened: SnowflakeConnection, connector: SnowflakeConnector, plan: WindowPlan, snapshot: Snapshot
) -> None:
    """Refuse to go on where changes may have been made that the clause does not tell.

    Raises:
        StreamLostError: another account, database or table.
        SchemaChangedError: a column was retyped, or added with a default.
    """
    assert plan.previous is not None
    before = plan.previous.position
    where = f"{connector.name}/{plan.table.name}"
    remedy = reset_command(connector.name, plan.table.name)
    for name, now, told in (
        (STREAM, CLAUSE, "the table was followed in another way"),
        ("account", snapshot.account, "the account is another one"),
        ("database", connector.database, "the database is another one"),
        ("created", snapshot.created, "the table was dropped and created again"),
    ):
        if before.get(name) != now:
            raise StreamLostError(f"{told} since the last sync", where=where, remedy=remedy)
    known: dict[str, str] = before["columns"]
    for column in plan.table.columns:
        if known.get(column.name, column.source_type) != column.source_type:
            raise SchemaChangedError(
                f"the type of column {column.name} changed since the last sync", where=where, remedy=remedy
            )
    added = [c.name for c in plan.table.columns if c.name not in known]
    if not added:
        return
    query = (
        f"SELECT column_name FROM {quoted(connector.database)}.information_schema.columns "
        f"WHERE table_schema = {literal(plan.table.schema_name)} AND table_name = {literal(plan.table.table_name)} "
        "AND column_default IS NOT NULL"
    )
    defaults = {name for (name,) in rows(opened, query)}
    if filled := [name for name in added if exact(name) in defaults]:
        raise SchemaChangedError(
            f"column {filled[0]} was added with a default: no change tells its value in the rows before",
            where=where,
            remedy=remedy,
        )
