"""A thousand deferred syncs at once on one machine: all complete, and no process grows with their number."""

from __future__ import annotations

import time

import dagster as dg
import psutil
import pytest

from assets.settings import Settings
from orchestration.components.connector_registry import DEFERRED_TAG, registry_definitions
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.registry_state import RegistryState, read_registry
from tests.behaviour.installation import Installation

WORKER_BYTES = 900 << 20
OWN_BYTES = 1200 << 20


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_a_thousand_deferred_runs_at_once_all_complete_in_bounded_memory(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [f"public.t{number:04}" for number in range(1000)]
    with shop.connect() as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text)".encode())
            connection.execute(f"INSERT INTO {table} SELECT i, 'row ' || i FROM generate_series(1, 10) i".encode())
    settings = Settings(home=shop.settings.home_path)
    monkeypatch.setenv("HEADRACE_HOME", str(settings.home_path))
    jobs = _jobs_of_few_assets(read_registry(settings))
    hr = Headrace(home=settings.home_path)
    with LocalStack(settings).start() as stack, dg.instance_for_test() as instance:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.record.temporal_address)
        worker = psutil.Process(stack.worker_pid)
        worker.suspend()  # all thousand wait when it goes on
        for table in tables:
            keys = [dg.AssetKey([layer, "shop", table]) for layer in ("bronze", "silver")]
            run = jobs[table].execute_in_process(instance=instance, asset_selection=keys, tags={DEFERRED_TAG: "true"})
            assert run.success
        assert not hr.catalog.latest_table_runs("shop"), "no sync ran while the runs were started"
        worker.resume()
        peak = worker.memory_info().rss
        deadline = time.monotonic() + 3600
        while len([row for row in hr.catalog.latest_table_runs("shop") if row.status != "running"]) < len(tables):
            assert time.monotonic() < deadline
            peak = max(peak, worker.memory_info().rss)
            time.sleep(2)
        assert worker.is_running(), "the same worker all along"
    own = psutil.Process().memory_info().rss
    print(f"worker peak {peak >> 20} MB, the process of a thousand Dagster runs {own >> 20} MB")
    assert peak < WORKER_BYTES and own < OWN_BYTES
    rows = hr.catalog.latest_table_runs("shop")
    assert {(row.status, row.equal, row.rows_silver) for row in rows} == {("succeeded", True, 10)}
    assert len(rows) == len(tables)


def _jobs_of_few_assets(registry: RegistryState) -> dict[str, dg.JobDefinition]:
    """The job of each table: Dagster's cost of a run grows with its job's assets (5 s at 2,000), not tested here."""
    (shop,) = registry.connectors
    jobs: dict[str, dg.JobDefinition] = {}
    for start in range(0, len(shop.tables), 20):
        tables = shop.tables[start : start + 20]
        part = registry.model_copy(update={"connectors": (shop.model_copy(update={"tables": tables}),)})
        job = registry_definitions(part).get_repository_def().get_job("__ASSET_JOB")
        jobs |= {table.name: job for table in tables}
    return jobs
