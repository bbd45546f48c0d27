"""Functions that every installation has for its kits: what is known of a table that failed to sync."""

from __future__ import annotations

from typing import Any

from assets.kits.functions import kit_function
from assets.settings import Settings

MAX_RUNS = 50


@kit_function("table_history")
def table_history(settings: Settings, connector: str, table: str, limit: int = 10) -> list[dict[str, Any]]:
    """The latest runs of a table, newest first."""
    from assets.catalog.store import Catalog

    rows = Catalog.from_settings(settings).table_runs(connector, table, limit=min(limit, MAX_RUNS))
    return [
        {
            "run_group": row.run_group,
            "status": row.status,
            "mode": row.mode,
            "rows_read": row.rows_read,
            "rows_silver": row.rows_silver,
            "equal": row.equal,
            "error": row.error,
            "error_type": row.error_type,
            "started_at": row.started_at.isoformat(),
        }
        for row in rows
    ]


@kit_function("connector_checks")
def connector_checks(settings: Settings, connector: str) -> list[dict[str, Any]]:
    """Each prerequisite of a connector, tried now, with the statement that fixes it."""
    from assets.catalog.store import Catalog

    checks = Catalog.from_settings(settings).connector(connector).check()
    return [{"name": check.name, "ok": check.ok, "detail": check.detail, "fix": check.fix} for check in checks]


@kit_function("compare_with_source")
def compare_with_source(settings: Settings, connector: str, table: str, level: str = "counts") -> dict[str, Any]:
    """Silver compared with the source as it is now; where that cannot be done, ``equal`` is None and says why."""
    from assets.errors import HeadraceError
    from assets.steps import SyncSteps
    from assets.verify import verify_table

    if level not in ("counts", "keys", "values"):
        level = "counts"
    try:
        found = verify_table(SyncSteps.from_settings(settings), connector, table, level)  # type: ignore[arg-type]
    except HeadraceError as error:
        return {"equal": None, "detail": error.text}
    return found.model_dump(mode="json", include={"equal", "source_rows", "silver_rows", "missing", "extra", "detail"})
