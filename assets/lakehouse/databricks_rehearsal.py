"""The Databricks engine without effects: state is read from the warehouse, everything else is only written down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from assets.lakehouse import databricks_sql as sql
from assets.lakehouse.databricks import DatabricksLakehouse, _Known, stored_state
from assets.lakehouse.databricks_sql import Statement
from assets.lakehouse.interface import PartWriter, TableId
from assets.lakehouse.rehearsal import NoParts, Rehearsal
from assets.lakehouse.sql_warehouse import SqlWarehouse
from assets.sync import Watermark
from assets.sync_plan import PlannedStatement

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = re.compile(r"\b(?:FROM|INTO|TABLE)(?: IF EXISTS)? ((?:`(?:[^`]|``)+`\.){2}`(?:[^`]|``)+`)")


class RecordedWarehouse(SqlWarehouse):
    """Runs what reads a state, as the plan depends on it; records every statement."""

    def __init__(self, real: SqlWarehouse, planned: list[PlannedStatement]) -> None:
        self._real, self._planned, self.id = real, planned, real.id

    def record(self, text: str) -> None:
        found = _NAMED.search(text)
        table = found[1].replace("`", "") if found else ""
        self._planned.append(PlannedStatement(table=table, text=text, writes=not text.startswith("SELECT")))

    def run(self, sql: str, parameters: Mapping[str, str | None] | None = None) -> list[list[str | None]]:
        self.record(sql)
        return self._real.run(sql, parameters) if sql.startswith("SELECT") else []

    def stream(self, sql: str, parameters: Mapping[str, str | None] | None = None) -> Iterator[pa.RecordBatch]:
        self.record(sql)
        return iter(())


class DatabricksRehearsal(Rehearsal, DatabricksLakehouse):
    """Args: real: what is rehearsed."""

    warehouse: RecordedWarehouse

    def __init__(self, real: DatabricksLakehouse) -> None:
        super().__init__(
            real.connection, real.warehouse, real.catalog, real._staging, volume=real.volume, prefix=real.prefix
        )
        self.warehouse = RecordedWarehouse(real.warehouse, self.planned)
        self.real = real
        self._made: dict[TableId, str] = {}
        self._made_columns: dict[TableId, dict[str, str]] = {}
        self._next = ""

    def prepare(self, layer: str = "") -> None:
        return

    def part_uri(self, connector: str, table: str, run_group: str, attempt: int, stream: str) -> str:
        return f"{self._staging.folder(connector, table, run_group)}/{stream}-a{attempt}/part-0.parquet"

    def _writer(self, folder: str, schema: pa.Schema) -> PartWriter:
        return NoParts(f"{folder}/part-0.parquet")

    def _remove_staged(self, folder: str) -> None:
        return

    def _next_state(
        self,
        known: _Known | None,
        tag: str,
        watermark: Watermark | None,
        follows: int | None,
        earlier: Sequence[str] = (),
    ) -> str:
        self._next = super()._next_state(known, tag, watermark, follows, earlier)
        return self._next

    def _read(self, table: TableId, tag: str | None = None) -> _Known | None:
        if tag is not None:  # asked after a commit only
            self._made[table] = self._next
        if table not in self._made:
            return super()._read(table, tag)
        self.warehouse.record(sql.read_state(self._quoted(table), tag).sql)
        known = self._known[table] = _Known(stored_state(self._made[table], 0), {})
        return known

    def _swap(
        self,
        table: TableId,
        known: _Known | None,
        columns: dict[str, str],
        rows: str | None,
        key: Sequence[str],
        tag: str,
        state: str,
    ) -> Statement:
        self._made_columns[table] = columns
        return super()._swap(table, known, columns, rows, key, tag, state)

    def _columns(self, table: TableId) -> dict[str, str]:
        return self._made_columns.get(table) or super()._columns(table)

    def count_live(self, table: TableId) -> int:
        self.warehouse.record(sql.count_live(self._quoted(table)).sql)
        return 0

    def drop(self, table: TableId) -> None:
        self.warehouse.record(sql.drop_table(self._quoted(table)).sql)
