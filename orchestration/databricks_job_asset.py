"""A Databricks job as a Dagster asset: the factory. ``DatabricksJobComponent`` makes the same from YAML.

No postponed annotations: Dagster looks at a body's annotations as they stand.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg  # noqa: TID253

from assets.databricks_job import DatabricksJob, DatabricksJobResult

if TYPE_CHECKING:
    from temporal_bridge.pipes import PipesTemporalClient

SHOWN_CHARACTERS = 2000


def databricks_job_asset(
    key: Any,
    job: DatabricksJob,
    *,
    deps: Sequence[Any] = (),
    group_name: str | None = None,
    description: str | None = None,
    pipes: "PipesTemporalClient | None" = None,
) -> dg.AssetsDefinition:
    """An asset that is made by a job on Databricks.

    The run goes on when Dagster's process dies, and is attached to by the retry; "Terminate" cancels it.

    Args:
        key: of the asset.
        job: what runs.
        pipes: the client of the bridge; default: Temporal as the environment says.

    Example:
        databricks_job_asset("revenue", DatabricksJob(name="revenue", job_id=42), deps=["silver/shop/orders"])
    """

    @dg.asset(
        key=_key(key),
        deps=[_key(dep) if isinstance(dep, str) else dep for dep in deps],
        group_name=group_name,
        description=description or f"Databricks job {job.name}.",
        kinds={"databricks"},
    )
    def job_asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from assets.settings import Settings
        from temporal_bridge.pipes import PipesTemporalClient
        from temporal_bridge.resource import TemporalResource
        from temporal_bridge.workflows.databricks_job import DatabricksJobInput, DatabricksJobWorkflow

        settings = Settings()
        client = pipes or PipesTemporalClient(TemporalResource(worker_wait_seconds=settings.worker_wait_seconds))
        invocation = client.run(
            context=context,
            workflow=DatabricksJobWorkflow.run,
            input=DatabricksJobInput(job=job),
            task_queue=settings.task_queue,
        )
        return dg.MaterializeResult(metadata={**invocation.metadata, **job_metadata(invocation.result)})

    return job_asset


def _key(key: Any) -> dg.AssetKey:
    """``gold/revenue`` is a key of two parts."""
    return dg.AssetKey(key.split("/")) if isinstance(key, str) else dg.AssetKey.from_coercible(key)


def job_metadata(result: DatabricksJobResult) -> dict[str, Any]:
    """What the asset shows of a run: its page, its state, what each task gave back."""
    metadata: dict[str, Any] = {
        "databricks/run_id": result.run_id,
        "databricks/state": result.result_state,
        "databricks/seconds": result.seconds,
    }
    if result.run_page_url:
        metadata["databricks/run_page"] = dg.MetadataValue.url(result.run_page_url)
    for task in result.tasks:
        if task.output is not None:
            metadata[f"databricks/output/{task.task_key}"] = dg.MetadataValue.text(task.output[:SHOWN_CHARACTERS])
    return metadata
