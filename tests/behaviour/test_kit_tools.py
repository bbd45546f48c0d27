"""Tools of kits that reach outside, kits that go on from kits, and what starts a kit in Dagster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.kits.kit_file import load_kit
from assets.settings import Settings
from orchestration.defs.kits import INPUTS_TAG, TRIGGER_TAG, kit_definitions, requests_of_failed_tables
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.kit_runs import run, write_kit
from tests.polling import wait_until
from tests.servers.databricks_server import DatabricksServer
from tests.servers.rest_server import RestServer


@pytest.fixture
def hr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Headrace:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return Headrace(settings=Settings())


@pytest.fixture
def api() -> Iterator[RestServer]:
    with RestServer() as server:
        server.tables["orders"] = [{"id": 1, "updated_at": "2026-01-01"}]
        yield server


CALLS = """
    objective: Ask an API.
    inputs:
      path: {type: text, default: orders}
    tools:
      api: {kind: http, url: "URL/offset", headers: {Authorization: "env:KIT_TOKEN"}}
    playbook:
      - step: ask
        tool: api
        with: {path: "{{ inputs.path }}"}
        success: output.status == 200
        retry: {attempts: 3, wait: 1s}
    metrics:
      answer: steps.ask.text
"""


def test_an_http_tool_calls_below_its_address_only_with_one_key_for_every_try(
    hr: Headrace, api: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    monkeypatch.setenv("KIT_TOKEN", "kit-token-canary")
    kit = write_kit(hr, "calls", CALLS.replace("URL", api.url))
    hr = Headrace(settings=Settings())
    api.fail = {1: "status 503", 2: "status 429 1"}
    with LocalStack(hr.settings).start():
        result = run(hr, kit)
        assert result.status == "succeeded", result.reason
        assert json.loads(result.metrics["answer"])["items"] == api.tables["orders"]
        assert {headers["authorization"] for _, headers in api.requests} == {"kit-token-canary"}
        assert len({headers["idempotency-key"] for _, headers in api.requests}) == 1
        assert len(api.requests) == 3
        for path in ("../token", "//127.0.0.1/x", "http://169.254.169.254/latest"):
            escaped = run(hr, kit, {"path": path})
            assert escaped.status == "failed", path
        assert all(asked.startswith("/offset/") for asked, _ in api.requests)
        stored = json.dumps([output.model_dump(mode="json") for output in hr.kits.outputs(result.run_id)])
    assert "kit-token-canary" not in stored


def test_an_http_tool_may_not_reach_a_private_address_that_nobody_allowed(
    hr: Headrace, api: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_TOKEN", "x")
    kit = write_kit(hr, "calls", CALLS.replace("URL", api.url))
    with LocalStack(hr.settings).start():
        result = run(hr, kit)
    assert result.status == "failed"
    assert "127.0.0.1" in result.reason
    assert api.requests == []


CHAIN = """
    objective: Hand over.
    inputs:
      numbers: {type: list, default: [1, 2]}
    tools:
      say: {kind: text}
      other: {kind: kit, kit: second}
    playbook:
      - step: each
        tool: other
        for_each: inputs.numbers
        parallel: 2
        with: {number: "{{ item }}"}
        success: output.status == "succeeded"
      - step: told
        tool: say
        with: {text: "{{ steps.each['items'] | length }} done"}
    hand_off:
      - {kit: second, when: "steps.told.text == '2 done'", inputs: {number: 3}}
      - {kit: second, when: "steps.told.text == 'nothing'", inputs: {number: 4}}
"""
SECOND = """
    objective: Say a number.
    inputs:
      number: {type: integer, required: true}
    tools:
      say: {kind: text}
    playbook:
      - step: say
        tool: say
        with: {text: "number {{ inputs.number }}"}
        approval: {question: "Say {{ inputs.number }}?", expires: 1m}
"""


def test_a_kit_runs_others_as_steps_and_hands_over_and_their_approvals_are_found(hr: Headrace) -> None:
    write_kit(hr, "second", SECOND)
    write_kit(hr, "first", CHAIN)
    with LocalStack(hr.settings).start():
        record: Any = hr.kits.run("first", wait=False)
        decided: set[str] = set()

        def all_decided() -> bool:
            for waiting in hr.kits.runs("second"):
                if waiting.waiting and waiting.run_id not in decided:
                    hr.kits.approve(waiting.run_id)
                    decided.add(waiting.run_id)
            return len(decided) == 3 and all(r.status != "running" for r in hr.kits.runs("second"))

        wait_until(all_decided, 90)
        wait_until(lambda: hr.catalog.kit_run(record.run_id).status != "running", 30)
    assert hr.catalog.kit_run(record.run_id).status == "succeeded"
    runs = hr.kits.runs("second")
    assert sorted(run.inputs["number"] for run in runs) == [1, 2, 3], "the second hand-over's condition is not true"
    assert {(run.trigger, run.status) for run in runs} == {("kit first", "succeeded")}


JOB = """
    objective: Run a job there.
    tools:
      job: {kind: databricks_job, job: {name: from_kit, poll_seconds: 0.5, tasks: TASKS}}
    playbook:
      - step: run
        tool: job
    metrics:
      answer: steps.run.tasks[0].output
"""


def test_a_databricks_job_is_a_step_and_its_output_the_steps(
    hr: Headrace, databricks: DatabricksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {k: v for k, v in databricks.settings().items() if k.startswith("databricks")}
    for name, value in given.items():
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", value if isinstance(value, str) else value.get_secret_value())
    databricks.import_notebook("/from_kit", "dbutils.notebook.exit('42')")
    tasks = [{"task_key": "only", "notebook_task": {"notebook_path": "/from_kit"}}]
    kit = write_kit(hr, "job", JOB.replace("TASKS", json.dumps(tasks)))
    with LocalStack(hr.settings).start():
        result = run(hr, kit)
    assert (result.status, result.metrics) == ("succeeded", {"answer": "42"}), result.reason


TRIGGERED = """
    objective: Count the orders.
    inputs:
      connector: {type: text, default: shop}
      table: {type: text, default: public.orders}
    triggers:
      - {schedule: "cron:0 6 * * 1", timezone: Europe/Berlin}
      - {schedule: "every:6h"}
      - {after_asset: silver/shop/public.orders}
      - {event: failed_sync}
    constraints: {tables: {write: [counted]}}
    tools:
      query: {kind: sql}
    playbook:
      - step: count
        tool: query
        with: {sql: "SELECT count(*) AS n FROM silver.shop__public__orders"}
        write: counted
"""


def test_a_kit_is_an_asset_with_lineage_and_starts_by_schedule_after_an_asset_and_on_a_failed_sync(
    hr: Headrace, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        connection.execute("INSERT INTO orders SELECT generate_series(1, 7)")
    hr.connectors.add("shop", "postgres", postgres.config(name))
    kit = load_kit(hr.settings, write_kit(hr, "counts", TRIGGERED))
    orders = dg.AssetKey(["silver", "shop", "public.orders"])
    definitions = kit_definitions(kit, {"silver.shop__public__orders": orders})
    (schedule,) = list(definitions.schedules or ())
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 6 * * 1", "Europe/Berlin")
    sensors = {sensor.name: sensor for sensor in definitions.sensors or ()}
    assert set(sensors) == {"kit_counts_1", "kit_counts_2", "kit_counts_3"}
    with LocalStack(hr.settings).start() as stack, dg.instance_for_test() as instance:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
        hr.sync("shop", ["public.orders"])
        repository = definitions.get_repository_def()
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        assert not sensors["kit_counts_2"].evaluate_tick(context).run_requests
        instance.report_runless_asset_event(dg.AssetMaterialization(orders))
        (request,) = list(sensors["kit_counts_2"].evaluate_tick(context).run_requests or ())
        assert request.tags[TRIGGER_TAG] == "silver/shop/public.orders"

        job = repository.get_job("kit_counts_job")
        ended = job.execute_in_process(instance=instance, tags=request.tags)
        assert ended.success
        (made,) = ended.asset_materializations_for_node("kit_counts")
        assert made.asset_key == dg.AssetKey(["gold", "counts", "counted"])
        assert made.metadata["status"].value == "succeeded"
        node = repository.asset_graph.get(made.asset_key)
        assert node.parent_keys == {orders}
        (kit_run,) = hr.kits.runs("counts")
        assert kit_run.trigger == "silver/shop/public.orders"

        look = dg.build_sensor_context(instance=instance)
        first = requests_of_failed_tables(look, kit, {})
        assert isinstance(first, dg.SensorResult)
        assert first.run_requests == []
        with postgres.connect(name, autocommit=True) as connection:
            connection.execute("DROP TABLE orders")
        (failed,) = hr.sync("shop", ["public.orders"]).tables
        assert failed.status == "failed"
        again = dg.build_sensor_context(instance=instance, cursor=first.cursor)
        found = requests_of_failed_tables(again, kit, {})
        assert isinstance(found, dg.SensorResult)
        (request,) = list(found.run_requests or ())
        assert json.loads(request.tags[INPUTS_TAG]) == {"connector": "shop", "table": "public.orders"}
