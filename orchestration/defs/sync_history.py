"""Syncs that no Dagster run watches (command line, Python, deferred) appear on the assets' own pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from assets.catalog.records import TableRunRecord
from assets.settings import Settings

PAGE = 200
OVERLAP = timedelta(minutes=5)
"""A row is written a moment after its own time: rows this much older than the newest are looked at again."""


@dg.sensor(minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def sync_history(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Report tables that ended since the last look, each once."""
    from assets.catalog.store import Catalog

    since, seen = _read_cursor(context.cursor)
    catalog = Catalog.from_settings(Settings())
    ended = catalog.ended_table_runs(since - OVERLAP, limit=PAGE + len(seen))
    new = [(_mark(number, run), run) for number, run in ended if _mark(number, run) not in seen][:PAGE]
    if not new:
        return dg.SkipReason("no table ended")
    keys = context.repository_def.asset_graph.get_all_asset_keys() if context.repository_def else set()
    events = [event for _, run in new for event in _events(run, keys)]
    latest = max(run.completed_at for _, run in new if run.completed_at)
    recent = {mark for mark in seen if _marked_at(mark) > latest - OVERLAP}
    recent |= {mark for mark, run in new if run.completed_at and run.completed_at > latest - OVERLAP}
    cursor = json.dumps({"since": max(since, latest).isoformat(), "seen": sorted(recent)})
    return dg.SensorResult(asset_events=events, cursor=cursor)


def _read_cursor(cursor: str | None) -> tuple[datetime, set[str]]:
    if not cursor:
        return datetime(1970, 1, 2, tzinfo=UTC), set()
    stored = json.loads(cursor)
    return datetime.fromisoformat(stored["since"]), set(stored["seen"])


def _mark(number: int, run: TableRunRecord) -> str:
    """A row that failed and was done again ends twice."""
    assert run.completed_at is not None
    return f"{number}@{run.completed_at.timestamp():.6f}"


def _marked_at(mark: str) -> datetime:
    return datetime.fromtimestamp(float(mark.partition("@")[2]), UTC)


def _events(run: TableRunRecord, known: Any) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    from assets.naming import table_slug
    from orchestration.components.connector_registry import CHECK
    from orchestration.registry_state import asset_parts
    from orchestration.table_metadata import layer_metadata

    candidates = (run.table, table_slug(run.table))
    guess = asset_parts([run.table])[run.table]
    part = next((c for c in candidates if dg.AssetKey(["silver", run.connector, c]) in known), guess)
    silver = dg.AssetKey(["silver", run.connector, part])
    if run.status == "failed":
        yield dg.AssetCheckEvaluation(
            asset_key=silver,
            check_name=CHECK,
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=run.error,
            metadata={"run_group": run.run_group, "error_type": run.error_type or ""},
        )
    if run.status != "succeeded" or run.result is None:
        return
    for layer in ("bronze", "silver"):
        yield dg.AssetMaterialization(
            asset_key=dg.AssetKey([layer, run.connector, part]),
            metadata=layer_metadata(layer, part, run.connector, run.result),
        )
    yield dg.AssetCheckEvaluation(
        asset_key=silver,
        check_name=CHECK,
        passed=bool(run.equal),
        severity=dg.AssetCheckSeverity.WARN,
        description=run.result.reason or None,
        metadata={"rows_silver": run.rows_silver, "run_group": run.run_group},
    )
