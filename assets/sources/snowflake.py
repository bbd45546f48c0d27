"""Connector type ``snowflake``: full refresh, incremental reading with a bounded re-read, and the CHANGES clause."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from assets.errors import ConfigurationError, WatermarkError
from assets.oauth import OAuthClient, access_token_of
from assets.sources.interface import UNFIT_COLUMN, ChangeRead, Connector, Remaining, TableRead
from assets.sources.snowflake_connection import Access, SnowflakeConfig, connection, rows
from assets.sources.snowflake_names import exact, folded, quoted, relation
from assets.sources.snowflake_oauth import oauth_client, registration
from assets.sync import CheckResult, Chunk, ChunkRead, Column, SourceTable, Watermark, WindowPlan
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.connector import SnowflakeConnection

    from assets.sources.snowflake_result import StoredResult
    from assets.sources.snowflake_snapshot import Snapshot

GRANTS = """\
CREATE ROLE IF NOT EXISTS HEADRACE;
CREATE USER IF NOT EXISTS HEADRACE TYPE = SERVICE RSA_PUBLIC_KEY = '...' DEFAULT_ROLE = HEADRACE;
GRANT ROLE HEADRACE TO USER HEADRACE;
GRANT USAGE ON WAREHOUSE LOAD_WH TO ROLE HEADRACE;
GRANT USAGE ON DATABASE SHOP TO ROLE HEADRACE;
GRANT USAGE ON ALL SCHEMAS IN DATABASE SHOP TO ROLE HEADRACE;
GRANT USAGE ON FUTURE SCHEMAS IN DATABASE SHOP TO ROLE HEADRACE;
GRANT SELECT ON ALL TABLES IN DATABASE SHOP TO ROLE HEADRACE;
GRANT SELECT ON FUTURE TABLES IN DATABASE SHOP TO ROLE HEADRACE;
GRANT SELECT ON ALL VIEWS IN DATABASE SHOP TO ROLE HEADRACE;
GRANT SELECT ON FUTURE VIEWS IN DATABASE SHOP TO ROLE HEADRACE;
-- for cdc, each table's owner:
ALTER TABLE SHOP.PUBLIC.ORDERS SET CHANGE_TRACKING = TRUE;
-- for a person's login (oauth), an account administrator; it tells the client id and secret:
CREATE SECURITY INTEGRATION HEADRACE TYPE = OAUTH ENABLED = TRUE
  OAUTH_CLIENT = CUSTOM OAUTH_CLIENT_TYPE = 'CONFIDENTIAL'
  OAUTH_REDIRECT_URI = '<address of Headrace>/headrace/oauth/callback' OAUTH_ENFORCE_PKCE = TRUE
  OAUTH_ISSUE_REFRESH_TOKENS = TRUE OAUTH_REFRESH_TOKEN_VALIDITY = 7776000;
SELECT SYSTEM$SHOW_OAUTH_CLIENT_SECRETS('HEADRACE');
"""


class SnowflakeRead(TableRead):
    """One table in one snapshot."""

    def __init__(
        self,
        connector: SnowflakeConnector,
        opened: SnowflakeConnection,
        table: SourceTable,
        snapshot: Snapshot,
        columns: Sequence[Column],
    ) -> None:
        import pyarrow as pa

        self._connector, self._opened, self._table, self._snapshot = connector, opened, table, snapshot
        self._relation = relation(connector.database, table.schema_name, table.table_name)
        self._where = self._wanted = "TRUE"
        self._columns = columns
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        self.position = snapshot.position
        self.careful = False
        self.reader = "arrow" + (f" (without a snapshot: {snapshot.reason})" if snapshot.reason else "")
        self.low = self.high = None
        self.watermark = None
        self._future = 0
        self._parsers: list[Any] = []
        self._shared: dict[str, str] | None = None
        self._pieces: Callable[[], Iterator[pa.Table]] | None = None
        self.key: tuple[str, ...] = ()

    def _query(self, columns: Sequence[Column], where: str) -> str:
        from assets.sources.snowflake_arrow import selected

        items = ", ".join(selected(c, careful=self.careful) for c in columns)
        return f"SELECT {items} FROM {self._relation}{self._snapshot.at} WHERE {where}"

    @property
    def _place(self) -> str:
        return f"{self._connector.name}/{self._table.name}"

    def _parsed(
        self, columns: Sequence[Column], schema: pa.Schema, found: Iterable[list[pa.Array]]
    ) -> Iterator[pa.RecordBatch]:
        from assets.sources.snowflake_arrow import ArrowParser

        parser = ArrowParser(self._place, columns, schema, self.key)
        self._parsers = [parser]
        for arrays in found:
            yield parser.batch(arrays)

    def _batches(self, columns: Sequence[Column], schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        from assets.sources.snowflake_arrow import result_batches

        with closing(self._opened.cursor()) as cursor:
            cursor.execute(self._query(columns, where))
            yield from self._parsed(columns, schema, result_batches(cursor))

    def filter_rows(self) -> None:
        """Leave out what the table's filter does, as far as the server judges as the filter does."""
        from assets.sources.server_filter import server_condition
        from assets.sources.snowflake_filter import SnowflakeWords

        if self._table.row_filter:
            sent = server_condition(self._table.row_filter, self._table.columns, SnowflakeWords())
            self._where = self._wanted = sent or "TRUE"

    def narrow(self, plan: WindowPlan, kind: str) -> None:
        """Read what may be new since ``plan.previous``: from somewhat before its cursor value on, or all rows."""
        from assets.sources.snowflake_snapshot import all_rows_reason, bound, reread_from

        assert plan.previous is not None
        self.rereads = True
        self.reread_reason = all_rows_reason(plan.previous, kind, self._snapshot)
        if self.reread_reason:
            return
        self.reread_low = reread_from(plan.previous, kind, self._connector.config.overlap_seconds)
        cursor = quoted(exact(plan.cursor or ""))
        self._where = f"({cursor} >= {bound(kind, self.reread_low)} OR {cursor} IS NULL) AND {self._wanted}"

    def fix_window(self, plan: WindowPlan, kind: str | None) -> None:
        """Fix ``high`` in this snapshot: the greatest cursor that does not lie beyond the server's clock."""
        from assets.sources.snowflake_arrow import selected
        from assets.sources.snowflake_snapshot import ZONES, bound, is_time, later, normalized

        previous = plan.previous if plan.mode == "incremental" else None
        snapshot = self._snapshot
        self.low = plan.low
        value = previous.value if previous else None
        if plan.cursor and kind:
            column = next(c for c in self._table.columns if c.name == plan.cursor)
            cursor = quoted(exact(plan.cursor))
            limit, ahead = "", ""
            if is_time(kind):
                latest = snapshot.clock if "UTC" in kind else snapshot.clock + ZONES
                size = 10 if kind.startswith("date") else 26
                limit = f"WHERE {cursor} <= {bound(kind, f'{snapshot.clock:%Y-%m-%d %H:%M:%S.%f}'[:size])}"
                ahead = f"{cursor} > {bound(kind, f'{latest:%Y-%m-%d %H:%M:%S.%f}'[:size])}"
            shown = selected(column).replace(cursor, f"MAX({cursor})", 1)
            ((found,),) = rows(self._opened, f"SELECT {shown} FROM {self._relation}{snapshot.at} {limit}")
            if found is not None:
                text = normalized(kind, str(found))
                if value is None or later(kind, text, value):
                    value = text
            if ahead:
                query = f"SELECT COUNT(*) FROM {self._relation}{snapshot.at} WHERE {ahead} AND {self._where}"
                ((self._future,),) = rows(self._opened, query)
        self.high = value
        position = {"account": snapshot.account, "created": snapshot.created}
        unmoved = previous is not None and previous.value == value and not self.reread_reason
        new = Watermark(cursor=plan.cursor, cursor_type=kind, value=value, position=position)
        self.watermark = previous if unmoved else new

    def batches(self) -> Iterator[pa.RecordBatch]:
        from assets.sources.snowflake_arrow import columns_of

        if self._pieces:
            yield from self._parsed(self._columns, self.schema, columns_of(self._pieces()))
        else:
            yield from self._batches(self._columns, self.schema, self._where)

    @cached_property
    def _result(self) -> StoredResult | None:
        """What the account keeps of this read: its own statement's, or the one it joined; None: that one is lost."""
        from assets.sources.snowflake_result import StoredResult

        if self._shared:
            return StoredResult.joined(self._opened, self._place, self._shared)
        return self._own_result()

    def _own_result(self) -> StoredResult:
        from assets.sources.snowflake_result import StoredResult

        return StoredResult.of(self._opened, self._place, self._query(self._columns, self._where))

    @property
    def state(self) -> Mapping[str, Any]:  # type: ignore[override]
        return self._result.state if self._result else {}

    def share(self) -> str:
        window = {"low": self.low, "high": self.high, "future": self._future, "reader": self.reader}
        watermark = self.watermark.model_dump(mode="json") if self.watermark else None
        snapshot = asdict(self._snapshot) | {"clock": self._snapshot.clock.isoformat()}
        return json.dumps({"result": self.state, "snapshot": snapshot, "watermark": watermark, "window": window})

    def join(self, shared: dict[str, Any]) -> None:
        """Be as the read that shared its result."""
        self._shared = shared["result"]
        window = shared["window"]
        self.low, self.high, self._future, self.reader = (window[x] for x in ("low", "high", "future", "reader"))
        self.watermark = Watermark.model_validate(shared["watermark"]) if shared["watermark"] else None

    def of_chunk(self, chunk: Chunk) -> TableRead:
        part = SnowflakeRead(self._connector, self._opened, self._table, self._snapshot, self._columns)
        part.key, part.reader = self.key, self.reader
        part._pieces = partial(self._result.part, chunk) if self._result else lambda: iter(())
        return part

    def remaining(self, done: Sequence[ChunkRead]) -> list[Remaining]:
        """Where the result is lost, nothing was read of it since, and this read asks for all rows of its snapshot."""
        if self._result is None:
            self._result = self._own_result()
            self.reader += " (its first result was lost)"
        return super().remaining(done)

    def take_over(self, done: Sequence[ChunkRead]) -> None:
        """Nothing is left to fix: the window was fixed before the statement ran."""

    def keys(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        by_name = {c.name: c for c in self._table.columns}
        columns = [by_name[name] for name in self.key]
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in columns]
        schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        for batch in self._batches(columns, schema, "TRUE"):
            yield batch.select(list(self.key))

    def source_rows(self) -> int | None:
        if not self._snapshot.at:
            return None  # rows may have come since
        ((count,),) = rows(self._opened, f"SELECT COUNT(*) FROM {self._relation}{self._snapshot.at}")
        return int(count)

    @property
    def future_rows(self) -> int:
        return self._future

    @property
    def unfit_values(self) -> int:
        return sum(parser.unfit_values for parser in self._parsers)


class SnowflakeConnector(Connector):
    """A database of a Snowflake account."""

    type_name: ClassVar[str] = "snowflake"
    supports_cdc: ClassVar[bool] = True
    Config = SnowflakeConfig
    grants = GRANTS
    config: SnowflakeConfig

    @property
    def database(self) -> str:
        """The database's exact name."""
        return folded(self.config.database)

    @property
    def schemas(self) -> list[str] | None:
        return None if self.config.schemas is None else [folded(name) for name in self.config.schemas]

    def oauth_client(self) -> OAuthClient | None:
        return oauth_client(self.config)

    def oauth_registration(self, redirect_uri: str) -> str:
        return registration(self.config, redirect_uri)

    @property
    def access(self) -> Access | None:
        """Where a person's token comes from, if one logs in."""
        return partial(access_token_of, self) if self.config.oauth else None

    def session(self, where: str) -> AbstractContextManager[SnowflakeConnection]:
        return connection(where, self.config, self.access)

    def check(self) -> list[CheckResult]:
        from assets.sources.snowflake_check import check_snowflake

        return check_snowflake(self)

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        from assets.sources.snowflake_catalogue import list_tables

        with self.session(self.name) as opened:
            return list_tables(opened, self.name, self.database, self.schemas, tables)

    def probe(self, tables: Sequence[str]) -> str:
        from assets.sources.snowflake_probe import change_probe

        with self.session(self.name) as opened:
            return change_probe(opened, self.database, tables)

    def cursor_kind(self, table: SourceTable, cursor: str) -> str:
        """The cursor's contract type.

        Raises:
            ConfigurationError: the column is not there, or its type has no order that can be trusted.
        """
        from assets.sources.snowflake_catalogue import CURSOR_TYPES

        where = f"{self.name}/{table.name}"
        kind = next((c.arrow_type for c in table.columns if c.name == cursor), None)
        if kind is None:
            raise ConfigurationError(
                f"the cursor column {cursor} is not there", where=where, remedy="Correct --cursor."
            )
        if kind not in CURSOR_TYPES and not (kind.startswith("decimal") and kind.endswith(", 0)")):
            raise ConfigurationError(
                f"column {cursor} cannot be a cursor: it is stored as {kind}",
                where=where,
                remedy="Name a timestamp, date or integer column with --cursor.",
            )
        return kind

    @contextmanager
    def _snapshot(self, table: SourceTable, columns: Sequence[Column]) -> Iterator[SnowflakeRead]:
        from assets.sources.snowflake_snapshot import open_snapshot

        with self.session(f"{self.name}/{table.name}") as opened:
            snapshot = open_snapshot(opened, self.database, table)
            yield SnowflakeRead(self, opened, table, snapshot, columns)

    @contextmanager
    def open_read(self, plan: WindowPlan) -> Iterator[TableRead]:
        if plan.captures:
            from assets.sources.snowflake_changes import open_first_read

            with open_first_read(self, plan) as read:
                yield read
            return
        kind = self.cursor_kind(plan.table, plan.cursor) if plan.cursor else None
        if plan.previous and plan.mode == "incremental" and plan.previous.cursor_type != kind:
            raise WatermarkError(
                f"the cursor {plan.cursor} was {plan.previous.cursor_type} and is now {kind}",
                where=f"{self.name}/{plan.table.name}",
                remedy=f"Run: headrace sync {self.name} {plan.table.name} --mode full",
            )
        with self._snapshot(plan.table, plan.table.columns) as read:
            read.key = plan.key
            read.filter_rows()
            if plan.mode == "incremental":
                read.narrow(plan, kind or "")
            read.fix_window(plan, kind)
            yield read

    @contextmanager
    def join_read(self, plan: WindowPlan, snapshot: str) -> Iterator[TableRead]:
        from assets.sources.snowflake_snapshot import Snapshot

        shared = json.loads(snapshot)
        fixed = shared["snapshot"]
        moment = Snapshot(**fixed | {"clock": datetime.fromisoformat(fixed["clock"])})
        with self.session(f"{self.name}/{plan.table.name}") as opened:
            read = SnowflakeRead(self, opened, plan.table, moment, plan.table.columns)
            read.key = plan.key
            read.filter_rows()
            read.join(shared)
            yield read

    def chunks(self, plan: WindowPlan, chunk_bytes: int) -> list[Chunk]:
        from assets.sources.snowflake_result import result_chunks

        return result_chunks(plan.table, chunk_bytes) if plan.mode == "full" else []

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        by_name = {c.name: c for c in table.columns}
        chosen = table.columns if columns is None else [by_name[name] for name in columns]
        with self._snapshot(table, chosen) as read:
            read.careful, read.reader = True, read.reader.replace("arrow", "text", 1)
            if columns is not None:  # a comparison of values trusts no condition at the server
                read.filter_rows()
            yield read

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        from assets.sources.snowflake_changes import open_changes

        return open_changes(self, plan)

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.database_dlt import database_source

        return database_source(self, tables, **options)
