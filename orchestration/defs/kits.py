"""Agent kits in Dagster: jobs with their triggers; a kit that writes tables is their assets."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.kits.model import Kit, KitRun, Trigger
from assets.settings import Settings
from orchestration.code_locations import CodeLocation

INPUTS_TAG, TRIGGER_TAG = "headrace/kit_inputs", "headrace/kit_trigger"
GROUP = "kits"
FAILED_AT_ONCE = 20


@dg.definitions
def kits() -> dg.Definitions:
    """Every valid kit; one that is not valid is left out, and `headrace kits list` says why."""
    from assets.kits.kit_file import KitFileError, kit_files, load_kit

    settings = Settings()
    if not CodeLocation.of_process(settings).is_first:
        return dg.Definitions()
    found: list[Kit] = []
    for name in sorted(kit_files(settings)):
        try:
            found.append(load_kit(settings, name))
        except KitFileError:
            continue
    addresses = _silver_assets(settings)
    parts = [kit_definitions(kit, addresses) for kit in found]
    return dg.Definitions.merge(*parts) if parts else dg.Definitions()


def kit_definitions(kit: Kit, addresses: dict[str, dg.AssetKey]) -> dg.Definitions:
    """One kit.

    Args:
        kit: a valid kit.
        addresses: asset key of each lakehouse table, by the name that a query gives it.
    """
    job_name = f"kit_{kit.name}"
    if kit.constraints.tables.write:
        deps = [addresses[table] for table in _reads(kit) if table in addresses]

        @dg.multi_asset(
            name=job_name,
            specs=[
                dg.AssetSpec(
                    ["gold", kit.name, table],
                    deps=deps,
                    group_name=GROUP,
                    kinds={"delta", "gold"},
                    description=kit.objective,
                    skippable=True,
                )
                for table in kit.constraints.tables.write
            ],
        )
        def run_kit(context: dg.AssetExecutionContext) -> Iterator[Any]:
            result = _run(context, kit)
            for table in kit.constraints.tables.write:
                step = next((s for s in kit.steps if s.write == table), None)
                done = step is not None and any(o.step == step.step and o.status == "succeeded" for o in result.steps)
                if done:
                    uri = result.tables.get(f"gold.{kit.name}__{table}")
                    metadata = _metadata(result) | ({"dagster/uri": uri} if uri else {})
                    yield dg.MaterializeResult(asset_key=dg.AssetKey(["gold", kit.name, table]), metadata=metadata)
            _raise_unless_succeeded(result)

        selection = dg.AssetSelection.assets(
            *(dg.AssetKey(["gold", kit.name, t]) for t in kit.constraints.tables.write)
        )
        job: Any = dg.define_asset_job(f"{job_name}_job", selection=selection)
        base = dg.Definitions(assets=[run_kit], jobs=[job])
    else:

        @dg.op(name=job_name, description=kit.objective)
        def run_op(context: dg.OpExecutionContext) -> None:
            result = _run(context, kit)
            context.log.info(json.dumps(_metadata(result), default=str, ensure_ascii=False)[:20_000])
            _raise_unless_succeeded(result)

        @dg.job(name=f"{job_name}_job", description=kit.objective)
        def kit_job() -> None:
            run_op()

        job = kit_job
        base = dg.Definitions(jobs=[job])
    triggers = [_trigger(kit, job, number, trigger) for number, trigger in enumerate(kit.triggers)]
    return dg.Definitions.merge(base, *(found for found in triggers if found is not None))


def _run(context: Any, kit: Kit) -> Any:
    from assets.kits.steps import checked_inputs
    from orchestration.kits import kit_workflow_id
    from orchestration.stack_record import running_stack
    from temporal_bridge.pipes import PipesTemporalClient, run_group
    from temporal_bridge.resource import TemporalResource
    from temporal_bridge.workflows.agent_kit import AgentKitExecutionWorkflow

    settings = Settings()
    stack = running_stack(settings)
    tags = context.run.tags
    group = run_group(context)
    inputs = checked_inputs(kit, json.loads(tags.get(INPUTS_TAG, "{}")))
    run = KitRun(kit=kit, run_id=group, inputs=inputs, trigger=tags.get(TRIGGER_TAG, "dagster"), dagster_run_id=group)
    pipes = PipesTemporalClient(TemporalResource(ui_url=stack.temporal_ui_url if stack else None))
    return pipes.run(
        context=context,
        workflow=AgentKitExecutionWorkflow,
        input=run,
        task_queue=settings.task_queue,
        workflow_id=kit_workflow_id(kit.name, group),
    ).result


def _metadata(result: Any) -> dict[str, Any]:
    steps = {f"step {outcome.step}": f"{outcome.status} {outcome.reason}".strip() for outcome in result.steps}
    told = {"status": result.status, "run_id": result.run_id, "tokens": result.tokens, "cost": result.cost}
    metrics = {
        name: value if isinstance(value, int | float | str) else json.dumps(value)
        for name, value in result.metrics.items()
    }
    return told | steps | metrics


def _raise_unless_succeeded(result: Any) -> None:
    if result.status != "succeeded":
        raise dg.Failure(f"{result.kit}: {result.status}, {result.reason}", allow_retries=False)


def _silver_assets(settings: Settings) -> dict[str, dg.AssetKey]:
    from assets.catalog.store import Catalog
    from assets.lakehouse.interface import TableId
    from assets.lakehouse_sql import table_address
    from orchestration.registry_state import asset_parts

    names: dict[str, list[str]] = {}
    for run in Catalog.from_settings(settings).latest_table_runs():
        names.setdefault(run.connector, []).append(run.table)
    found = {}
    for connector, tables in names.items():
        parts = asset_parts(tables)
        for table in tables:
            address = table_address(TableId(layer="silver", connector=connector, table=table))
            found[address] = dg.AssetKey(["silver", connector, parts[table]])
    return found


def _reads(kit: Kit) -> list[str]:
    """Tables that the kit's queries read with its default inputs."""
    from assets.errors import HeadraceError
    from assets.kits.expressions import render
    from assets.lakehouse_sql import tables_of

    values = {"inputs": {name: spec.default for name, spec in kit.inputs.items()}, "run": {}, "steps": {}}
    found: dict[str, None] = {}
    for step in kit.steps:
        if kit.tools[step.tool].kind == "sql":
            try:
                found.update(dict.fromkeys(tables_of(str(render(step.arguments.get("sql", ""), values)))))
            except HeadraceError:  # it rests on earlier outputs: no lineage can be told
                continue
    return list(found)


def _trigger(kit: Kit, job: Any, number: int, trigger: Trigger) -> dg.Definitions | None:
    tags = {TRIGGER_TAG: trigger.schedule or trigger.event or trigger.after_asset or "manual"}
    if trigger.inputs:
        tags[INPUTS_TAG] = json.dumps(trigger.inputs)
    name = f"kit_{kit.name}_{number}"
    if trigger.schedule and trigger.schedule.startswith("cron:"):
        schedule = dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=trigger.schedule.removeprefix("cron:"),
            execution_timezone=trigger.timezone,
            tags=tags,
        )
        return dg.Definitions(schedules=[schedule])
    if trigger.schedule:
        from assets.catalog.schedules import interval_seconds

        seconds = interval_seconds(trigger.schedule.removeprefix("every:"))

        @dg.sensor(name=name, job=job, minimum_interval_seconds=seconds)
        def interval(context: dg.SensorEvaluationContext) -> dg.RunRequest:
            import time

            return dg.RunRequest(run_key=f"{name}/{int(time.time() // seconds)}", tags=tags)

        return dg.Definitions(sensors=[interval])
    if trigger.after_asset:

        @dg.asset_sensor(name=name, job=job, asset_key=dg.AssetKey(trigger.after_asset.split("/")))
        def after(context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> dg.RunRequest:
            return dg.RunRequest(run_key=f"{name}/{event.run_id}/{event.timestamp}", tags=tags)

        return dg.Definitions(sensors=[after])
    if trigger.event == "failed_sync":

        @dg.sensor(name=name, job=job, minimum_interval_seconds=30)
        def failed_sync(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
            return requests_of_failed_tables(context, kit, tags)

        return dg.Definitions(sensors=[failed_sync])
    return None


def requests_of_failed_tables(
    context: dg.SensorEvaluationContext, kit: Kit, tags: dict[str, str]
) -> dg.SensorResult | dg.SkipReason:
    """One run a table that failed since the last look; what failed before the first look is history."""
    from datetime import UTC, datetime

    from assets.catalog.store import Catalog

    since = datetime.fromisoformat(context.cursor) if context.cursor else datetime.now(UTC)
    failed = Catalog.from_settings(Settings()).failed_table_runs(since, limit=FAILED_AT_ONCE)
    requests = []
    for row in failed:
        given = {
            name: value for name, value in (("connector", row.connector), ("table", row.table)) if name in kit.inputs
        }
        inputs = json.loads(tags.get(INPUTS_TAG, "{}")) | given
        key = f"{kit.name}/{row.run_group}/{row.connector}/{row.table}"
        requests.append(dg.RunRequest(run_key=key, tags={**tags, INPUTS_TAG: json.dumps(inputs)}))
    latest = max((row.completed_at for row in failed if row.completed_at), default=since)
    return dg.SensorResult(run_requests=requests, cursor=latest.isoformat())
