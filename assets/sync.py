"""The models of one table sync. Standard library and pydantic only: workflow files import this module."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["full", "incremental", "cdc"]
RequestedMode = Literal["auto", "full", "incremental", "cdc"]
Deletes = Literal["none", "keys"]
VerifyLevel = Literal["counts", "keys", "values"]
WriteMode = Literal["merge", "append", "replace", "scd2"]
"""How Silver is kept: one current row a key, every change, exactly the last full read, or every version of a row."""
DriftPolicy = Literal["evolve", "freeze", "quarantine"]
"""What happens when the source's columns change: follow, refuse, or follow and set aside the rows that do not fit."""
Status = Literal["succeeded", "failed", "skipped"]
Layer = Literal["bronze", "silver", "gold", "quarantine"]
Overlap = Literal["skip", "queue_one", "cancel_other"]
"""What a sync does when another one holds its table: leave it, be the one that follows it, or take its place."""


Tracking = Literal["row_versions", "cursor", "objects", "none"]
"""How changes of a table can be told: by row versions or a cursor column (both need a key), by the identity of whole
objects (files; needs no cursor), or not at all (then it is read in full)."""


STREAM = "stream"
"""Key in the position of a watermark that is a place in the source's log of changes (mode ``cdc``)."""


class Model(BaseModel):
    """Base of all models that cross a process boundary."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnChoice(Model):
    """Which columns of a table are synced, and which only in a protected form. Source names.

    ``hash`` stores a keyed hash (HMAC-SHA-256, key from the installation's secrets: equal values stay equal, so joins
    work), ``mask`` a fixed text. What is excluded, or hashed or masked, never leaves the source reader.
    """

    include: tuple[str, ...] = Field(default=(), description="only these; empty: all")
    exclude: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_one_thing_of_a_column(self) -> ColumnChoice:
        protected = [*self.hash, *self.mask]
        named = [*protected, *self.exclude]
        twice = sorted({name for name in named if named.count(name) > 1} | {*self.include} & {*self.exclude})
        twice += sorted({*protected} - {*self.include}) if self.include else []
        if twice:
            raise ValueError(f"columns with contradicting choices: {', '.join(twice[:10])}")
        return self


class TableOptions(Model):
    """How one table is synced: the same options on a sync, on a pipeline, and on a table of a pipeline.

    ``write``, ``drift``, ``columns`` and ``row_filter`` are recorded in the stored table, and None means: as the table
    is already; for a new one ``merge``, ``evolve``, all columns, all rows. So a sync by hand keeps a pipeline's choice.
    """

    mode: RequestedMode = "auto"
    cursor: str | None = None
    key: tuple[str, ...] | None = None
    deletes: Deletes = "none"
    verify: VerifyLevel = "counts"
    write: WriteMode | None = None
    drift: DriftPolicy | None = None
    columns: ColumnChoice | None = None
    row_filter: str | None = Field(default=None, description="such as: region = 'EU' and amount > 10; empty: all rows")
    fill_added: bool = Field(
        default=False, description="a column that was added at the source is also read for the rows stored before"
    )


class Backfill(Model):
    """A range of cursor values to read again, both ends included, without moving the watermark; None: open."""

    low: str | None = None
    high: str | None = None


class TableSync(TableOptions):
    """The work of one table sync: references only, never rows or secrets. Input of ``DataSourceSyncWorkflow``.

    ``table`` is the name as ``discover`` prints it (``schema.table``). ``run_group`` identifies the work: two
    executions with one run group have one effect.
    """

    connector: str
    table: str
    run_group: str
    backfill: Backfill | None = None
    reset: bool = Field(default=False, description="start the table anew: full read, new watermark, one atomic swap")
    pipeline: str | None = None
    trigger: str = "manual"
    dagster_run_id: str | None = None


class Column(Model):
    """One source column under the type contract (``assets/types.py``, ``docs/types.md``).

    ``source_type`` is the source's own full type text (``numeric(12,2)``); ``arrow_type`` is the contract's type as
    text (``decimal128(12, 2)``), parsed by ``assets.types.arrow_type``; ``rule`` names the contract's rule.
    """

    name: str
    source_type: str
    arrow_type: str
    rule: str = "typed"
    nullable: bool = True
    id: str | None = Field(default=None, description="stays when the column is renamed, where the source has such")


class SourceTable(Model):
    """A table as ``discover`` finds it."""

    name: str = Field(description="schema.table, as every command takes it")
    schema_name: str
    table_name: str
    kind: Literal["table", "partitioned", "view", "materialized_view", "foreign", "files", "endpoint"] = "table"
    tracks: Tracking = "cursor"
    columns: tuple[Column, ...] = ()
    primary_key: tuple[str, ...] = ()
    cursor_candidates: tuple[str, ...] = ()
    estimated_rows: int | None = None
    estimated_bytes: int | None = None
    refusal: str | None = Field(default=None, description="why this table cannot be synced, if it cannot")
    left_out: tuple[str, ...] = Field(default=(), description="columns that no table holds, with their types: not read")
    limited: str = Field(default="", description="why this login cannot see all rows, where the source tells it")
    row_filter: str = Field(default="", description="only these rows: ``assets.row_filter``; set for a read")
    filter_read: bool = Field(default=False, description="the filter is applied to what was read, at no source")
    sampled: bool = Field(default=False, description="columns are those of some of its files: reading tells the others")

    @property
    def by_default(self) -> bool:
        """Whether "all tables" means this one too: what only shows other tables' rows is read when it is named."""
        return self.kind not in ("view", "materialized_view", "foreign")


class TableShape(Model):
    """What decides the content of a stored table. Part of the watermark, so committed with the data.

    A run that wants another ``write``, ``columns`` or ``key`` reads the table in full and starts Silver anew: that
    run's tag is the ``epoch``. Another ``row_filter`` reads in full.
    """

    write: WriteMode = "merge"
    drift: DriftPolicy = "evolve"
    columns: ColumnChoice = ColumnChoice()
    row_filter: str = ""
    filter_read: bool = Field(
        default=False, description="mode cdc: the filter is applied to what was read, as to what the log tells"
    )
    key: tuple[str, ...] = ()
    hash_key: str | None = Field(default=None, description="fingerprint of the key of hashed columns")
    epoch: str = Field(default="", description="tag of the run that started the table")
    seen: tuple[Column, ...] = Field(default=(), description="all columns of the source when it was last read")
    kept: tuple[Column, ...] = Field(default=(), description="columns that left the source and stay in the table")
    converts: dict[str, str] = Field(
        default_factory=dict, description="columns that the source retyped -> the stored type they are kept in"
    )
    filled: tuple[str, ...] = Field(default=(), description="added columns that the last run read for the rows before")
    renamed: dict[str, str] = Field(
        default_factory=dict, description="earlier name -> name now, of columns that a choice may still call by it"
    )


class Watermark(Model):
    """How far a table was read. Committed in the Bronze table itself, in the commit that adds the data.

    ``value`` is the cursor's exact text in the source's own ISO form, never a float. ``position`` is the source's own
    state (PostgreSQL: system identifier, snapshot xmax, transactions in flight): see
    ``assets/sources/postgres_snapshot.py``.
    """

    cursor: str | None = None
    cursor_type: str | None = None
    value: str | None = None
    base_run: str | None = Field(default=None, description="tag of the full load that the table's changes build on")
    position: dict[str, Any] = Field(default_factory=dict)
    newest: int = Field(default=0, description="greatest ``_headrace_position`` so far; later rows get greater ones")
    shape: TableShape | None = None


class WindowPlan(Model):
    """Result of step 1, open window: what step 2 will read."""

    table: SourceTable
    mode: Mode
    tag: str = Field(default="", description="the commit tag: the run group, numbered if an earlier try committed")
    reason: str = Field(default="", description="why this mode, in words for the user")
    key: tuple[str, ...] = ()
    cursor: str | None = None
    previous: Watermark | None = None
    low: str | None = None
    captures: bool = Field(default=False, description="mode cdc: the watermark is a position in the source's log")
    skip: str | None = Field(default=None, description="why there is nothing to do, if there is nothing")
    chunked: bool = Field(default=False, description="read in chunks, one activity each")
    shape: TableShape = TableShape()
    backfill: Backfill | None = None
    drift: tuple[str, ...] = Field(default=(), description="how the source's columns changed, in words")
    base_tag: str | None = Field(default=None, description="Bronze's newest tag when this began; None: not compared")

    @property
    def newest(self) -> int:
        """The greatest position of the rows that are stored."""
        return self.previous.newest if self.previous else 0


class Chunk(Model):
    """A piece of a large read. ``where`` is the connector's own: a range of pages or keys, partitions, files."""

    id: str
    where: dict[str, Any] = Field(default_factory=dict)


class ChunkedRead(Model):
    """Result of ``begin_chunks``: where the chunks are written down. Only their numbers travel through Temporal."""

    uri: str
    chunks: int
    parallel: int = Field(default=2, ge=1, description="chunks read at once")


class Part(Model):
    """One finished Parquet file."""

    uri: str
    rows: int
    bytes: int


class ChunkRead(Model):
    """One chunk, read and staged. ``state`` is what it was read in: equal states hold the same content."""

    chunk: Chunk
    state: dict[str, Any]
    found: dict[str, Any] = Field(default_factory=dict, description="what else the connector learned by reading it")
    parts: tuple[Part, ...] = ()
    rows: int = 0
    bytes: int = 0
    high: str | None = Field(default=None, description="greatest cursor in it that is not dated in the future")
    future_rows: int = 0
    unfit_values: int = 0
    reader: str = ""
    unforeseen: bool = Field(default=False, description="what it holds has columns that a plan by a sample lacks")


class Manifest(Model):
    """What step 2 extracted, written last into the staging folder; only its URI travels through Temporal."""

    connector: str
    table: str
    run_group: str
    tag: str
    attempt: int
    mode: Mode
    reason: str = ""
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    parts: tuple[Part, ...] = ()
    deletes: tuple[Part, ...] = Field(default=(), description="parts with the keys that left the source")
    fills: tuple[Part, ...] = Field(default=(), description="parts with keys and the values of added columns")
    quarantined: tuple[Part, ...] = Field(default=(), description="parts of the quarantine table")
    low: str | None = None
    high: str | None = None
    previous: Watermark | None = None
    watermark: Watermark | None = None
    source_rows: int | None = Field(default=None, description="rows of the whole table in the snapshot that was read")
    rows_read: int = 0
    rows_deleted: int = 0
    future_rows: int = 0
    unfit_values: int = Field(default=0, description="values kept as text in _headrace_unfit")
    bytes_read: int = 0
    reader: str = ""
    shape: TableShape = TableShape()
    backfill: Backfill | None = None
    rows_filled: int = 0
    rows_quarantined: int = 0
    drift: tuple[str, ...] = ()
    base_tag: str | None = None


class CommitInfo(Model):
    """One atomic commit, or the earlier one found by its tag."""

    version: int
    rows_added: int = 0
    rows_removed: int = 0
    bytes_added: int = 0
    rows_total: int = 0
    repeated: bool = False


class TableResult(Model):
    """What ``sync`` reports for one table; also the result of ``DataSourceSyncWorkflow``."""

    connector: str
    table: str
    status: Status
    mode: Mode | None = None
    reason: str = ""
    key: tuple[str, ...] = ()
    rows_read: int = 0
    rows_bronze: int = 0
    rows_silver: int = 0
    rows_deleted: int = 0
    window_low: str | None = None
    window_high: str | None = None
    watermark_before: str | None = None
    watermark_after: str | None = None
    bytes: int = 0
    equal: bool | None = None
    error: str | None = None
    error_type: str | None = None
    workflow_id: str | None = None
    run_group: str | None = None
    bronze_uri: str | None = None
    silver_uri: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    columns: tuple[Column, ...] = ()
    column_names: dict[str, str] = Field(default_factory=dict, description="source column -> Silver column")
    unfit_values: int = 0
    future_rows: int = 0
    write: WriteMode = "merge"
    drift: tuple[str, ...] = Field(default=(), description="how the source's columns changed, in words")
    rows_quarantined: int = 0
    quarantine_uri: str | None = None


class Together(Model):
    """What one step did with many tables: each is in one of the three."""

    results: tuple[TableResult, ...] = ()
    small: tuple[str, ...] = Field(default=(), description="to be synced, many in one step")
    left: tuple[str, ...] = Field(default=(), description="to be synced by a workflow of their own")


class CheckResult(Model):
    """One prerequisite of a connector, tried."""

    name: str
    ok: bool
    detail: str = ""
    fix: str = Field(default="", description="the exact statement or setting that fixes it")
    seconds: float = 0.0


class VerifyResult(Model):
    """The destination compared with the source now."""

    connector: str
    table: str
    level: VerifyLevel
    equal: bool | None
    source_rows: int | None = None
    silver_rows: int | None = None
    missing_keys: tuple[str, ...] = Field(default=(), description="in the source, not in Silver (JSON text, limited)")
    extra_keys: tuple[str, ...] = ()
    differing_keys: tuple[str, ...] = ()
    missing: int = 0
    extra: int = 0
    differing: int = 0
    detail: str = ""
