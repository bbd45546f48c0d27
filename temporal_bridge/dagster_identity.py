"""Which workflow belongs to a Dagster step: the same one for every retry of the same work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.naming import path_part
from temporal_bridge._compat import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG

if TYPE_CHECKING:
    import dagster as dg

_LONGEST_CHAIN = 64


def run_group(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> str:
    """The run that this work began in.

    Every re-execution shares Dagster's ``root_run_id``, also "all steps" of a run that succeeded, which asks for new
    work. So the chain of parents is followed across from-failure retries only.
    """
    run = context.run
    for _ in range(_LONGEST_CHAIN):
        resumed = "true" in (run.tags.get(RESUME_RETRY_TAG), run.tags.get(ASSET_RESUME_RETRY_TAG))
        if not resumed or not run.parent_run_id:
            return run.run_id
        parent = context.instance.get_run_by_id(run.parent_run_id)
        if parent is None:  # its run was deleted; its id still names the work
            return run.parent_run_id
        run = parent
    return run.run_id


def dagster_workflow_id(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> str:
    """``dagster/<location>/<asset or op>/<partition or ->/<run group>``, each part percent-encoded.

    A multi-asset is named by its op, not by its selection: a retry may select fewer keys and does the same work.
    """
    origin = context.run.remote_job_origin
    location = origin.location_name if origin else "-"
    step = context.op_def.name
    if context.has_assets_def and len(context.assets_def.node_keys_by_output_name) == 1:
        (key,) = context.assets_def.node_keys_by_output_name.values()
        step = key.to_user_string()
    partition = "-"
    if context.has_partition_key:
        partition = context.partition_key
    elif context.run.tags.get("dagster/asset_partition_range_start"):
        tags = context.run.tags
        partition = f"{tags['dagster/asset_partition_range_start']}...{tags['dagster/asset_partition_range_end']}"
    return "/".join(["dagster", *(path_part(part) for part in (location, step, partition, run_group(context)))])
