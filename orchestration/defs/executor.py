"""How a run's steps are executed where nothing else is said."""

from __future__ import annotations

import dagster as dg


@dg.definitions
def executor() -> dg.Definitions:
    # a step only watches a workflow: a process of its own would cost seconds of imports
    return dg.Definitions(executor=dg.in_process_executor)
