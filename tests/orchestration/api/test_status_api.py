"""The state of each table: kept by its runs, told to who watches, one look at the catalog for all of them."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from assets.sync import TableResult, TableSync
from orchestration.api import status_feed
from orchestration.api.problems import ApiError
from orchestration.api.status_feed import StatusFeed
from orchestration.headrace import Headrace


def work(table: str, run_group: str) -> TableSync:
    return TableSync(connector="shop", table=table, run_group=run_group)


def end(hr: Headrace, table: str, run_group: str, **result: Any) -> None:
    fields = {"connector": "shop", "table": table, "status": "succeeded"} | result
    hr.catalog.end_table_run(TableResult.model_validate(fields), work(table, run_group))


def test_a_tables_state_follows_its_latest_run_and_keeps_what_was_proved(hr: Headrace, client: TestClient) -> None:
    hr.catalog.begin_table_run(work("public.t", "one"))
    (state,) = client.get("/tables").json()["items"]
    assert (state["status"], state["rows"], state["equal"]) == ("running", None, None)
    end(hr, "public.t", "one", rows_silver=7, equal=True, watermark_after="2026-01-01")
    first = hr.catalog.table_state("shop", "public.t")
    assert first is not None and (first.rows, first.equal, first.watermark) == (7, True, "2026-01-01")
    hr.catalog.begin_table_run(work("public.t", "two"))
    end(hr, "public.t", "two", status="failed", error="permission denied", error_type="SourceAccessError")
    (state,) = client.get("/tables", params={"status": "failed"}).json()["items"]
    assert (state["run_group"], state["error"], state["rows"], state["equal"]) == ("two", "permission denied", 7, True)
    assert first.synced_from is not None
    assert state["synced_from"] == first.synced_from.isoformat().replace("+00:00", "Z")
    end(hr, "public.t", "one", rows_silver=9)
    latest = hr.catalog.table_state("shop", "public.t")
    assert latest is not None and (latest.run_group, latest.rows) == ("two", 7), "an older run changes nothing"
    end(hr, "public.u", "two", equal=False)
    assert client.get("/status").json()["tables"] == {"failed": 1, "succeeded": 1, "differing": 1}
    assert [run["run_group"] for run in client.get("/tables/shop/public.t/runs").json()] == ["two", "one"]
    stored = client.get("/tables/shop/public.u").json()
    assert (stored["info"]["table"], stored["info"]["bronze_uri"]) == ("public.u", None)


def test_runs_are_listed_by_pipeline_status_and_time(hr: Headrace, client: TestClient) -> None:
    end(hr, "public.t", "one", rows_read=5)
    end(hr, "public.t", "two", status="failed", error="x")
    page = client.get("/runs").json()
    assert page["total"] == 2
    (run,) = client.get("/runs", params={"status": "succeeded"}).json()["items"]
    assert (run["run_group"], run["table_count"], run["succeeded"], run["rows_read"]) == ("one", 1, 1, 5)
    started = hr.catalog.run("one").started_at
    later = {"since": (started + timedelta(days=1)).isoformat()}
    assert client.get("/runs", params=later).json()["total"] == 0
    assert client.get("/runs/one").json()["table_runs"][0]["rows_read"] == 5
    assert client.get("/runs", params={"since": "yesterday"}).status_code == 422


def test_all_who_watch_hear_of_a_change_once_by_one_look(hr: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_feed, "LOOK_SECONDS", 0.05)
    looks = 0
    read = hr.catalog.tables_changed_since

    def counted(since: Any) -> Any:
        nonlocal looks
        looks += 1
        return read(since)

    monkeypatch.setattr(hr.catalog, "tables_changed_since", counted)

    async def heard(events: Any) -> list[str]:
        found = []
        async for event in events:
            if event.startswith("event: tables"):
                found.append(json.loads(event.split("data: ")[1])[0]["status"])
            if found and found[-1] == "succeeded":
                await events.aclose()
        return found

    async def main() -> list[list[str]]:
        feed = StatusFeed(hr.catalog)
        watchers = [asyncio.create_task(heard(await feed.subscribe())) for _ in range(20)]
        await asyncio.sleep(0.2)
        before = looks
        hr.catalog.begin_table_run(work("public.t", "one"))
        await asyncio.sleep(0.3)
        end(hr, "public.t", "one")
        told = await asyncio.gather(*watchers)
        assert before < 20, "one look for all"
        monkeypatch.setattr(status_feed, "MAX_WATCHERS", 0)
        with pytest.raises(ApiError):
            await feed.subscribe()
        return told

    assert asyncio.run(main()) == [["running", "succeeded"]] * 20
