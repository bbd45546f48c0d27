"""What Dagster shows of a synced table, in its own standard keys."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.sync import TableResult


def _schema(columns: dict[str, str]) -> dg.TableSchema:
    return dg.TableSchema(columns=[dg.TableColumn(name=name, type=kind) for name, kind in columns.items()])


def _lineage(upstream: dg.AssetKey, columns: dict[str, str]) -> dg.TableColumnLineage:
    """``columns``: own column -> the upstream's."""
    return dg.TableColumnLineage(
        deps_by_column={
            own: [dg.TableColumnDep(asset_key=upstream, column_name=theirs)] for own, theirs in columns.items()
        }
    )


def layer_metadata(layer: str, part: str, connector: str, result: TableResult) -> dict[str, Any]:
    """Metadata of one materialization of ``bronze`` or ``silver``; ``part`` is the last part of the asset's key."""
    from assets.bronze import bronze_names

    types = {column.name: column.arrow_type for column in result.columns}
    bronze = bronze_names(list(types))
    silver_of = result.column_names
    if layer == "bronze":
        columns = {bronze[name]: kind for name, kind in types.items()}
        lineage = _lineage(dg.AssetKey(["source", connector, part]), {bronze[name]: name for name in types})
    else:
        columns = {silver_of.get(name, name): kind for name, kind in types.items()}
        upstream = dg.AssetKey(["bronze", connector, part])
        lineage = _lineage(upstream, {silver_of.get(name, name): bronze[name] for name in types})
    seconds = 0.0
    if result.started_at and result.completed_at:
        seconds = (result.completed_at - result.started_at).total_seconds()
    metadata: dict[str, Any] = {
        "dagster/row_count": result.rows_bronze if layer == "bronze" else result.rows_silver,
        "dagster/column_schema": _schema(columns),
        "dagster/column_lineage": lineage,
        "mode": result.mode or "",
        "rows_read": result.rows_read,
        "rows_deleted": result.rows_deleted,
        "rows_written": result.rows_read + result.rows_deleted,
        "bytes": result.bytes,
        "duration_seconds": round(seconds, 3),
        "run_group": result.run_group or "",
        "unfit_values": result.unfit_values,
        "future_rows": result.future_rows,
    }
    optional = {
        "reason": result.reason,
        "watermark_before": result.watermark_before,
        "watermark_after": result.watermark_after,
        "window_low": result.window_low,
        "window_high": result.window_high,
        "workflow_id": result.workflow_id,
        "drift": "; ".join(result.drift),
        "rows_quarantined": result.rows_quarantined,
        "quarantine_uri": result.quarantine_uri,
    }
    return metadata | {name: value for name, value in optional.items() if value}
