"""Figures for Prometheus: what they say, who may read them, and that names of tables cannot forge them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from assets.catalog.models import now
from assets.catalog.table_states import TableStateRow
from orchestration.headrace import Headrace
from orchestration.web import metrics
from tests.orchestration.web.people import People, anonymous, bearer

HOSTILE = 'a"} 1\nheadrace_table_rows{connector="forged",table="x\\'


def state(hr: Headrace, table: str, **fields: object) -> None:
    row = {
        "connector": "shop",
        "table_name": table,
        "status": "succeeded",
        "run_group": "r",
        "rows_read": 7,
        "started_at": now() - timedelta(seconds=90),
        "completed_at": now() - timedelta(seconds=60),
        "synced_from": now() - timedelta(seconds=90),
        "rows": 40,
        "bytes": 1234,
        "equal": True,
        "changed_at": now(),
    }
    with hr.catalog._writing() as session:
        session.add(TableStateRow(**row | fields))


def samples(text: str) -> dict[tuple[str, str], float]:
    """Value by name and table."""
    return {
        (sample.name, sample.labels.get("table") or sample.labels.get("status", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_table_has_its_figures(hr: Headrace, web_app: Callable[..., Starlette], people: People) -> None:
    state(hr, "public.good")
    state(hr, "public.bad", status="failed", equal=False, rows=3)
    state(hr, HOSTILE)
    client = bearer(web_app(), people.token("viewer"))
    client.get("/api/v1/connectors")
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.text)
    assert found["headrace_tables", "succeeded"] == 2 and found["headrace_tables", "failed"] == 1
    assert found["headrace_tables_differing", ""] == 1
    assert found["headrace_table_rows", "public.good"] == 40
    assert found["headrace_table_last_sync_rows", "public.good"] == 7
    assert found["headrace_table_last_sync_bytes", "public.good"] == 1234
    assert 29 < found["headrace_table_last_sync_seconds", "public.good"] < 31
    assert 89 < found["headrace_table_lag_seconds", "public.good"] < 300
    assert (found["headrace_table_failed", "public.bad"], found["headrace_table_equal", "public.bad"]) == (1, 0)
    assert found["headrace_table_rows", HOSTILE] == 40
    families = text_string_to_metric_families(answer.text)
    assert "forged" not in {sample.labels.get("connector") for family in families for sample in family.samples}
    assert found["headrace_web_requests_total", "200"] >= 1


def test_only_so_many_tables_have_figures_of_their_own(
    hr: Headrace, web_app: Callable[..., Starlette], people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_TABLES", 2)
    for number in range(5):
        state(hr, f"public.t{number}", status="failed" if number == 4 else "succeeded")
    found = samples(bearer(web_app(), people.token("viewer")).get("/metrics").text)
    shown = {table for name, table in found if name == "headrace_table_rows"}
    assert len(shown) == 2 and "public.t4" in shown, "what failed comes first"
    assert found["headrace_tables_left_out", ""] == 3


def test_figures_are_behind_the_login_and_a_scope_of_their_own(
    hr: Headrace, web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    assert anonymous(app).get("/metrics").status_code == 401
    only = people.access.make_token("prometheus", "viewer", ["metrics"], timedelta(days=1))[1]
    other = people.access.make_token("other", "viewer", ["read"], timedelta(days=1))[1]
    assert bearer(app, only).get("/metrics").status_code == 200
    assert bearer(app, only).get("/api/v1/connectors").status_code == 403
    assert bearer(app, other).get("/metrics").status_code == 403
