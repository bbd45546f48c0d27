"""Inputs of the six steps' activities: one model each, references only. Shared by workflow and activities."""

from __future__ import annotations

from assets.sync import CommitInfo, Model, Overlap, TableResult, TableSync, WindowPlan


class ExtractInput(Model):
    work: TableSync
    plan: WindowPlan


class ChunkInput(Model):
    """Input of ``extract_chunk``; of ``finish_chunks`` without a number."""

    work: TableSync
    uri: str
    number: int = 0


class CommitInput(Model):
    """Input of ``commit_bronze`` and ``merge_silver``."""

    work: TableSync
    manifest_uri: str


class VerifyInput(Model):
    work: TableSync
    manifest_uri: str
    bronze: CommitInfo
    silver: CommitInfo


class TogetherInput(Model):
    """Input of ``prove_unchanged`` and ``sync_together``: tables of one connector and one run."""

    works: tuple[TableSync, ...]


class RecordInput(Model):
    work: TableSync
    result: TableResult


class FailInput(Model):
    work: TableSync
    error_type: str
    error: str


class SkipInput(Model):
    work: TableSync
    plan: WindowPlan


class SyncTimeouts(Model):
    """What the worker says about its time limits, in seconds, once per workflow (a local activity, so in history)."""

    heartbeat_seconds: float = 60


class StepProgress(Model):
    """Heartbeat details of a step: a hint for people, never the record."""

    step: str
    rows: int = 0
    bytes: int = 0


class TurnRequest(Model):
    """A workflow wants to sync the table after the one that holds it."""

    workflow_id: str
    overlap: Overlap


class TurnAnswer(Model):
    """The table is free, or another one waits for it already."""

    holder_id: str
    refused: bool
