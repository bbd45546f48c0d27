"""The connectors' pages in a browser, against a real PostgreSQL: wizard, test, edit, removal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request, Route, expect

from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import Visitor

CANARY = "canary-never-shown-again"


@pytest.fixture
def shop(postgres: EmbeddedPostgres, database: Callable[[], str]) -> dict[str, str]:
    """A database with three tables; the config that reaches it, as a form wants it."""
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(12,2), mail text)")
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text, updated_at timestamptz)")
        connection.execute('CREATE TABLE "no key" (name text)')
    return {key: str(value) for key, value in postgres.config(name).items()}


def fill_credentials(page: Page, config: dict[str, str]) -> None:
    for name in ("host", "database", "user", "password"):
        page.locator(f'[name="config.{name}"]').fill(config[name])
    page.locator('[name="config.port"]').fill(config["port"])


def test_the_wizard_adds_a_connector_from_a_wrong_password_to_the_last_look(
    visit: Callable[..., Visitor], hr: Headrace, shop: dict[str, str]
) -> None:
    window = visit()
    page = window.go("/headrace/connectors")
    window.shot("connectors-empty")
    page.get_by_role("button", name="Add the first one").click()
    window.shot("wizard-types")
    page.get_by_role("link", name="PostgreSQL").click()
    expect(page.locator('[aria-current="step"]')).to_have_text("Credentials")
    window.shot("wizard-credentials")

    # nothing is asked of the source before the form is whole
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator(".field-error").first).to_be_visible()
    expect(page.locator("#name")).to_be_focused()
    next_step = page.get_by_role("button", name="Next: tables")
    expect(next_step).to_be_disabled()

    page.get_by_label("Name of the connector").fill("shop")
    fill_credentials(page, shop | {"password": CANARY})
    page.get_by_role("button", name="Test the connection").click()
    failing = page.locator(".check.failing")
    expect(failing).to_contain_text("login")
    expect(page.locator(".check.good").first).to_contain_text("network")
    expect(page.locator("#checks")).to_contain_text("login did not pass. 2 checks were not tried.")
    expect(next_step).to_be_disabled()
    assert CANARY not in page.content()
    window.shot("wizard-wrong-password")

    page.locator('[name="config.password"]').fill(shop["password"])
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#checks")).to_contain_text("All 5 checks passed.")
    window.shot("wizard-tested")
    next_step.click()

    expect(page.locator("#step-3")).to_be_focused()
    page.locator("#search").fill("ord")
    expect(page.locator("#tables .choose > tbody")).to_have_count(1)
    page.get_by_role("checkbox", name="public.orders").check()
    page.locator("#search").fill("")
    expect(page.locator("#tables .choose > tbody")).to_have_count(3)
    expect(page.get_by_role("checkbox", name="public.orders")).to_be_checked()
    page.get_by_role("checkbox", name="public.customers").check()
    page.get_by_label("Cursor of public.customers").select_option("updated_at")
    page.get_by_role("button", name="Choose the columns of public.orders").click()
    page.get_by_label("Column mail of public.orders").select_option("hash")
    page.locator("#search").fill("customers")  # what was chosen stays
    expect(page.locator("#tables .choose > tbody")).to_have_count(2)
    expect(page.get_by_text("mail hashed")).to_be_visible()
    page.locator("#search").fill("")
    expect(page.locator("#tables .choose > tbody")).to_have_count(3)
    page.get_by_label("When to sync").select_option("every")
    page.get_by_label("How often", exact=True).fill("often")
    window.shot("wizard-tables")

    page.get_by_role("button", name="Next: review").click()
    expect(page.locator("#schedule_every")).to_be_focused()
    expect(page.locator(".field-error")).to_contain_text("is no interval")
    page.get_by_label("How often", exact=True).fill("30m")
    page.get_by_role("button", name="Next: review").click()
    expect(page.locator("#review")).to_contain_text("mail hashed")
    expect(page.locator("#review")).to_contain_text("every:30m")
    assert shop["password"] not in page.locator("#review").inner_html()
    window.shot("wizard-review")

    page.get_by_label("Sync now").uncheck()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#flash")).to_contain_text("Connector shop and pipeline shop are stored.")
    window.shot("connector")
    record, pipeline = hr.connectors.show("shop"), hr.pipelines.show("shop")
    assert record.status == "active" and record.config["password"] == "********"
    assert pipeline.schedule == "every:30m"
    orders, customers = sorted(pipeline.tables, key=lambda table: table.name != "public.orders")
    assert orders.columns is not None and orders.columns.hash == ("mail",)
    assert customers.cursor == "updated_at"
    assert window.errors == []


def test_a_click_that_comes_before_the_pages_scripts_waits_for_them(
    visit: Callable[..., Visitor], hr: Headrace, shop: dict[str, str]
) -> None:
    hr.connectors.add("shop", "postgres", shop)
    window = visit()
    waiting: list[Route] = []
    tests: list[Request] = []
    window.page.route("**/forms.js*", lambda route: waiting.append(route))  # a builtin is no handler
    window.page.on("request", lambda request: tests.append(request) if request.url.endswith("/shop/test") else None)
    window.page.goto(f"{window.address}/headrace/connectors/shop", wait_until="commit")
    window.page.get_by_role("button", name="Test the connection").click()
    expect(window.page.locator("#checks")).to_be_empty()
    waiting.pop().continue_()
    expect(window.page.locator("#checks")).to_contain_text("All 5 checks passed.")
    assert len(tests) == 1 and waiting == [] and window.errors == []


def test_a_connector_is_tested_edited_and_removed(
    visit: Callable[..., Visitor], hr: Headrace, shop: dict[str, str]
) -> None:
    hr.connectors.add("shop", "postgres", shop)
    hr.pipelines.add("nightly", "shop", ["public.orders"])
    window = visit()
    page = window.go("/headrace/connectors")
    expect(page.locator("tbody .badge")).to_have_text("pending")
    page.get_by_role("link", name="shop").click()
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#checks")).to_contain_text("All 5 checks passed.")
    assert hr.connectors.show("shop").status == "active"

    page.get_by_role("button", name="Edit").click()
    expect(page.locator('[name="config.password"]')).to_have_value("")
    window.shot("connector-edit")
    page.locator('[name="config.database"]').fill("gone")
    page.get_by_role("button", name="Store the change").click()
    expect(page.locator(".check.failing")).to_contain_text("database")
    record = hr.connectors.show("shop")
    assert record.config["database"] == "gone" and record.config["password"] == "********"
    assert hr.catalog.connector("shop").config.password.get_secret_value() == shop["password"]
    assert record.status == "error"

    page.get_by_role("button", name="Edit").click()
    hr.connectors.update("shop", shop)
    page.get_by_role("button", name="Store the change").click()
    expect(page.locator("#problems")).to_contain_text("somebody changed it")
    page.goto(f"{window.address}/headrace/connectors/shop/remove")
    expect(page.locator("main")).to_contain_text("1 pipeline and its schedule: nightly")
    window.shot("connector-removal")
    page.get_by_label("Remove the pipeline too").check()
    page.get_by_role("button", name="Remove shop").click()
    expect(page.locator("#flash")).to_contain_text("Connector shop is removed.")
    assert hr.connectors.list() == [] and hr.pipelines.list() == []
    assert window.errors == []
