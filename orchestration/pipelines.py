"""The pipelines of one installation: the part of the Python API that keeps and runs them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.catalog.records import PipelineRecord, PipelineTable, RunRecord
from assets.sync import TableSync
from orchestration.reports import PLANNED_RUN, PlanReport, Progress, SyncReport

if TYPE_CHECKING:
    from assets.catalog.listing import Page
    from assets.catalog.store import Catalog
    from orchestration.headrace import Headrace


class Pipelines:
    """The pipelines of one installation."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    @property
    def _catalog(self) -> Catalog:
        return self._headrace.catalog

    def add(
        self,
        name: str,
        connector: str,
        tables: Sequence[str | PipelineTable | Mapping[str, Any]] = (),
        **options: Any,
    ) -> PipelineRecord:
        """Store a pipeline. Options and errors: `assets.catalog.store.Catalog.add_pipeline`."""
        return self._catalog.add_pipeline(name, connector, tables, **options)

    def list(self, connector: str | None = None) -> list[PipelineRecord]:
        return self._catalog.pipelines(connector)

    def page(self, **options: Any) -> Page[PipelineRecord]:
        """One page of the pipelines. Options: `assets.catalog.listing.Listing.pipeline_page`."""
        return self._catalog.pipeline_page(**options)

    def show(self, name: str) -> PipelineRecord:
        """One pipeline.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._catalog.pipeline(name)

    def run(self, name: str, *, wait: bool = True, progress: Progress | None = None) -> SyncReport:
        """Sync the pipeline's tables now, paused or not. Raises what `Headrace.sync` raises."""
        from orchestration.dataset_run import new_run_group

        pipeline, run_group = self._catalog.pipeline(name), new_run_group()
        works = self._works(pipeline, run_group)
        return self._headrace._run(pipeline.connector, run_group, works, wait, progress, pipeline.overlap)

    def plan(self, name: str) -> PlanReport:
        """Say what a run would do now, table by table: see `Headrace.plan`."""
        pipeline = self._catalog.pipeline(name)
        return self._headrace._planned(pipeline.connector, self._works(pipeline, PLANNED_RUN))

    def _works(self, pipeline: PipelineRecord, run_group: str) -> builtins.list[TableSync]:
        named = [table.name for table in pipeline.tables]
        tables = self._headrace._selected(pipeline.connector, None if pipeline.all_tables else named)
        return [pipeline.table_sync(table, run_group) for table in dict.fromkeys([*tables, *named])]

    def pause(self, name: str) -> PipelineRecord:
        """Stop the schedule; runs by hand stay possible."""
        return self._catalog.set_pipeline_active(name, False)

    def resume(self, name: str) -> PipelineRecord:
        return self._catalog.set_pipeline_active(name, True)

    def runs(self, name: str, limit: int = 20) -> Sequence[RunRecord]:
        """The latest runs of the pipeline with their tables, newest first.

        Raises:
            NotFoundError: there is no such pipeline.
        """
        self._catalog.pipeline(name)
        self._headrace.reconcile()
        return self._catalog.runs(pipeline=name, limit=limit)

    def remove(self, name: str) -> None:
        """Remove a pipeline; tables and history stay.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._catalog.remove_pipeline(name)
