"""Status, runs and data as pages: what they show, hostile names and values, who may do what."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import quote

import pyarrow as pa
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from orchestration.headrace import Headrace
from tests.orchestration.stored import HOSTILE, end, set_aside, store
from tests.orchestration.web.people import People

ORDERS = pa.table({"id": [1, 2], HOSTILE: [HOSTILE, None]})
NAMED = f"connector=shop&table={quote(HOSTILE)}"


@pytest.fixture
def installation(hr: Headrace) -> Headrace:
    store(hr, ORDERS, table=HOSTILE, watermark_after=HOSTILE, window_low=HOSTILE, window_high=HOSTILE)
    end(hr, "shop", HOSTILE, HOSTILE, status="failed", error=HOSTILE, error_type=HOSTILE)
    set_aside(
        hr,
        "shop",
        HOSTILE,
        {"key": HOSTILE, "column_name": HOSTILE, "reason": HOSTILE, "value": HOSTILE, "_headrace_run": HOSTILE},
    )
    return hr


PATHS = [
    "/headrace/",
    f"/headrace/?search={quote(HOSTILE)}&connector={quote(HOSTILE)}&health={quote(HOSTILE)}&order={quote(HOSTILE)}",
    "/headrace/?search=img&health=attention",
    "/headrace/runs",
    f"/headrace/runs?connector={quote(HOSTILE)}&pipeline={quote(HOSTILE)}&status={quote(HOSTILE)}",
    "/headrace/runs/one",
    "/headrace/runs/one/events",
    f"/headrace/runs/{quote(HOSTILE.replace('/', ''), safe='')}",
    "/headrace/data",
    f"/headrace/data?search={quote(HOSTILE)}&connector={quote(HOSTILE)}",
    f"/headrace/data/table?{NAMED}",
    f"/headrace/data/table?connector={quote(HOSTILE)}&table={quote(HOSTILE)}",
    f"/headrace/data/preview?{NAMED}",
    f"/headrace/data/preview?{NAMED}&layer=bronze",
    f"/headrace/data/preview?{NAMED}&layer=quarantine",
    f"/headrace/data/quarantine?{NAMED}",
    "/headrace/data/sql",
    f"/headrace/data/sql?query={quote(HOSTILE)}",
]


@pytest.mark.parametrize("htmx", [False, True])
def test_hostile_names_and_values_are_text_on_every_page(
    web_app: Callable[..., Starlette], people: People, installation: Headrace, htmx: bool
) -> None:
    client = people.client(web_app("/data"), "operator")
    shown = 0
    for path in PATHS:
        answer = client.get(f"/data{path}", headers={"HX-Request": "true"} if htmx else {})
        assert answer.status_code in (200, 404), (path, answer.status_code)
        _holds_no_markup(answer.text, path)
        shown += answer.text.count("&lt;img src=x onerror=alert(1)&gt;")
    assert shown > 30
    for query in (
        f"SELECT '{HOSTILE.replace(chr(39), chr(39) * 2)}' AS \"{HOSTILE.replace(chr(34), chr(34) * 2)}\"",
        HOSTILE,
    ):
        answer = client.post("/data/headrace/data/sql", data={"query": query, "rows": "5"})
        assert answer.status_code in (200, 422)
        _holds_no_markup(answer.text, query)
        assert "&lt;img" in answer.text or answer.status_code == 422


class _Markup(HTMLParser):
    """What a browser would take for markup, as far as none of ours has it."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" or (tag == "script" and not str(given.get("src")).startswith("/data/headrace/static/")):
            self.foreign.append(tag)
        self.foreign += [name for name in given if name.startswith("on") or name == "style"]
        self.foreign += [str(value) for name, value in attrs if name in ("href", "src") and "script:" in str(value)]


def _holds_no_markup(text: str, where: str) -> None:
    markup = _Markup()
    markup.feed(text)
    assert markup.foreign == [], where
    assert "{49}" not in text and "$49" not in text, f"{where}: a template in a value was run"


def test_the_status_shows_every_table_and_what_needs_attention(
    web_app: Callable[..., Starlette], people: People, hr: Headrace
) -> None:
    for number in range(60):
        end(hr, "shop", f"public.t{number:02}", "g", rows_silver=number, equal=True)
    end(hr, "shop", "public.bad", "h", status="failed", error="the password is wrong. Set another one.")
    client = people.client(web_app(), "viewer")
    page = client.get("/headrace/").text
    assert '<strong aria-live="polite">1</strong> needs attention' in page
    assert "1–50 of 61 tables" in page and "public.t48" in page and "public.t49" not in page
    assert "public.t59" in client.get("/headrace/?offset=50").text
    failed = client.get("/headrace/?health=failed").text
    assert "Set another one." in failed and "public.t00" not in failed and 'class="bar-failed"' in failed
    live = client.get("/headrace/", headers={"HX-Request": "true"}).text
    assert "<html" not in live and "public.t00" in live
    for odd in ("offset=-1", "offset=x", "offset=99999999999999999999", "order=drop", "health=%00", "search=%00"):
        assert client.get(f"/headrace/?{odd}").status_code == 200


def test_a_run_shows_its_tables_in_time_and_who_may_operate_acts(
    web_app: Callable[..., Starlette], people: People, hr: Headrace
) -> None:
    for number in range(3):
        end(hr, "shop", f"public.t{number}", "g", rows_read=10, window_low="1", window_high="9", mode="incremental")
    end(hr, "shop", "public.bad", "g", status="failed", error="permission denied")
    app = web_app()
    viewer, operator = people.client(app, "viewer"), people.client(app, "operator")
    page = viewer.get("/headrace/runs/g").text
    assert "(1, 9]" in page and "<svg" in page and "permission denied" in page and "1 failed" in page
    assert page.index("public.bad") < page.index("public.t0"), "what failed comes first"
    assert "hx-post" not in page and "Run the failed tables again" in operator.get("/headrace/runs/g").text
    assert "public.t0" not in viewer.get("/headrace/runs/g?status=failed").text
    events = viewer.get("/headrace/runs/g/events").text
    assert "started" in events and "permission denied" in events
    assert viewer.post("/headrace/runs/g/cancel").status_code == 403
    assert "The run has ended: failed." in operator.post("/headrace/runs/g/cancel").text, "an ended run stays as it is"
    refused = operator.post("/headrace/runs/g/rerun?failed=1")
    assert refused.status_code in (404, 422), "there is no stack that would do it"
    assert viewer.get("/headrace/runs/none").status_code == 404


def test_the_pages_of_a_table_show_rows_origin_and_quarantine(
    web_app: Callable[..., Starlette], people: People, hr: Headrace
) -> None:
    store(hr, pa.table({"orderID": [1, 2], "city": ["Rome", None]}))
    client = people.client(web_app(), "viewer")
    named = "connector=shop&table=public.orders"
    page = client.get(f"/headrace/data/table?{named}").text
    assert "orderID" in page and "order_id" in page and "int64" in page
    rows = client.get(f"/headrace/data/preview?{named}").text
    assert "Rome" in rows and "NULL" in rows
    assert "Nothing was set aside." in client.get(f"/headrace/data/quarantine?{named}").text
    set_aside(
        hr, "shop", "public.orders", {"key": "[2]", "column_name": "city", "reason": "is no number", "value": "x"}
    )
    assert "is no number" in client.get(f"/headrace/data/quarantine?{named}").text
    answer = client.post(
        "/headrace/data/sql", data={"query": "SELECT city FROM silver.shop__public__orders ORDER BY 1"}
    )
    assert answer.status_code == 200 and "Rome" in answer.text
    assert client.get("/headrace/data/table?connector=shop&table=none").status_code == 404
    assert client.get("/headrace/data/table").status_code == 404


def test_rows_need_the_scope_data(web_app: Callable[..., Starlette], people: People, hr: Headrace) -> None:
    from datetime import timedelta

    from tests.orchestration.web.people import bearer

    store(hr, pa.table({"id": [1]}))
    client: TestClient = bearer(web_app(), people.access.make_token("t", "admin", ["read"], timedelta(days=1))[1])
    assert client.get("/headrace/").status_code == 200
    assert "/headrace/data/table" not in client.get("/headrace/").text
    for path in ("/headrace/data", "/headrace/data/sql", "/headrace/data/preview?connector=shop&table=public.orders"):
        assert client.get(path).status_code == 403
    assert client.post("/api/v1/sql", json={"query": "SELECT 1"}).status_code == 403
    assert client.get("/api/v1/tables/shop/public.orders/preview").status_code == 403
