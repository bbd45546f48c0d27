"""What the catalog returns: connectors, pipelines and runs as typed, JSON-ready objects, never with a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from assets.catalog.oauth_state import OAuthState
from assets.sync import Mode, Model, Overlap, TableOptions, TableResult, TableSync

ConnectorStatus = Literal["pending", "active", "error"]
ScheduleKind = Literal["cron", "interval", "changes", "manual"]
RunStatus = Literal["running", "succeeded", "failed", "skipped"]

TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "skipped"})


class ConnectorRecord(Model):
    """A connector. ``config`` is what was given, each secret shown as ``********`` or as its reference."""

    name: str
    type: str
    config: dict[str, Any]
    status: ConnectorStatus
    last_tested_at: datetime | None = None
    last_error: str | None = None
    oauth: OAuthState | None = Field(default=None, description="the access that a person gave, and when it ends")
    created_at: datetime
    updated_at: datetime


class PipelineTable(TableOptions):
    """One table of a pipeline. An option that is not given (or None) follows the pipeline, then the source.

    Serialised with the options that were given, and no other.
    """

    name: str

    @model_validator(mode="before")
    @classmethod
    def _none_is_not_given(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if k in self.model_fields_set}

    def given_options(self) -> dict[str, Any]:
        """The options of its own."""
        return {name: getattr(self, name) for name in self.model_fields_set & TableOptions.model_fields.keys()}


class PipelineRecord(TableOptions):
    """A pipeline: which tables of a connector are synced, how, and when."""

    name: str
    connector: str
    tables: tuple[PipelineTable, ...] = ()
    all_tables: bool = False
    schedule_kind: ScheduleKind = "manual"
    schedule_expression: str | None = Field(default=None, description="five cron fields, or 15m, 2h, 1d")
    overlap: Overlap = "skip"
    deferred: bool = Field(default=False, description="Dagster's run ends when the work is started")
    timezone: str = "UTC"
    active: bool = True
    created_at: datetime
    updated_at: datetime

    @property
    def schedule(self) -> str:
        """As it is written: ``cron:*/5 * * * *``, ``every:15m``, ``changes:5m`` or ``manual``."""
        prefix = {"cron": "cron:", "interval": "every:", "changes": "changes:", "manual": "manual"}[self.schedule_kind]
        return prefix + (self.schedule_expression or "")

    @property
    def interval_seconds(self) -> int | None:
        """Time between two runs, or between two looks at the source; none for cron and manual."""
        from assets.catalog.schedules import interval_seconds

        if self.schedule_kind not in ("interval", "changes") or self.schedule_expression is None:
            return None
        return interval_seconds(self.schedule_expression)

    def table_sync(
        self, table: str, run_group: str, *, trigger: str = "manual", dagster_run_id: str | None = None
    ) -> TableSync:
        """The work of one of its tables, with the table's own options where it has any."""
        own = next((t for t in self.tables if t.name == table), PipelineTable(name=table))
        options = {name: getattr(self, name) for name in TableOptions.model_fields} | own.given_options()
        return TableSync(
            connector=self.connector,
            table=table,
            run_group=run_group,
            pipeline=self.name,
            trigger=trigger,
            dagster_run_id=dagster_run_id,
            **options,
        )


class TableRunRecord(Model):
    """One table in one run. ``result`` is the whole report of a table that ended."""

    run_group: str
    connector: str
    table: str
    mode: Mode | None = None
    status: RunStatus
    window_low: str | None = None
    window_high: str | None = None
    rows_read: int = 0
    rows_bronze: int = 0
    rows_silver: int = 0
    rows_deleted: int = 0
    bytes: int = 0
    equal: bool | None = None
    watermark_before: str | None = None
    watermark_after: str | None = None
    error: str | None = None
    error_type: str | None = None
    workflow_id: str | None = None
    started_at: datetime
    completed_at: datetime | None = None
    result: TableResult | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="what was asked for, of `TableSync`")


class RunRecord(Model):
    """One run of a pipeline or of ``sync``, with its tables."""

    run_group: str
    connector: str
    pipeline: str | None = None
    trigger: str
    status: RunStatus
    workflow_id: str | None = None
    dagster_run_id: str | None = None
    deferred: bool = False
    started_at: datetime
    completed_at: datetime | None = None
    error: str | None = None
    tables: tuple[str, ...] = ()
    table_runs: tuple[TableRunRecord, ...] = ()


class RunSummary(Model):
    """One run as a list shows it: how many of its tables ended how, instead of the tables."""

    run_group: str
    connector: str
    pipeline: str | None = None
    trigger: str
    status: RunStatus
    workflow_id: str | None = None
    dagster_run_id: str | None = None
    deferred: bool = False
    started_at: datetime
    completed_at: datetime | None = None
    error: str | None = None
    table_count: int
    succeeded: int = 0
    failed: int = 0
    rows_read: int = 0


__all__ = [
    "TERMINAL",
    "ConnectorRecord",
    "ConnectorStatus",
    "PipelineRecord",
    "PipelineTable",
    "RunRecord",
    "RunStatus",
    "RunSummary",
    "ScheduleKind",
    "TableRunRecord",
]
