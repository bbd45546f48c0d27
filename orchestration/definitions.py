"""A code location of Headrace: everything under ``orchestration/defs``; what exists once is in the first one."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load the folder of definitions; what it imports at module level is paid at each load."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
