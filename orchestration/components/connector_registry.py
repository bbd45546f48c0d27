"""Connectors of the catalog as Dagster assets, without a restart when they change.

No postponed annotations here: Dagster looks at a body's annotations as they stand.
"""

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs

from assets.settings import Settings
from assets.sync import TableResult, TableSync
from orchestration.code_locations import CodeLocation
from orchestration.registry_state import (
    RegisteredConnector,
    RegisteredPipeline,
    RegisteredTable,
    RegistryState,
    read_registry,
)
from orchestration.table_metadata import layer_metadata

if TYPE_CHECKING:
    from assets.catalog.records import PipelineRecord
    from assets.catalog.store import Catalog

OWNER = "team:headrace"
CHECK = "equals_source"
PIPELINE_TAG, MODE_TAG, DELETES_TAG = "headrace/pipeline", "headrace/mode", "headrace/deletes"
DEFERRED_TAG = "headrace/deferred"
ASSET_JOB = "__ASSET_JOB"
"""Dagster's own job of all assets."""
MOST_RESOLVED = 50_000
"""Pipelines times tables up to which each pipeline has a job: Dagster goes through all assets for each job when it
loads (50,000: about three seconds). Beyond, schedules and sensors start Dagster's own job of all assets with the
pipeline's tables selected."""
MOST_DESCRIBED = 2_000
"""Tables up to which each has a source asset of its own, with columns, and its place in its definition. Beyond, a
connector has one source asset, as every asset costs about a millisecond at each load; columns and place then come with
a table's first sync."""

COLLECTED_SECONDS = 30.0
"""After a reload: its readers are served before the definitions that it replaced are freed."""

RELOAD_SECONDS = 120.0
"""How long a reload may take until somebody else begins one."""


class _KnownVersions:
    """Of this process: the catalog's version that it was loaded from, and the one that it wrote its state from last."""

    loaded = ""
    written = ""
    written_at = 0.0

    def read(self, version: str) -> None:
        self.written, self.written_at = version, time.monotonic()

    def holds(self, version: str) -> bool:
        under_way = version == self.written and time.monotonic() - self.written_at < RELOAD_SECONDS
        return version == self.loaded or under_way


_known = _KnownVersions()


def is_loaded(version: str) -> bool:
    """Whether this code location shows that version of the catalog, or is loaded anew with it at the moment."""
    return _known.holds(version)


class ConnectorRegistry(dg.StateBackedComponent, dg.Model, dg.Resolvable):
    """A source, a Bronze and a Silver asset a table, one multi-asset a connector, a schedule a pipeline."""

    @property
    def defs_state_config(self) -> DefsStateConfig:
        key = CodeLocation.of_process(Settings()).state_key
        return DefsStateConfig.from_args(DefsStateConfigArgs.versioned_state_storage(), default_key=key)

    def write_state_to_path(self, state_path: Path) -> None:
        from assets.catalog.store import Catalog

        settings = Settings()
        _known.read(CodeLocation.of_process(settings).version(Catalog.from_settings(settings)))
        state_path.write_text(read_registry(settings).model_dump_json())

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        settings = Settings()
        state = RegistryState.model_validate_json(state_path.read_text()) if state_path else None
        if state is None or state.spread != (settings.code_locations or 1):
            # of a new home, or of another number of locations, nothing is recorded: the catalog itself is the state
            state = read_registry(settings, ask_again=False)
        definitions = registry_definitions(state)
        _known.loaded = state.version
        return definitions


def registry_definitions(state: RegistryState) -> dg.Definitions:
    """Build assets, checks, jobs, schedules and sensors from the registry's state."""
    tables = sum(len(connector.tables) for connector in state.connectors)
    if tables <= MOST_DESCRIBED:
        return _definitions(state, tables)
    # the objects live until the next load: collecting among them takes a quarter of this one
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _definitions(state, tables)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
        if _known.loaded:  # a load before this one, in the same process
            later = threading.Timer(COLLECTED_SECONDS, _collect_replaced)
            later.daemon = True
            later.start()


def _collect_replaced() -> None:
    """Free what a reload replaced: the collector does not look at frozen objects."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _definitions(state: RegistryState, tables: int) -> dg.Definitions:
    described = tables <= MOST_DESCRIBED
    by_name = {connector.name: connector for connector in state.connectors}
    pipelines = [p for p in state.pipelines if p.connector in by_name and p.tables]
    own_jobs = len(pipelines) * tables <= MOST_RESOLVED
    parts = [connector_definitions(connector, described=described) for connector in state.connectors]
    parts += [pipeline_definitions(p, by_name[p.connector], own_job=own_jobs) for p in pipelines]
    return dg.Definitions.merge(*parts) if parts else dg.Definitions()


def connector_definitions(connector: RegisteredConnector, *, described: bool = True) -> dg.Definitions:
    """The assets of one connector; ``described``: each table with its source and its place."""
    if not connector.tables:
        return dg.Definitions()
    sources = _sources(connector) if described else [_source(connector, (), "Its tables at the source.")]
    specs, checks = [], []
    for table in connector.tables:
        bronze = dg.AssetKey(["bronze", connector.name, table.part])
        silver = dg.AssetKey(["silver", connector.name, table.part])
        specs.append(
            dg.AssetSpec(
                bronze,
                deps=[_source_key(connector, (table.part,) if described else ())],
                description=f"Every change of {table.name} as it was read.",
                kinds={"delta", "bronze", connector.type},
                metadata=_place(table, "bronze") if described else None,
                **_common(connector),
            )
        )
        specs.append(
            dg.AssetSpec(
                silver,
                deps=[bronze],
                description=f"The current rows of {table.name}: one a key.",
                kinds={"delta", "silver", connector.type},
                metadata=_place(table, "silver") if described else None,
                **_common(connector),
            )
        )
        checks.append(
            dg.AssetCheckSpec(
                CHECK, asset=silver, description="Silver's live rows equal the source's, in one snapshot."
            )
        )

    @dg.multi_asset(
        name=f"sync_{connector.name}",
        specs=specs,
        check_specs=checks,
        can_subset=True,
    )
    def sync(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from sync_selected(context, connector)

    return dg.Definitions(assets=[*sources, sync])


def _source_key(connector: RegisteredConnector, parts: tuple[str, ...]) -> dg.AssetKey:
    return dg.AssetKey(["source", connector.name, *parts])


def _source(connector: RegisteredConnector, parts: tuple[str, ...], description: str, **more: Any) -> dg.AssetSpec:
    return dg.AssetSpec(
        _source_key(connector, parts),
        group_name=connector.name,
        kinds={connector.type, "source"},
        owners=[OWNER],
        description=description,
        **more,
    )


def _sources(connector: RegisteredConnector) -> list[dg.AssetSpec]:
    """One a table, with its columns."""
    made = []
    for table in connector.tables:
        columns = [dg.TableColumn(name=c.name, type=c.source_type) for c in table.columns]
        metadata = {"dagster/column_schema": dg.TableSchema(columns=columns)}
        made.append(_source(connector, (table.part,), f"Table {table.name} at the source.", metadata=metadata))
    return made


def _common(connector: RegisteredConnector) -> dict[str, Any]:
    return {
        "group_name": connector.name,
        "owners": [OWNER],
        "skippable": True,
        "tags": {"headrace/connector": connector.name},
    }


def _place(table: RegisteredTable, layer: str) -> dict[str, Any]:
    """Where a layer of the table is in the lakehouse."""
    bronze = layer == "bronze"
    return {
        "dagster/table_name": table.bronze_name if bronze else table.silver_name,
        "dagster/uri": table.bronze_uri if bronze else table.silver_uri,
        "dagster/storage_kind": "delta",
    }


def sync_selected(context: dg.AssetExecutionContext, connector: RegisteredConnector) -> Iterator[Any]:
    """Sync the selected tables by `DatasetSyncWorkflow`; yield each table's results the moment it is done.

    Deferred, the step ends when the workflow is started, and the sensor ``sync_history`` reports the tables.
    """
    from assets.catalog.store import Catalog
    from temporal_bridge.pipes import PipesTemporalClient, run_group
    from temporal_bridge.resource import TemporalResource
    from temporal_bridge.workflows.dataset_sync import DatasetSync, DatasetSyncWorkflow

    settings = Settings()
    selected = {
        key.path[2] for key in (*context.selected_asset_keys, *(c.asset_key for c in context.selected_asset_check_keys))
    }
    tables = {table.name: table for table in connector.tables if table.part in selected}
    group = run_group(context)
    catalog = Catalog.from_settings(settings)
    name = context.run.tags.get(PIPELINE_TAG)
    pipeline = catalog.pipeline(name) if name else None
    deferred = context.run.tags.get(DEFERRED_TAG, str(bool(pipeline and pipeline.deferred)).lower()) == "true"
    works = _works(context, catalog, connector, pipeline, list(tables), group, deferred)
    client = PipesTemporalClient(
        TemporalResource(ui_url=_temporal_ui(settings), worker_wait_seconds=settings.worker_wait_seconds)
    )
    dataset = DatasetSync(
        connector=connector.name,
        tables=works,
        run_group=group,
        max_parallel=settings.sync_concurrency,
        overlap=pipeline.overlap if pipeline else "skip",
    )
    if deferred:
        client.start(
            context=context,
            workflow=DatasetSyncWorkflow.run,
            input=dataset,
            task_queue=settings.task_queue,
            selection="tables",
        )
        return

    def results(result: TableResult) -> Iterator[Any]:
        yield from table_results(context, connector, tables[result.table], result)

    yield from client.stream(
        context=context,
        workflow=DatasetSyncWorkflow.run,
        input=dataset,
        task_queue=settings.task_queue,
        on_result=results,
    )


def _works(
    context: dg.AssetExecutionContext,
    catalog: "Catalog",
    connector: RegisteredConnector,
    pipeline: "PipelineRecord | None",
    tables: list[str],
    group: str,
    deferred: bool,
) -> tuple[TableSync, ...]:
    tags = context.run.tags
    trigger = "schedule" if "dagster/schedule_name" in tags or "dagster/sensor_name" in tags else "dagster"
    name = pipeline.name if pipeline else None
    run_id = context.run.run_id
    catalog.begin_run(group, connector.name, name, trigger, tables, dagster_run_id=run_id, deferred=deferred)
    # the id of the run that began the work: a retry by another run is the same work
    if pipeline:
        works = [pipeline.table_sync(table, group, trigger=trigger, dagster_run_id=group) for table in tables]
    else:
        works = [
            TableSync(connector=connector.name, table=t, run_group=group, trigger=trigger, dagster_run_id=group)
            for t in tables
        ]
    override = {field: tags[tag] for field, tag in (("mode", MODE_TAG), ("deletes", DELETES_TAG)) if tag in tags}
    return tuple(TableSync.model_validate(work.model_dump() | override) for work in works)


def _temporal_ui(settings: Settings) -> str | None:
    from orchestration.stack_record import running_stack

    stack = running_stack(settings)
    return stack.temporal_ui_url if stack else None


def table_results(
    context: dg.AssetExecutionContext, connector: RegisteredConnector, table: RegisteredTable, result: TableResult
) -> Iterator[Any]:
    """What one table's end means to Dagster: Bronze, then Silver with its check; nothing for a failed table."""
    silver = dg.AssetKey(["silver", connector.name, table.part])
    if result.status == "skipped":
        context.log.info(f"{table.name}: skipped, {result.reason}")
        return
    if result.status == "failed":
        context.log.error(f"{table.name}: {result.error}")
        return
    checked = dg.AssetCheckKey(silver, CHECK) in context.selected_asset_check_keys
    check = dg.AssetCheckResult(
        check_name=CHECK,
        asset_key=silver,
        passed=bool(result.equal),
        severity=dg.AssetCheckSeverity.WARN,
        description=result.reason or None,
        metadata={"rows_silver": result.rows_silver},
    )
    for layer in ("bronze", "silver"):
        key = dg.AssetKey([layer, connector.name, table.part])
        if key in context.selected_asset_keys:
            with_check = [check] if layer == "silver" and checked else []
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=layer_metadata(layer, table.part, connector.name, result) | _place(table, layer),
                check_results=with_check,
            )
        elif layer == "silver" and checked:
            yield check


def pipeline_definitions(
    pipeline: RegisteredPipeline, connector: RegisteredConnector, *, own_job: bool = True
) -> dg.Definitions:
    """What starts one pipeline: a schedule or a sensor if it has one, and a job unless there are too many."""
    parts = {table.name: table.part for table in connector.tables}
    keys = [
        dg.AssetKey([layer, connector.name, parts[table]])
        for table in pipeline.tables
        if table in parts
        for layer in ("bronze", "silver")
    ]
    tags = {PIPELINE_TAG: pipeline.name}
    jobs = []
    if own_job:
        selection = dg.AssetSelection.assets(*keys)
        jobs.append(dg.define_asset_job(f"pipeline_{pipeline.name}", selection=selection, tags=tags))
    target: dict[str, Any] = {"job": jobs[0]} if jobs else {"job_name": ASSET_JOB}
    selected = None if jobs else keys
    status = dg.DefaultScheduleStatus.RUNNING if pipeline.active else dg.DefaultScheduleStatus.STOPPED
    if pipeline.cron:

        @dg.schedule(
            name=f"schedule_{pipeline.name}",
            cron_schedule=pipeline.cron,
            execution_timezone=pipeline.timezone,
            default_status=status,
            **target,
        )
        def scheduled(_: dg.ScheduleEvaluationContext) -> dg.RunRequest:
            return dg.RunRequest(asset_selection=selected, tags=tags)

        return dg.Definitions(jobs=jobs, schedules=[scheduled])
    running = dg.DefaultSensorStatus.RUNNING if pipeline.active else dg.DefaultSensorStatus.STOPPED
    if pipeline.interval_seconds and pipeline.on_changes:

        @dg.sensor(
            name=f"changes_{pipeline.name}",
            minimum_interval_seconds=pipeline.interval_seconds,
            default_status=running,
            **target,
        )
        def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
            return request_on_change(context, pipeline, selected)

        return dg.Definitions(jobs=jobs, sensors=[changes])
    if pipeline.interval_seconds:

        @dg.sensor(
            name=f"interval_{pipeline.name}",
            minimum_interval_seconds=pipeline.interval_seconds,
            default_status=running,
            **target,
        )
        def interval(context: dg.SensorEvaluationContext) -> dg.RunRequest:
            # the tick is the key: two daemons request one run
            number = int(_now() // (pipeline.interval_seconds or 1))
            return dg.RunRequest(run_key=f"{pipeline.name}/{number}", asset_selection=selected, tags=tags)

        return dg.Definitions(jobs=jobs, sensors=[interval])
    return dg.Definitions(jobs=jobs)


def request_on_change(
    context: dg.SensorEvaluationContext, pipeline: RegisteredPipeline, selected: list[dg.AssetKey] | None = None
) -> dg.SensorResult | dg.SkipReason:
    """Request a run when the source may have changed since the last request, or when the last run failed.

    The probe is taken before the run reads, so a change in between is found by the next look.
    """
    from assets.catalog.store import Catalog

    catalog = Catalog.from_settings(Settings())
    probe = catalog.connector(pipeline.connector).probe(pipeline.tables)
    last = next(iter(catalog.runs(pipeline=pipeline.name, limit=1)), None)
    if last is not None and last.status == "running":
        return dg.SkipReason(f"run {last.run_group} is going on")
    failed = last.run_group if last is not None and last.status == "failed" else ""
    seen = f"{probe} {failed}"
    if context.cursor == seen or (not failed and (context.cursor or "").startswith(f"{probe} ")):
        return dg.SkipReason("the source has not changed")
    tags = {PIPELINE_TAG: pipeline.name}
    request = dg.RunRequest(run_key=f"{pipeline.name}/{seen}", asset_selection=selected, tags=tags)
    return dg.SensorResult(run_requests=[request], cursor=seen)


def _now() -> float:
    return time.time()
