"""What Dagster's event log says of a run in which one table of five fails, and of its re-execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest

from assets.settings import Settings
from orchestration.components.connector_registry import CHECK, registry_definitions
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.registry_state import read_registry
from tests.behaviour.installation import Installation
from tests.polling import wait_until

GOOD = [f"public.t{number}" for number in range(3)]
SLOW, BROKEN = "public.slow", "public.broken"  # names in the SQL below are these, and the database's own


def silver(table: str) -> dg.AssetKey:
    return dg.AssetKey(["silver", "shop", table])


def reported(result: Any) -> tuple[set[dg.AssetKey], set[dg.AssetKey]]:
    """The Silver assets that were materialized, and those that were checked."""
    materialized = {event.asset_key for event in result.get_asset_materialization_events()}
    checked = {check.asset_key for check in result.get_asset_check_evaluations() if check.check_name == CHECK}
    return {key for key in materialized if key.path[0] == "silver"}, checked


@contextmanager
def reads_wait(shop: Installation, table: str, over: Callable[[], bool]) -> Iterator[None]:
    """In the block nobody reads the table before ``over`` says so, or two minutes have passed."""
    with shop.connect() as lock, ThreadPoolExecutor(1) as pool:
        lock.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

        def release() -> None:
            try:
                wait_until(over, 120)
            finally:
                lock.execute("ROLLBACK")

        released = pool.submit(release)
        yield
        released.result()


def test_four_tables_are_reported_when_each_ends_and_only_the_failed_one_is_done_again(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in GOOD:
        shop.execute(f"CREATE TABLE {table} AS SELECT 1 AS id", f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
    shop.execute(
        "CREATE TABLE gate AS SELECT 1 AS id",
        f"CREATE VIEW {SLOW} AS SELECT id, 'passed' AS gate FROM gate",
        f"CREATE TABLE {BROKEN} AS SELECT 1 AS id",
        f"CREATE ROLE {shop.database} LOGIN PASSWORD 'of the test'",
        f"GRANT SELECT ON {', '.join([*GOOD, SLOW])} TO {shop.database}",
    )
    settings = shop.settings
    config = shop.server.config(shop.database) | {"user": shop.database, "password": "of the test"}
    shop.steps.catalog.add_connector("shop", "postgres", config, replace=True)
    monkeypatch.setenv("HEADRACE_HOME", str(settings.home_path))
    tables = [*GOOD, SLOW, BROKEN]
    hr = Headrace(home=settings.home_path)
    hr.pipelines.add("five", "shop", tables)
    job = registry_definitions(read_registry(settings)).get_repository_def().get_job("pipeline_five")
    with LocalStack(Settings(home=settings.home_path)).start() as stack, dg.instance_for_test() as instance:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.record.temporal_address)
        with reads_wait(shop, "gate", lambda: all(map(instance.get_latest_materialization_event, map(silver, GOOD)))):
            first = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not first.success
        wanted = {silver(table) for table in [*GOOD, SLOW]}
        assert reported(first) == (wanted, wanted)
        (failure,) = [event for event in first.all_events if event.is_step_failure]
        assert "permission denied for table broken" in str(failure.step_failure_data.error)

        at = {
            entry.dagster_event.asset_key: entry.timestamp
            for entry in instance.all_logs(first.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            if entry.dagster_event
        }
        runs = {row.table: row for row in shop.steps.catalog.table_runs("shop")}
        slow_ended = runs[SLOW].completed_at
        assert slow_ended is not None
        for table in GOOD:  # told while the slow one was still being read
            ended = runs[table].completed_at
            assert ended is not None and ended.timestamp() <= at[silver(table)] < slow_ended.timestamp()

        shop.execute(f"GRANT SELECT ON {BROKEN} TO {shop.database}")
        retried = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([layer, "shop", BROKEN]) for layer in ("bronze", "silver")],
            tags={
                "dagster/parent_run_id": first.run_id,
                "dagster/root_run_id": first.run_id,
                "dagster/is_asset_resume_retry": "true",
            },
        )
        assert retried.success
        assert reported(retried) == ({silver(BROKEN)}, {silver(BROKEN)})
    done = sorted((row.table, row.status) for row in shop.steps.catalog.table_runs("shop"))
    assert done == sorted([(BROKEN, "failed"), *((table, "succeeded") for table in tables)])
