"""The catalog as Dagster sees it, and one real materialization through a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.settings import Settings
from assets.sync import Column
from orchestration.components import connector_registry
from orchestration.components.connector_registry import CHECK, PIPELINE_TAG, registry_definitions
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.registry_state import (
    RegisteredConnector,
    RegisteredPipeline,
    RegisteredTable,
    RegistryState,
    asset_parts,
    read_registry,
)


def table(name: str) -> RegisteredTable:
    return RegisteredTable(
        name=name,
        part=asset_parts([name])[name],
        columns=(Column(name="id", source_type="integer", arrow_type="int32"),),
        key=("id",),
        bronze_uri=f"/tables/bronze/{name}",
        silver_uri=f"/tables/silver/{name}",
        bronze_name=f"headrace.bronze.{name}",
        silver_name=f"headrace.silver.{name}",
    )


def state(*tables: str, pipelines: tuple[RegisteredPipeline, ...] = ()) -> RegistryState:
    connector = RegisteredConnector(name="shop", type="postgres", tables=tuple(table(name) for name in tables))
    return RegistryState(version="1", connectors=(connector,), pipelines=pipelines)


def test_each_table_is_a_source_a_bronze_and_a_silver_asset_in_the_connectors_group() -> None:
    graph = registry_definitions(state("public.a", "public.b")).resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        f"{layer}/shop/public.{name}" for layer in ("source", "bronze", "silver") for name in "ab"
    }
    silver = graph.get(dg.AssetKey(["silver", "shop", "public.a"]))
    assert silver.parent_keys == {dg.AssetKey(["bronze", "shop", "public.a"])}
    assert graph.get(dg.AssetKey(["bronze", "shop", "public.a"])).parent_keys == {
        dg.AssetKey(["source", "shop", "public.a"])
    }
    assert silver.group_name == "shop"
    assert silver.kinds == {"delta", "silver", "postgres"}
    assert silver.owners == ["team:headrace"]
    assert graph.asset_check_keys == {
        dg.AssetCheckKey(dg.AssetKey(["silver", "shop", f"public.{n}"]), CHECK) for n in "ab"
    }


def test_tables_whose_names_meet_in_an_identifier_keep_keys_of_their_own() -> None:
    names = ["public.a_b", "public.a.b", "public.a b", 'public.a"b', "public.A_b", "public.emoji 🚰"]
    parts = asset_parts(names)
    assert len(set(parts.values())) == len(names)
    assert parts["public.A_b"] == "public.A_b"
    tables = tuple(table(name).model_copy(update={"part": parts[name]}) for name in names)
    connector = RegisteredConnector(name="shop", type="postgres", tables=tables)
    graph = registry_definitions(RegistryState(version="1", connectors=(connector,))).resolve_asset_graph()
    assert len(graph.get_all_asset_keys()) == 3 * len(names)


def test_a_pipeline_with_a_cron_has_a_schedule_in_its_time_zone_and_a_paused_one_does_not_run() -> None:
    pipelines = (
        RegisteredPipeline(
            name="hourly", connector="shop", tables=("public.a",), cron="5 * * * *", timezone="Europe/Paris"
        ),
        RegisteredPipeline(name="paused", connector="shop", tables=("public.a",), cron="0 1 * * *", active=False),
        RegisteredPipeline(name="often", connector="shop", tables=("public.a",), interval_seconds=900),
        RegisteredPipeline(name="manual", connector="shop", tables=("public.a",)),
    )
    repository = registry_definitions(state("public.a", "public.b", pipelines=pipelines)).get_repository_def()
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert set(schedules) == {"schedule_hourly", "schedule_paused"}
    assert schedules["schedule_hourly"].execution_timezone == "Europe/Paris"
    assert schedules["schedule_hourly"].default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedules["schedule_paused"].default_status is dg.DefaultScheduleStatus.STOPPED
    (sensor,) = repository.sensor_defs
    assert (sensor.name, sensor.minimum_interval_seconds) == ("interval_often", 900)
    job = repository.get_job("pipeline_hourly")
    assert job.tags[PIPELINE_TAG] == "hourly"
    assert {key.path[2] for key in job.asset_layer.selected_asset_keys} == {"public.a"}


def test_where_jobs_would_be_too_many_a_schedule_starts_the_job_of_all_assets_with_its_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connector_registry, "MOST_RESOLVED", 0)
    pipelines = (
        RegisteredPipeline(name="hourly", connector="shop", tables=("public.a",), cron="5 * * * *"),
        RegisteredPipeline(name="often", connector="shop", tables=("public.b",), interval_seconds=900),
    )
    repository = registry_definitions(state("public.a", "public.b", pipelines=pipelines)).get_repository_def()
    repository.load_all_definitions()
    assert [job.name for job in repository.get_all_jobs()] == ["__ASSET_JOB"]
    (schedule,), (sensor,) = repository.schedule_defs, repository.sensor_defs
    assert (schedule.job_name, sensor.job_name) == ("__ASSET_JOB", "__ASSET_JOB")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with (  # contexts left open keep the instance as Dagster's current one after its end
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance=instance, repository_def=repository, scheduled_execution_time=at
        ) as schedule_context,
        dg.build_sensor_context(instance=instance, repository_def=repository) as sensor_context,
    ):
        hourly = list(schedule.evaluate_tick(schedule_context).run_requests or ())
        often = list(sensor.evaluate_tick(sensor_context).run_requests or ())
    for requests, name, table in ((hourly, "hourly", "a"), (often, "often", "b")):
        (request,) = requests
        assert request.tags[PIPELINE_TAG] == name
        assert {key.path[2] for key in request.asset_selection or ()} == {f"public.{table}"}


def test_where_tables_are_very_many_a_connector_has_one_source_and_all_else_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connector_registry, "MOST_DESCRIBED", 1)
    repository = registry_definitions(state("public.a", "public.b")).get_repository_def()
    repository.load_all_definitions()
    graph = repository.asset_graph
    source = dg.AssetKey(["source", "shop"])
    layers = {dg.AssetKey([layer, "shop", f"public.{name}"]) for layer in ("bronze", "silver") for name in "ab"}
    assert graph.get_all_asset_keys() == {source, *layers}
    for key in layers:
        above = source if key.path[0] == "bronze" else dg.AssetKey(["bronze", *key.path[1:]])
        assert graph.get(key).parent_keys == {above}
        assert graph.get(key).group_name == "shop"
    assert len(graph.asset_check_keys) == 2


def test_hundreds_of_tables_are_one_step() -> None:
    repository = registry_definitions(state(*(f"public.t{i}" for i in range(500)))).get_repository_def()
    (job,) = [job for job in repository.get_all_jobs() if job.name == "__ASSET_JOB"]
    assert [node.name for node in job.nodes] == ["sync_shop"]


@pytest.fixture
def shop(
    headrace_home: Path,
    postgres: EmbeddedPostgres,
    database: Callable[[], str],
) -> Headrace:
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute('CREATE TABLE orders (id int PRIMARY KEY, "Total" numeric(10, 2), updated_at timestamptz)')
        connection.execute("INSERT INTO orders SELECT i, i / 3.0, now() FROM generate_series(1, 50) i")
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    hr = Headrace(home=headrace_home)
    hr.connectors.add("shop", "postgres", postgres.config(name))
    return hr


def test_materializing_a_subset_syncs_it_and_reports_rows_schema_lineage_and_proof(
    shop: Headrace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = registry_definitions(read_registry(settings))
    with LocalStack(settings).start(temporal=True, worker=True, dagster=False) as stack:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.record.temporal_address)
        with dg.DagsterInstance.ephemeral() as instance:
            (assets,) = [a for a in definitions.assets or [] if isinstance(a, dg.AssetsDefinition)]
            keys: Any = [dg.AssetKey([layer, "shop", "public.orders"]) for layer in ("bronze", "silver")]
            result = dg.materialize([assets], selection=keys, instance=instance)
            assert result.success
            events = {e.asset_key: e.materialization for e in result.get_asset_materialization_events()}
            assert set(events) == set(keys)
            silver = events[keys[1]].metadata
            assert silver["dagster/row_count"].value == 50
            schema: Any = silver["dagster/column_schema"].value
            assert {"id", "total", "updated_at"} == {column.name for column in schema.columns}
            lineage: Any = silver["dagster/column_lineage"].value
            assert lineage.deps_by_column["total"] == [dg.TableColumnDep(asset_key=keys[0], column_name="Total")]
            (check,) = result.get_asset_check_evaluations()
            assert (check.check_name, check.passed) == (CHECK, True)
    assert [t.rows for t in shop.tables("shop") if t.table == "public.orders"] == [50]


def test_a_webserver_that_headrace_did_not_start_is_reached_by_its_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.defs import catalog_refresh

    asked: list[str] = []
    with dg.instance_for_test() as instance:
        skipped = catalog_refresh.catalog_refresh(dg.build_sensor_context(instance=instance))
        assert isinstance(skipped, dg.SkipReason) and "HEADRACE_DAGSTER_URL" in str(skipped.skip_message)
        monkeypatch.setenv("HEADRACE_DAGSTER_URL", "http://127.0.0.1:3000/")
        monkeypatch.setattr(catalog_refresh, "refresh_component_state", lambda url, _: asked.append(url) or "Done")
        refreshed = catalog_refresh.catalog_refresh(dg.build_sensor_context(instance=instance))
    assert asked == ["http://127.0.0.1:3000"]
    assert isinstance(refreshed, dg.SensorResult) and refreshed.cursor


def test_a_deferred_run_ends_at_once_and_the_sensor_reports_its_tables_once_each(
    shop: Headrace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.defs.sync_history import sync_history

    shop.pipelines.add("all_of_it", "shop", all_tables=True, deferred=True)
    definitions = registry_definitions(read_registry(settings))
    repository = definitions.get_repository_def()
    with LocalStack(settings).start() as stack, dg.instance_for_test() as instance:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.record.temporal_address)
        result = repository.get_job("pipeline_all_of_it").execute_in_process(instance=instance)
        assert result.success
        assert result.get_asset_materialization_events() == []
        (run,) = shop.catalog.runs()
        assert run.deferred
        deadline = time.monotonic() + 60
        while shop.catalog.run(run.run_group).status == "running":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shop.sync("shop", ["public.orders"])  # from the command line: no Dagster run at all
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        told = sync_history(context)
        assert isinstance(told, dg.SensorResult)
        seen: list[Any] = [(type(e).__name__, e.asset_key.path) for e in told.asset_events]
        orders, customers = ["silver", "shop", "public.orders"], ["silver", "shop", "public.customers"]
        assert seen.count(("AssetMaterialization", orders)) == 2
        assert seen.count(("AssetMaterialization", customers)) == 1
        assert seen.count(("AssetCheckEvaluation", orders)) == 2
        again = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=told.cursor)
        assert isinstance(sync_history(again), dg.SkipReason)


def test_a_pipeline_on_changes_runs_when_the_source_changed_and_not_otherwise(
    shop: Headrace, settings: Settings, postgres: EmbeddedPostgres
) -> None:
    from orchestration.components.connector_registry import request_on_change

    shop.pipelines.add("fresh", "shop", ["public.orders"], schedule="changes:1m")
    registry = read_registry(settings)
    (sensor,) = registry_definitions(registry).get_repository_def().sensor_defs
    assert (sensor.name, sensor.minimum_interval_seconds) == ("changes_fresh", 60)
    (pipeline,) = registry.pipelines

    def look(cursor: str | None) -> tuple[int, str | None]:
        told = request_on_change(dg.build_sensor_context(cursor=cursor), pipeline)
        return (len(told.run_requests or ()), told.cursor) if isinstance(told, dg.SensorResult) else (0, cursor)

    config: Any = shop.connectors.show("shop").config
    with postgres.connect(config["database"], autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")
        requested, cursor = look(None)
        assert requested == 1
        assert look(cursor) == (0, cursor)
        for statement in (
            "INSERT INTO orders VALUES (1000, 1, now())",
            "UPDATE orders SET updated_at = now() WHERE id = 1000",
            "DELETE FROM orders WHERE id = 1000",
            "TRUNCATE orders",
        ):
            connection.execute(statement.encode())
            connection.execute("SELECT pg_stat_force_next_flush()")
            connection.execute("SELECT 1")
            requested, cursor = look(cursor)
            assert requested == 1, statement
            assert look(cursor) == (0, cursor)
        connection.execute("INSERT INTO customers VALUES (1)")  # no table of the pipeline
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")
        assert look(cursor) == (0, cursor)
