"""How large many results may be together, and what is left out of them above that."""

from __future__ import annotations

from assets.sync import TableResult

# One payload holds 2 MiB; a result above it would leave the workflow RUNNING for ever.
MAX_RESULT_BYTES = 1024 * 1024


def lean(result: TableResult) -> TableResult:
    """A result without its columns and reason: about 700 bytes."""
    return result.model_copy(update={"columns": (), "column_names": {}, "reason": ""})
