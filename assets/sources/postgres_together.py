"""Many tables of one PostgreSQL database, read in one snapshot on one connection."""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import explain
from assets.sources.postgres_read import PostgresRead
from assets.sources.postgres_snapshot import WRAPAROUND, age_of, among, not_seen, open_snapshot
from assets.sync import SourceTable, WindowPlan

if TYPE_CHECKING:
    import psycopg

    from assets.sources.postgres_snapshot import SnapshotPosition

ASKED_AT_ONCE = 40


class SharedPostgres(PostgresConnector):
    """A connector whose reads of the named tables share one snapshot. A read that fails has the next one begin anew."""

    def __init__(self, source: PostgresConnector, opened: psycopg.Connection[Any], tables: Sequence[str]) -> None:
        super().__init__(source.name, source.config)
        self.home, self.secret_store = source.home, source.secret_store
        self._opened, self._names = opened, list(tables)
        self._position: SnapshotPosition | None = None
        self._listed: dict[str, tuple[int, SourceTable]] = {}

    def _shared(self) -> SnapshotPosition:
        """Begin the snapshot, and list the tables as they are in it. A table that is gone is not listed."""
        from assets.sources.postgres_catalogue import list_tables

        if self._position is None:
            self._position = open_snapshot(self._opened)
            try:
                found = list_tables(self._opened, self.name, None, self._names)
            except NotFoundError:
                every = list_tables(self._opened, self.name, None, None)
                present = [table.name for _, table in every if table.name in set(self._names)]
                found = list_tables(self._opened, self.name, None, present)
            self._listed = {table.name: (oid, table) for oid, table in found}
        return self._position

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        if tables is None:
            return super().discover(None)
        self._shared()
        return [self._table(name)[1] for name in tables]

    def _table(self, name: str) -> tuple[int, SourceTable]:
        if name not in self._listed:
            raise NotFoundError(
                f"no such table, or no right to see it: {name}",
                where=self.name,
                remedy=f"Run: headrace connectors discover {self.name}",
            )
        return self._listed[name]

    @contextmanager
    def _snapshot(
        self, table: SourceTable, shared: str | None = None, captured_by: Sequence[str] | None = None
    ) -> Iterator[PostgresRead]:
        import psycopg

        if shared or captured_by is not None:
            with super()._snapshot(table, shared, captured_by) as read:
                yield read
            return
        try:
            position = self._shared()
            with closing(PostgresRead(self, self._opened, table, position, self._table(table.name)[0])) as read:
                yield read
        except psycopg.Error as error:
            raise explain(error, f"{self.name}/{table.name}", self.config) from None
        finally:
            self._begin_anew_after_an_error()

    def _begin_anew_after_an_error(self) -> None:
        import psycopg

        status = self._opened.info.transaction_status
        if status != psycopg.pq.TransactionStatus.INTRANS:
            self._position = None
            if not self._opened.closed and not self._opened.broken:
                with suppress(psycopg.Error):
                    self._opened.execute("ROLLBACK")

    def unchanged(self, plans: Sequence[WindowPlan]) -> dict[str, int]:
        found: dict[str, int] = {}
        position = self._shared()
        plain = [plan for plan in plans if self._comparable(plan, position)]
        for start in range(0, len(plain), ASKED_AT_ONCE):
            found |= self._ask(plain[start : start + ASKED_AT_ONCE])
        return found

    def _comparable(self, plan: WindowPlan, now: SnapshotPosition) -> bool:
        """Whether the watermark is of this very table, and nothing was in flight when it was taken."""
        if plan.mode != "incremental" or plan.previous is None or plan.table.name not in self._listed:
            return False
        then = plan.previous.position
        same = (then.get("system"), then.get("database"), then.get("table")) == (
            now.system,
            now.database,
            self._listed[plan.table.name][0],
        )
        kind = self.cursor_kind(plan.table, plan.cursor) if plan.cursor else None
        return same and not then["others"] and not then["in_flight"] and plan.previous.cursor_type == kind

    def _ask(self, plans: Sequence[WindowPlan]) -> dict[str, int]:
        """One statement for all; a table that may not be read leaves them all to be read one by one."""
        import psycopg
        from psycopg import sql

        position = self._shared()
        asked = []
        for number, plan in enumerate(plans):
            assert plan.previous is not None
            read = PostgresRead(self, self._opened, plan.table, position, self._listed[plan.table.name][0])
            table = sql.Identifier(plan.table.schema_name, plan.table.table_name)
            new = among(plan.previous, not_seen(plan.previous.position))
            asked.append(
                sql.SQL(
                    "SELECT {number}, (SELECT count(*) FROM {table} WHERE {wanted}), {age}, "
                    "EXISTS (SELECT 1 FROM {table} WHERE {wanted} AND {new})"
                ).format(
                    number=sql.Literal(number),
                    table=table,
                    wanted=read.wanted,
                    age=age_of(plan.previous.position),
                    new=new,
                )
            )
        try:
            rows = self._opened.execute(sql.SQL(" UNION ALL ").join(asked)).fetchall()
        except psycopg.Error:
            self._begin_anew_after_an_error()
            return {}
        return {
            plans[number].table.name: count for number, count, age, new in rows if 0 <= age <= WRAPAROUND and not new
        }
