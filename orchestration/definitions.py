"""A code location of Headrace: everything under ``orchestration/defs``; what exists once is in the first one."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg

# for every module that it loads Dagster warns of a location that is not named as the project is
logging.getLogger("dagster.components.core.component_tree").addFilter(
    lambda record: "does not match the name" not in record.getMessage()
)


@dg.definitions
def defs() -> dg.Definitions:
    """Load the folder of definitions; what it imports at module level is paid at each load."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
