"""Stored tables over HTTP: health, rows, columns and their origin, what was set aside."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from assets.catalog.lateness import overdue_before
from assets.catalog.models import now
from assets.catalog.table_states import TableStateRow
from orchestration.headrace import Headrace
from tests.orchestration.stored import HOSTILE, end, set_aside, store

CONFIG = {"host": "127.0.0.1", "port": 9, "database": "shop", "user": "reader", "password": "p"}


def began(hr: Headrace, table: str, ago: timedelta) -> None:
    """Let the table's last success be older than it is."""
    with hr.catalog._writing() as session:
        row = session.get(TableStateRow, ("shop", table))
        assert row is not None
        row.synced_from = row.started_at = now() - ago


def test_what_needs_attention_is_counted_and_found(client: TestClient, hr: Headrace) -> None:
    hr.connectors.add("shop", "postgres", CONFIG)
    hr.pipelines.add("often", "shop", ["public.late", "public.fresh", "public.moved"], schedule="every:15m")
    hr.pipelines.add("rarely", "shop", ["public.old"], schedule="cron:0 3 1 * *")
    for table, pipeline in (("late", "often"), ("fresh", "often"), ("old", "rarely"), ("moved", "often")):
        end(hr, "shop", f"public.{table}", f"of-{pipeline}", pipeline, equal=True)
    end(hr, "shop", "public.bad", "g2", status="failed", error="permission denied")
    end(hr, "shop", "public.differs", "g3", equal=False)
    end(hr, "shop", "public.manual", "g4", equal=True)
    for table in ("late", "old", "manual", "moved"):
        began(hr, f"public.{table}", timedelta(hours=2))
    page = client.get("/tables", params={"health": ["late", "failed", "differs"]}).json()
    assert {item["table"]: item["health"] for item in page["items"]} == {
        "public.late": "late",
        "public.moved": "late",
        "public.bad": "failed",
        "public.differs": "differs",
    }
    assert 7100 < next(i["lag_seconds"] for i in page["items"] if i["table"] == "public.late") < 7400
    assert client.get("/status").json()["health"] == {"syncing": 0, "failed": 1, "differs": 1, "late": 2, "ok": 3}
    hr.pipelines.add("often", "shop", ["public.late", "public.manual"], schedule="every:15m", replace=True)
    late = client.get("/tables", params={"health": "late"}).json()["items"]
    assert [item["table"] for item in late] == ["public.late", "public.manual"], "as the pipeline is now"
    end(hr, "shop", "public.late", "g5", equal=True)
    assert client.get("/tables/shop/public.late/state").json()["pipeline"] == "often", "a run by hand changes no owner"
    hr.pipelines.pause("often")
    assert client.get("/tables", params={"health": "late"}).json()["total"] == 0, "a paused schedule is not missed"


@pytest.mark.parametrize(
    ("kind", "expression", "at", "expected"),
    [
        ("interval", "15m", "2026-03-01T12:00", "2026-03-01T11:37:30"),
        ("interval", "1d", "2026-03-02T12:00", "2026-03-01T11:00"),
        ("cron", "0 * * * *", "2026-03-01T12:29", "2026-03-01T11:00"),
        ("cron", "0 * * * *", "2026-03-01T12:30", "2026-03-01T12:00"),
        ("cron", "0 3 * * *", "2026-03-01T02:30", "2026-02-28T02:00"),
    ],
)
def test_late_is_what_the_schedule_should_have_started(kind: str, expression: str, at: str, expected: str) -> None:
    from datetime import UTC, datetime

    zone = "Europe/Berlin" if expression == "0 3 * * *" else "UTC"
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert overdue_before(kind, expression, zone, when) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_rows_columns_and_what_was_set_aside(client: TestClient, hr: Headrace) -> None:
    rows = pa.table({"orderID": [1, 2, 3], "naïve city": [HOSTILE, None, "x" * 5000]})
    store(hr, rows, table="odd/na me.t")
    path = "/tables/shop/odd/na me.t"
    shown = client.get(f"{path}/preview", params={"rows": 2}).json()
    assert [column["name"] for column in shown["columns"]] == ["order_id", "na_xef_ve_city"]
    assert (shown["rows"], shown["more"]) == ([["1", HOSTILE], ["2", None]], True)
    assert len(client.get(f"{path}/preview").json()["rows"][2][1]) < 2100, "a long value is cut"
    bronze = client.get(f"{path}/preview", params={"layer": "bronze"}).json()
    assert bronze["columns"][0]["name"] == "orderID"
    ways = client.get(f"{path}/lineage").json()
    assert [ways[0][name] for name in ("source", "bronze", "silver")] == ["orderID", "orderID", "order_id"]
    assert client.get(f"{path}/quarantine").json()["total"] == 0
    set_aside(hr, "shop", "odd/na me.t", {"key": "[2]", "column_name": "city", "reason": "no number", "value": HOSTILE})
    (value,) = client.get(f"{path}/quarantine").json()["values"]
    assert (value["key"], value["column"], value["reason"], value["value"]) == ("[2]", "city", "no number", HOSTILE)
    assert client.get(path).json()["info"]["quarantined_values"] == 1
    assert client.get(f"{path}/runs").json()[0]["rows_read"] == 3
    for missing in ("preview", "lineage", "quarantine", "state"):
        assert client.get(f"/tables/shop/none/{missing}").status_code == 404
    assert client.post("/tables/shop/none/reset").status_code == 404
    refused = client.post(f"{path}/reset")
    assert refused.status_code == 422 and "headrace up" in refused.json()["remedy"]
