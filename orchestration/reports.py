"""What the Python API returns and the command line prints with ``--json``: the same objects, the same fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, computed_field

from assets.catalog.records import ConnectorRecord, RunRecord
from assets.sync import CheckResult, Model, SourceTable, TableResult, VerifyLevel, VerifyResult, WriteMode
from assets.sync_plan import TablePlan
from orchestration.stack_record import StackRecord

_LEFT_OUT_OF_JSON = {"columns", "column_names", "window_low", "window_high"}


class Window(Model):
    """The window ``(low, high]`` that was read, as the cursor's exact text; None without a cursor."""

    low: str | None = None
    high: str | None = None


class SyncedTable(TableResult):
    """What ``sync`` did to one table, and whether the destination is proven equal to the source."""

    @computed_field
    @property
    def window(self) -> Window:
        return Window(low=self.window_low, high=self.window_high)

    @classmethod
    def of(cls, result: TableResult) -> SyncedTable:
        return cls.model_validate({name: getattr(result, name) for name in TableResult.model_fields})

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=_LEFT_OUT_OF_JSON)


class SyncReport(Model):
    """One call of ``sync``. Iterating yields its tables.

    ``waited`` is false where the sync goes on in the background; ``tables`` is empty then.
    """

    connector: str
    run_group: str
    pipeline: str | None = None
    waited: bool = True
    workflow_ids: tuple[str, ...] = ()
    tables: tuple[SyncedTable, ...] = ()

    def __iter__(self) -> Iterator[SyncedTable]:  # type: ignore[override]
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def ok(self) -> bool:
        return all(table.status != "failed" for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"tables"}) | {"tables": [t.to_json() for t in self.tables]}


class SyncProgress(Model):
    """How far a sync is: tables that ended, of how many, and what goes on now, a line for each."""

    done: int
    total: int
    lines: tuple[str, ...] = ()


Progress = Callable[[SyncProgress], None]
PLANNED_RUN = "planned-run"
"""Stands in a plan for the run group."""


class VerifyReport(Model):
    """``verify`` of several tables, for the command line."""

    connector: str
    level: VerifyLevel
    equal: bool
    tables: tuple[VerifyResult, ...]


class PlanReport(Model):
    """What a sync would do, before anything runs. Iterating yields its tables."""

    connector: str
    lakehouse: str
    tables: tuple[TablePlan, ...] = ()

    def __iter__(self) -> Iterator[TablePlan]:  # type: ignore[override]
        return iter(self.tables)

    @computed_field
    @property
    def rows(self) -> int:
        """Estimated rows to read, of the tables whose estimate is known."""
        return sum(table.rows or 0 for table in self.tables)

    @computed_field
    @property
    def bytes(self) -> int:
        return sum(table.bytes or 0 for table in self.tables)

    @computed_field
    @property
    def statements(self) -> int:
        """Statements on the lakehouse."""
        return sum(len(table.lakehouse_statements) for table in self.tables)


class ConnectorTest(Model):
    """A connection test: each prerequisite in turn, and the connector's status after it."""

    connector: str
    ok: bool
    checks: tuple[CheckResult, ...]
    record: ConnectorRecord | None = None


class Discovery(Model):
    """The tables that a connector finds, for the command line."""

    connector: str
    tables: tuple[SourceTable, ...]


class TableInfo(Model):
    """Where a synced table is and how fresh. ``rows`` are live rows of Silver; ``last_run`` is when it last ran."""

    connector: str
    table: str
    bronze_uri: str | None = None
    silver_uri: str | None = None
    rows: int | None = None
    watermark: str | None = None
    last_run: datetime | None = None
    last_status: str | None = None
    last_run_group: str | None = None
    last_error: str | None = None
    equal: bool | None = Field(default=None, description="what the last successful sync proved")
    write: WriteMode = "merge"
    quarantine_uri: str | None = None
    quarantined_values: int = Field(default=0, description="rows of the quarantine table")


class StatusReport(Model):
    """The installation at a glance."""

    home: Path
    running: bool
    stack: StackRecord | None = None
    connectors: dict[str, int] = Field(default_factory=dict, description="how many of each status")
    pipelines: dict[str, int] = Field(default_factory=dict, description="how many are active and paused")
    open_runs: tuple[RunRecord, ...] = ()
    recent_runs: tuple[RunRecord, ...] = ()


class DoctorReport(Model):
    """What the installation needs, each tried."""

    ok: bool
    checks: tuple[CheckResult, ...]


__all__ = [
    "PLANNED_RUN",
    "ConnectorTest",
    "Discovery",
    "DoctorReport",
    "PlanReport",
    "Progress",
    "StatusReport",
    "SyncProgress",
    "SyncReport",
    "SyncedTable",
    "TableInfo",
    "VerifyReport",
    "Window",
]
