"""Dagster's home inside the installation's home."""

from __future__ import annotations

from pathlib import Path

from assets.settings import Settings

_DAGSTER_YAML = """\
# Made by Headrace on first use; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
concurrency:
  runs:
    max_concurrent_runs: 4
  pools:
    granularity: run
    default_limit: 1
run_retries:
  # crashed runs only: a retry attaches to the workflow that went on meanwhile
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 30
"""


def prepare_dagster_home(settings: Settings) -> Path:
    """Make ``<home>/dagster`` with its ``dagster.yaml``, where they are missing. Returns the folder (DAGSTER_HOME)."""
    folder = settings.home_path / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.exists():
        draft = folder / ".dagster.yaml.tmp"
        draft.write_text(_DAGSTER_YAML)
        draft.rename(config)
    return folder
