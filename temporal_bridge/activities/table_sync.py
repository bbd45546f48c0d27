"""The six steps of a table sync as Temporal activities: thin, blocking, each effect once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from temporalio import activity

from assets.settings import Settings
from assets.sync import ChunkedRead, CommitInfo, TableResult, TableSync, Together, WindowPlan
from temporal_bridge.activities.error_classification import classified
from temporal_bridge.activities.progress_heartbeat import ProgressHeartbeat
from temporal_bridge.worker_metrics import count
from temporal_bridge.workflows.result_size import MAX_RESULT_BYTES, lean
from temporal_bridge.workflows.step_inputs import (
    ChunkInput,
    CommitInput,
    ExtractInput,
    FailInput,
    RecordInput,
    SkipInput,
    SyncTimeouts,
    TogetherInput,
    VerifyInput,
)
from temporal_bridge.workflows.task_queues import WorkerRole

Progress = Callable[[int, int], None]


class Steps(Protocol):
    """What the activities need; ``assets.steps.SyncSteps`` is it."""

    def open_window(self, work: TableSync, workflow_id: str | None = None) -> WindowPlan: ...
    def extract(self, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress) -> str: ...
    def begin_chunks(self, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress) -> ChunkedRead: ...
    def extract_chunk(self, work: TableSync, uri: str, number: int, attempt: int, progress: Progress) -> int: ...
    def finish_chunks(self, work: TableSync, uri: str, attempt: int, progress: Progress) -> str: ...
    def commit_bronze(self, work: TableSync, manifest_uri: str) -> CommitInfo: ...
    def merge_silver(self, work: TableSync, manifest_uri: str, progress: Progress | None = None) -> CommitInfo: ...
    def verify(
        self,
        work: TableSync,
        manifest_uri: str,
        bronze: CommitInfo,
        silver: CommitInfo,
        progress: Progress | None = None,
    ) -> TableResult: ...
    def record(self, work: TableSync, result: TableResult) -> TableResult: ...
    def fail(self, work: TableSync, error_type: str, error: str) -> TableResult: ...
    def skip(self, work: TableSync, plan: WindowPlan) -> TableResult: ...
    def close_row(self, work: TableSync, result: TableResult) -> None: ...
    def prove_unchanged(self, works: Sequence[TableSync], holder: str, progress: Progress) -> Together: ...
    def sync_together(
        self,
        works: Sequence[TableSync],
        holder: str,
        attempt: int,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> Together: ...


class TableSyncActivities:
    """The activities of one worker, bound to one installation's steps."""

    def __init__(self, steps: Steps, settings: Settings) -> None:
        self._steps = steps
        self._settings = settings

    def of_role(self, role: WorkerRole) -> Sequence[Callable[..., Any]]:
        """The activities that a worker of this role registers, as ``STEP_LIMITS`` sends them."""
        if role == "extract":
            chunks = [self.begin_chunks, self.extract_chunk, self.finish_chunks]
            many = [self.prove_unchanged, self.sync_together]
            return [self.open_window, self.extract, *chunks, self.commit_bronze, self.merge_silver, self.verify, *many]
        return [self.sync_timeouts, self.record, self.fail, self.skip, self.close_row]

    @activity.defn(name="sync_timeouts")
    async def sync_timeouts(self) -> SyncTimeouts:
        """Local activity on the event loop: answers even when all threads are busy."""
        return SyncTimeouts(heartbeat_seconds=self._settings.heartbeat_timeout_seconds)

    @activity.defn(name="open_window")
    @classified
    def open_window(self, work: TableSync) -> WindowPlan:
        with ProgressHeartbeat("open_window", cancellable=True):
            return self._steps.open_window(work, activity.info().workflow_id)

    @activity.defn(name="extract")
    @classified
    def extract(self, extract: ExtractInput) -> str:
        """Cancel arrives as an exception between two batches; the steps abort their open file and pass it on."""
        with ProgressHeartbeat("extract", self._settings.read_silence_seconds, cancellable=True) as progress:
            return self._steps.extract(extract.work, extract.plan, activity.info().attempt, progress)

    @activity.defn(name="begin_chunks")
    @classified
    def begin_chunks(self, extract: ExtractInput) -> ChunkedRead:
        with ProgressHeartbeat("begin_chunks", cancellable=True) as progress:
            return self._steps.begin_chunks(extract.work, extract.plan, activity.info().attempt, progress)

    @activity.defn(name="extract_chunk")
    @classified
    def extract_chunk(self, chunk: ChunkInput) -> int:
        with ProgressHeartbeat("extract_chunk", self._settings.read_silence_seconds, cancellable=True) as progress:
            return self._steps.extract_chunk(chunk.work, chunk.uri, chunk.number, activity.info().attempt, progress)

    @activity.defn(name="finish_chunks")
    @classified
    def finish_chunks(self, chunk: ChunkInput) -> str:
        with ProgressHeartbeat("finish_chunks", cancellable=True) as progress:
            return self._steps.finish_chunks(chunk.work, chunk.uri, activity.info().attempt, progress)

    @activity.defn(name="commit_bronze")
    @classified
    def commit_bronze(self, commit: CommitInput) -> CommitInfo:
        with ProgressHeartbeat("commit_bronze"), activity.shield_thread_cancel_exception():
            return self._steps.commit_bronze(commit.work, commit.manifest_uri)

    @activity.defn(name="merge_silver")
    @classified
    def merge_silver(self, commit: CommitInput) -> CommitInfo:
        with ProgressHeartbeat("merge_silver") as progress, activity.shield_thread_cancel_exception():
            return self._steps.merge_silver(commit.work, commit.manifest_uri, progress)

    @activity.defn(name="verify")
    @classified
    def verify(self, proof: VerifyInput) -> TableResult:
        with ProgressHeartbeat("verify", cancellable=True) as progress:
            return self._steps.verify(proof.work, proof.manifest_uri, proof.bronze, proof.silver, progress)

    @activity.defn(name="record")
    @classified
    def record(self, record: RecordInput) -> TableResult:
        with ProgressHeartbeat("record"), activity.shield_thread_cancel_exception():
            result = self._steps.record(record.work, record.result)
            count(result)
            return result

    @activity.defn(name="fail")
    @classified
    def fail(self, fail: FailInput) -> TableResult:
        with ProgressHeartbeat("fail"), activity.shield_thread_cancel_exception():
            result = self._steps.fail(fail.work, fail.error_type, fail.error)
            count(result)
            return result

    @activity.defn(name="skip")
    @classified
    def skip(self, skip: SkipInput) -> TableResult:
        with ProgressHeartbeat("skip"), activity.shield_thread_cancel_exception():
            return self._steps.skip(skip.work, skip.plan)

    @activity.defn(name="close_row")
    @classified
    def close_row(self, record: RecordInput) -> None:
        self._steps.close_row(record.work, record.result)

    @activity.defn(name="prove_unchanged")
    @classified
    def prove_unchanged(self, many: TogetherInput) -> Together:
        with ProgressHeartbeat("prove_unchanged", self._settings.read_silence_seconds, cancellable=True) as progress:
            return counted(self._steps.prove_unchanged(many.works, activity.info().workflow_id or "", progress))

    @activity.defn(name="sync_together")
    @classified
    def sync_together(self, many: TogetherInput) -> Together:
        """A cancel is obeyed between two tables: each is small, and its commits are not broken off."""
        info, shield = activity.info(), activity.shield_thread_cancel_exception
        with ProgressHeartbeat("sync_together", self._settings.read_silence_seconds) as progress, shield():
            done = self._steps.sync_together(
                many.works, info.workflow_id or "", info.attempt, progress, activity.is_cancelled
            )
            return counted(done)


def counted(done: Together) -> Together:
    """Counts the tables that ended; without what only people read where all are too large for one payload."""
    for result in done.results:
        count(result)
    if sum(len(result.model_dump_json()) for result in done.results) <= MAX_RESULT_BYTES:
        return done
    return done.model_copy(update={"results": tuple(lean(result) for result in done.results)})
