"""The six steps of a table sync as Temporal activities: thin, blocking, each effect once."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from temporalio import activity
from temporalio.exceptions import CancelledError

from assets.errors import HeadraceError
from assets.settings import Settings
from assets.sync import ChunkedRead, CommitInfo, TableResult, TableSync, WindowPlan
from temporal_bridge.activities.error_classification import classify, scrub
from temporal_bridge.activities.progress_heartbeat import ProgressHeartbeat
from temporal_bridge.payload_size import refuse_large_payload
from temporal_bridge.workflows.step_inputs import (
    ChunkInput,
    CommitInput,
    ExtractInput,
    FailInput,
    RecordInput,
    SkipInput,
    SyncTimeouts,
    VerifyInput,
)
from temporal_bridge.workflows.task_queues import WorkerRole

logger = logging.getLogger(__name__)
Step = TypeVar("Step", bound=Callable[..., Any])
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


def _classified(step: Step) -> Step:
    """Classify errors once, and refuse a result that no payload holds."""

    @functools.wraps(step)
    def call(*args: Any) -> Any:
        try:
            result = step(*args)
            refuse_large_payload(result, f"the result of {step.__name__}")
            return result
        except CancelledError:
            raise
        except Exception as error:
            if activity.is_cancelled():  # its connection was broken off
                raise CancelledError("cancelled") from None
            failure = classify(error)
            if not isinstance(error, HeadraceError):  # unexpected: where it came from; its own text may hold secrets
                frames = "".join(traceback.format_tb(error.__traceback__))
                logger.warning("%s: %s\n%s", step.__name__, failure.message, scrub(frames))
            # `from None`: a cause's text would stand in the history unscrubbed.
            raise failure from None

    return call  # type: ignore[return-value]


class TableSyncActivities:
    """The activities of one worker, bound to one installation's steps."""

    def __init__(self, steps: Steps, settings: Settings) -> None:
        self._steps = steps
        self._settings = settings

    def of_role(self, role: WorkerRole) -> Sequence[Callable[..., Any]]:
        """The activities that a worker of this role registers, as ``STEP_LIMITS`` sends them."""
        if role == "extract":
            chunks = [self.begin_chunks, self.extract_chunk, self.finish_chunks]
            return [self.open_window, self.extract, *chunks, self.commit_bronze, self.merge_silver, self.verify]
        return [self.sync_timeouts, self.record, self.fail, self.skip, self.close_row]

    @activity.defn(name="sync_timeouts")
    async def sync_timeouts(self) -> SyncTimeouts:
        """Local activity on the event loop: answers even when all threads are busy."""
        return SyncTimeouts(heartbeat_seconds=self._settings.heartbeat_timeout_seconds)

    @activity.defn(name="open_window")
    @_classified
    def open_window(self, work: TableSync) -> WindowPlan:
        with ProgressHeartbeat("open_window", cancellable=True):
            return self._steps.open_window(work, activity.info().workflow_id)

    @activity.defn(name="extract")
    @_classified
    def extract(self, extract: ExtractInput) -> str:
        """Cancel arrives as an exception between two batches; the steps abort their open file and pass it on."""
        with ProgressHeartbeat("extract", self._settings.read_silence_seconds, cancellable=True) as progress:
            return self._steps.extract(extract.work, extract.plan, activity.info().attempt, progress)

    @activity.defn(name="begin_chunks")
    @_classified
    def begin_chunks(self, extract: ExtractInput) -> ChunkedRead:
        with ProgressHeartbeat("begin_chunks", cancellable=True) as progress:
            return self._steps.begin_chunks(extract.work, extract.plan, activity.info().attempt, progress)

    @activity.defn(name="extract_chunk")
    @_classified
    def extract_chunk(self, chunk: ChunkInput) -> int:
        with ProgressHeartbeat("extract_chunk", self._settings.read_silence_seconds, cancellable=True) as progress:
            return self._steps.extract_chunk(chunk.work, chunk.uri, chunk.number, activity.info().attempt, progress)

    @activity.defn(name="finish_chunks")
    @_classified
    def finish_chunks(self, chunk: ChunkInput) -> str:
        with ProgressHeartbeat("finish_chunks", cancellable=True) as progress:
            return self._steps.finish_chunks(chunk.work, chunk.uri, activity.info().attempt, progress)

    @activity.defn(name="commit_bronze")
    @_classified
    def commit_bronze(self, commit: CommitInput) -> CommitInfo:
        with ProgressHeartbeat("commit_bronze"), activity.shield_thread_cancel_exception():
            return self._steps.commit_bronze(commit.work, commit.manifest_uri)

    @activity.defn(name="merge_silver")
    @_classified
    def merge_silver(self, commit: CommitInput) -> CommitInfo:
        with ProgressHeartbeat("merge_silver") as progress, activity.shield_thread_cancel_exception():
            return self._steps.merge_silver(commit.work, commit.manifest_uri, progress)

    @activity.defn(name="verify")
    @_classified
    def verify(self, proof: VerifyInput) -> TableResult:
        with ProgressHeartbeat("verify", cancellable=True) as progress:
            return self._steps.verify(proof.work, proof.manifest_uri, proof.bronze, proof.silver, progress)

    @activity.defn(name="record")
    @_classified
    def record(self, record: RecordInput) -> TableResult:
        with ProgressHeartbeat("record"), activity.shield_thread_cancel_exception():
            return self._steps.record(record.work, record.result)

    @activity.defn(name="fail")
    @_classified
    def fail(self, fail: FailInput) -> TableResult:
        with ProgressHeartbeat("fail"), activity.shield_thread_cancel_exception():
            return self._steps.fail(fail.work, fail.error_type, fail.error)

    @activity.defn(name="skip")
    @_classified
    def skip(self, skip: SkipInput) -> TableResult:
        with ProgressHeartbeat("skip"), activity.shield_thread_cancel_exception():
            return self._steps.skip(skip.work, skip.plan)

    @activity.defn(name="close_row")
    @_classified
    def close_row(self, record: RecordInput) -> None:
        self._steps.close_row(record.work, record.result)
