"""One installation with one connector of any type, the six steps called in a row, without Temporal."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from assets.lakehouse.interface import DELETED_AT, TableId
from assets.settings import Settings
from assets.steps import SyncSteps
from assets.sync import SourceTable, TableResult, TableSync, VerifyLevel, VerifyResult
from assets.verify import verify_table


class SourceInstallation:
    """``src`` is the connector; ``sync``, ``verify``, ``silver`` and ``bronze`` take a table's name."""

    def __init__(self, home: Path, type: str, config: dict[str, Any], **settings: Any) -> None:
        self.settings = Settings(home=home, **settings)
        self.steps = SyncSteps.from_settings(self.settings)
        self.type = type
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        self.steps.catalog.add_connector("src", self.type, config, replace=True)

    def discover(self, table: str) -> SourceTable:
        return self.steps.catalog.connector("src").discover([table])[0]

    def types(self, table: str) -> dict[str, str]:
        return {c.name: c.arrow_type for c in self.discover(table).columns if c.rule != "metadata"}

    def sync(self, table: str, **options: Any) -> TableResult:
        work = self.work(table, **options)
        plan = self.steps.open_window(work)
        return self.finish(work, self.steps.extract(work, plan, 1))

    def work(self, table: str, **options: Any) -> TableSync:
        options = {"run_group": f"run-{uuid.uuid4().hex[:12]}"} | options
        return TableSync.model_validate({"connector": "src", "table": table} | options)

    def finish(self, work: TableSync, manifest: str) -> TableResult:
        """The steps after the extraction."""
        bronze = self.steps.commit_bronze(work, manifest)
        silver = self.steps.merge_silver(work, manifest)
        return self.steps.record(work, self.steps.verify(work, manifest, bronze, silver))

    def verify(self, table: str, level: VerifyLevel = "values") -> VerifyResult:
        return verify_table(self.steps, "src", table, level)

    def silver(self, table: str, *columns: str, live: bool = True) -> list[tuple[Any, ...]]:
        """Silver's rows through a plain Delta reader, not through Headrace."""
        uri = self.steps.lakehouse.uri(TableId(layer="silver", connector="src", table=table))
        rows = DeltaTable(uri).to_pyarrow_table().to_pylist()
        kept = [row for row in rows if not (live and row.get(DELETED_AT) is not None)]
        return sorted((tuple(row[column] for column in columns) for row in kept), key=repr)

    def bronze_rows(self, table: str) -> int:
        state = self.steps.lakehouse.state(TableId(layer="bronze", connector="src", table=table))
        return state.rows if state else 0
