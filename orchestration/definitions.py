"""The code location ``headrace``: everything under ``orchestration/defs``."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load the folder of definitions; what it imports at module level is paid at each load."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    # a step only watches a workflow: a process of its own would cost seconds of imports
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
