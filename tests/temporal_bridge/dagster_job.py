"""A Dagster job on the bridge, in a process of its own.

``python -m tests.temporal_bridge.dagster_job RUN_ID [PARENT_RUN_ID]``, with
``DAGSTER_HOME``, ``TEMPORAL_ADDRESS``, ``BRIDGE_QUEUE``, ``BRIDGE_CONNECTOR``,
``BRIDGE_TABLES`` and ``BRIDGE_EXECUTOR`` (``in_process`` or ``multiprocess``) in the environment.
"""

# No postponed annotations: Dagster reads those of an asset function as they stand.
import os
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.sync import TableResult, TableSync
from temporal_bridge import PipesTemporalClient, TemporalResource
from temporal_bridge.pipes import run_group
from temporal_bridge.workflows.dataset_sync import DatasetSync, DatasetSyncWorkflow

EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
ALL_TABLES = ["public.waiting", "public.orders", "public.forbidden", "public.events"]


def key(table: str) -> dg.AssetKey:
    return dg.AssetKey(["bronze", table.replace(".", "__")])


@dg.multi_asset(
    name="bronze_shop", specs=[dg.AssetSpec(key(table), skippable=True) for table in ALL_TABLES], can_subset=True
)
def bronze_shop(context: dg.AssetExecutionContext) -> Iterator[Any]:
    group = run_group(context)
    connector = os.environ["BRIDGE_CONNECTOR"]
    tables = [t for t in os.environ["BRIDGE_TABLES"].split(",") if key(t) in context.selected_asset_keys]
    work = [
        TableSync(connector=connector, table=table, run_group=group, dagster_run_id=context.run.run_id)
        for table in tables
    ]

    def materialized(result: TableResult) -> Iterator[Any]:
        if result.status == "succeeded":
            yield dg.MaterializeResult(asset_key=key(result.table), metadata={"rows": result.rows_read})

    pipes = PipesTemporalClient(TemporalResource(ui_url="http://127.0.0.1:8233"), poll_interval_seconds=0.2)
    yield from pipes.stream(
        context=context,
        workflow=DatasetSyncWorkflow,
        input=DatasetSync(connector=connector, tables=tuple(work), run_group=group),
        task_queue=os.environ["BRIDGE_QUEUE"],
        on_result=materialized,
    )


def materialized_keys(instance: dg.DagsterInstance, run_id: str) -> set[dg.AssetKey | None]:
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {entry.dagster_event.asset_key for entry in entries if entry.dagster_event}


def job() -> dg.JobDefinition:
    definitions = dg.Definitions(
        assets=[bronze_shop],
        jobs=[dg.define_asset_job("shop", selection="*", executor_def=EXECUTORS[os.environ["BRIDGE_EXECUTOR"]])],
    )
    return definitions.resolve_job_def("shop")


def main(run_id: str, parent: str | None) -> int:
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is None:
            tags = {"dagster/is_asset_resume_retry": "true"} if parent else {}
            done = materialized_keys(instance, parent) if parent else set()
            wanted = [key(table) for table in os.environ["BRIDGE_TABLES"].split(",") if key(table) not in done]
            run = instance.create_run_for_job(
                job().get_subset(asset_selection=frozenset(wanted)),
                run_id=run_id,
                tags=tags,
                asset_selection=frozenset(wanted),
                parent_run_id=parent,
                root_run_id=parent,
            )
        dg_job = dg.reconstructable(job)
        from dagster._core.execution.api import execute_run

        return 0 if execute_run(dg_job, run, instance).success else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
