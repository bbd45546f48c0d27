"""Hostile names and values on every page: shown as text, whatever they hold. And: no input without a label."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from starlette.applications import Starlette
from starlette.routing import Mount

from assets.steps import SyncSteps
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.web.routing import Page
from tests.behaviour.installation import Installation
from tests.orchestration.browser.conftest import PHONE, WIDE, Visitor

MARK = "<img src=x onerror=alert(1)>"
TABLE = f"o\"'{MARK}"
COLUMN = f"</select>{MARK}"
VALUE = f"--></script>{MARK}"
"""Each closes what it could stand in, and would say something."""


UNLABELLED = """() => [...document.querySelectorAll("main :is(input, select, textarea, button, a)")]
    .filter((element) => element.type !== "hidden" && !element.labels?.length)
    .filter((element) => !element.getAttribute("aria-label") && !element.textContent.trim())
    .map((element) => element.outerHTML)"""


@pytest.fixture
def hostile(hr: Headrace, postgres: EmbeddedPostgres, database: Callable[[], str]) -> Headrace:
    """An installation whose one table has such a name, column and value; it was synced once and failed once."""
    name = database()
    quoted = [part.replace('"', '""') for part in (TABLE, COLUMN)]
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(f'CREATE TABLE "{quoted[0]}" (id int PRIMARY KEY, "{quoted[1]}" text)'.encode())
        connection.execute(f'INSERT INTO "{quoted[0]}" VALUES (1, %s)'.encode(), [VALUE])
    installation = Installation.__new__(Installation)
    installation.server, installation.database, installation.settings = postgres, name, hr.settings
    installation.steps = SyncSteps.from_settings(hr.settings)
    hr.connectors.add("shop", "postgres", postgres.config(name))
    hr.pipelines.add("shop", "shop", [f"public.{TABLE}"], schedule="every:1h")
    installation.sync(f"public.{TABLE}", run_group="run-good", pipeline="shop")
    return hr


def pages_of(app: Starlette) -> list[str]:
    """Every page that is shown by GET, with the hostile names in its address where it takes one."""
    from urllib.parse import quote

    of_table = f"?connector=shop&table={quote('public.' + TABLE, safe='')}&search={quote(MARK)}"
    known = {"{name}": "shop", "{run_id}": "run-good"}
    found = []
    for mount in app.routes:
        if not isinstance(mount, Mount) or mount.name != "headrace":
            continue
        for route in mount.routes:
            if not isinstance(route, Page) or "GET" not in (route.methods or ()) or route.path.endswith("/stream"):
                continue
            path = route.path
            for part, value in known.items():
                path = path.replace(part, value)
            found.append(f"/headrace{path}{of_table}")
    return found


def test_hostile_names_and_values_are_text_on_every_page(
    visit: Callable[..., Visitor], hostile: Headrace, web_app: Callable[..., Starlette]
) -> None:
    window = visit()
    shown = set()
    wizard = "/headrace/connectors/add-new"
    for address in [*pages_of(web_app()), f"{wizard}?type=postgres", f"{wizard}?type=rest_api"]:
        page = window.go(address)
        assert page.locator("img[src=x], main script:not([src])").count() == 0, address
        text = page.inner_text("body")
        shown |= {kind for kind, mark in (("table", TABLE), ("column", COLUMN), ("value", VALUE)) if mark in text}
        if page.locator("main").count() == 0:
            continue  # a part of a page
        assert page.evaluate(UNLABELLED) == [], address
        assert page.locator("h1").count() == 1, address
        for size in (WIDE, PHONE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{address} is too wide"
    assert shown == {"table", "column", "value"}
    assert window.errors == []


def test_hostile_names_are_text_in_the_wizard(visit: Callable[..., Visitor], hostile: Headrace) -> None:
    config = {key: str(value) for key, value in hostile.catalog.connector("shop").config.model_dump().items() if value}
    config["password"] = hostile.catalog.connector("shop").config.password.get_secret_value()
    window = visit()
    page = window.go("/headrace/connectors/add-new?type=postgres")
    page.get_by_label("Name of the connector").fill("other")
    for name in ("host", "port", "database", "user", "password"):
        page.locator(f'[name="config.{name}"]').fill(config[name])
    page.get_by_role("button", name="Test the connection").click()
    page.get_by_role("button", name="Next: tables").click()
    page.get_by_role("checkbox", name=f"public.{TABLE}").check()
    page.get_by_role("button", name=f"Choose the columns of public.{TABLE}").click()
    page.get_by_label(f"Column {COLUMN} of public.{TABLE}").select_option("mask")
    page.get_by_role("button", name="Next: review").click()
    expect(page.locator("#review")).to_contain_text(f"{COLUMN} masked")
    assert page.locator("img[src=x]").count() == 0 and window.errors == []
    page.get_by_label("Sync now").uncheck()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#flash")).to_contain_text("are stored")
    (table,) = hostile.pipelines.show("other").tables
    assert table.name == f"public.{TABLE}" and table.columns is not None and table.columns.mask == (COLUMN,)
    assert window.errors == []
