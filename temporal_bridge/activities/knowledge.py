"""The steps of a knowledge extraction as Temporal activities: thin, blocking, each effect once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from assets.knowledge.work import (
    BatchInput,
    BatchResult,
    CallInput,
    CallOutcome,
    ExtractionPlan,
    ExtractionResult,
    FoldInput,
    FoldResult,
    ModelCall,
    RecordExtraction,
)
from assets.settings import Settings
from temporal_bridge.activities.error_classification import classified, scrub
from temporal_bridge.activities.progress_heartbeat import ProgressHeartbeat
from temporal_bridge.workflows.knowledge_extraction import SourceRun

if TYPE_CHECKING:
    from assets.knowledge.steps import KnowledgeSteps


class KnowledgeActivities:
    """The activities of one worker. The steps open the catalog on their first use: most workers extract nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: KnowledgeSteps | None = None

    @property
    def _steps(self) -> KnowledgeSteps:
        from assets.knowledge.steps import KnowledgeSteps

        with self._lock:
            if self._opened is None:
                self._opened = KnowledgeSteps.from_settings(self._settings)
            return self._opened

    def all(self) -> Sequence[Callable[..., Any]]:
        """What a worker of the role ``knowledge`` registers."""
        return [self.plan, self.prepare_calls, self.call_model, self.extract, self.fold, self.record]

    @activity.defn(name="plan_knowledge")
    @classified
    def plan(self, run: SourceRun) -> ExtractionPlan:
        with ProgressHeartbeat("plan_knowledge") as progress:
            info = activity.info()
            return self._steps.plan(run.work, run.generation, info.attempt, info.workflow_id, progress)

    @activity.defn(name="prepare_calls")
    @classified
    def prepare_calls(self, batch: BatchInput) -> list[ModelCall]:
        with ProgressHeartbeat("prepare_calls"):
            return list(self._steps.prepare_calls(batch))

    @activity.defn(name="call_model")
    @classified
    def call_model(self, call: CallInput) -> CallOutcome:
        from assets.knowledge.endpoint import EndpointBusyError

        info = activity.info()
        holder = f"{info.workflow_id}/{info.workflow_run_id}/{info.activity_id}"[:255]
        with ProgressHeartbeat("call_model"):
            try:
                # an answer that is paid for is stored, whatever happens meanwhile
                with activity.shield_thread_cancel_exception():
                    return self._steps.call_model(call, holder)
            except EndpointBusyError as error:
                if error.retry_after is None:
                    raise
                raise ApplicationError(
                    scrub(error.text), type="EndpointBusyError", next_retry_delay=timedelta(seconds=error.retry_after)
                ) from None

    @activity.defn(name="extract_knowledge")
    @classified
    def extract(self, batch: BatchInput) -> BatchResult:
        with ProgressHeartbeat("extract_knowledge") as progress:
            return self._steps.extract_batch(batch, activity.info().attempt, progress)

    @activity.defn(name="fold_knowledge")
    @classified
    def fold(self, fold: FoldInput) -> FoldResult:
        with ProgressHeartbeat("fold_knowledge"), activity.shield_thread_cancel_exception():
            return self._steps.fold(fold)

    @activity.defn(name="record_knowledge")
    @classified
    def record(self, record: RecordExtraction) -> ExtractionResult:
        with ProgressHeartbeat("record_knowledge"), activity.shield_thread_cancel_exception():
            return self._steps.record(record.work, record.result)
