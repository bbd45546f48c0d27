"""A pipeline on its page in a browser, against a real PostgreSQL: changed, added, and two editors at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from assets.catalog.records import PipelineTable
from assets.sync import ColumnChoice
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import PHONE, Visitor
from tests.orchestration.stored import HOSTILE


@pytest.fixture
def shop(hr: Headrace, postgres: EmbeddedPostgres, database: Callable[[], str]) -> Headrace:
    """Connector ``shop`` with a pipeline of two tables, one of which the source has no more."""
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, mail text, updated_at timestamptz, other timestamptz)"
        )
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
        connection.execute('CREATE TABLE "' + HOSTILE[:60].replace('"', '""') + '" (id int PRIMARY KEY)')
    hr.connectors.add("shop", "postgres", postgres.config(name))
    orders = PipelineTable(
        name="public.orders", cursor="other", verify="keys", row_filter="id > 0", columns=ColumnChoice(hash=("mail",))
    )
    tables = [orders, PipelineTable(name="public.gone", key=("id",))]
    hr.pipelines.add("nightly", "shop", tables, schedule="cron:0 6 * * *", timezone="Europe/Berlin", deferred=True)
    return hr


def test_a_pipeline_is_changed_and_what_its_form_does_not_show_stays(
    visit: Callable[..., Visitor], shop: Headrace
) -> None:
    window = visit()
    page = window.go("/headrace/connectors/shop")
    page.get_by_role("link", name="nightly").click()
    expect(page.locator("#tables .choose > tbody")).to_have_count(3)
    expect(page.get_by_role("checkbox", name="public.orders")).to_be_checked()
    expect(page.get_by_role("checkbox", name="public.gone")).to_be_checked()
    expect(page.get_by_label("Cursor of public.orders")).to_have_value("other")
    expect(page.get_by_text("mail hashed")).to_be_visible()
    expect(page.get_by_label("Cron expression")).to_have_value("0 6 * * *")
    expect(page.get_by_label("Time zone")).to_have_value("Europe/Berlin")
    window.shot("pipeline-edit")
    page.get_by_role("checkbox", name="public.customers").check()
    page.get_by_label("Mode of public.customers").select_option("full")
    page.get_by_label("Cron expression").fill("never")
    page.get_by_role("button", name="Store the change").click()
    expect(page.locator("#schedule_cron")).to_be_focused()
    expect(page.locator(".field-error")).to_be_visible()
    page.get_by_label("Cron expression").fill("30 5 * * *")
    page.get_by_label("It follows its schedule").uncheck()
    page.get_by_role("button", name="Store the change").click()
    expect(page.locator("#flash")).to_contain_text("Pipeline nightly is changed.")
    changed = shop.pipelines.show("nightly")
    assert (changed.schedule, changed.timezone, changed.active) == ("cron:30 5 * * *", "Europe/Berlin", False)
    assert changed.deferred and changed.write is None
    by_name = {table.name: table.given_options() for table in changed.tables}
    assert by_name["public.customers"] == {"mode": "full"}
    assert by_name["public.gone"] == {"key": ("id",)}
    orders = by_name["public.orders"]
    assert (orders["cursor"], orders["verify"], orders["row_filter"]) == ("other", "keys", "id > 0")
    assert orders["columns"].hash == ("mail",)
    assert window.errors == []


def test_of_two_editors_of_a_pipeline_the_second_is_told(visit: Callable[..., Visitor], shop: Headrace) -> None:
    first, second = visit(), visit()
    pages = [window.go("/headrace/pipelines/nightly/edit") for window in (first, second)]
    for page in pages:
        expect(page.locator("#tables .choose > tbody")).to_have_count(3)
        page.get_by_label("When to sync").select_option("manual")
    pages[0].get_by_role("button", name="Store the change").click()
    expect(pages[0].locator("#flash")).to_contain_text("is changed")
    pages[1].get_by_role("button", name="Store the change").click()
    expect(pages[1].locator("#problems")).to_contain_text("somebody changed it")
    assert first.errors == second.errors == []


def test_a_pipeline_is_added_by_keyboard_on_a_telephone(visit: Callable[..., Visitor], shop: Headrace) -> None:
    window = visit()
    window.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = window.go("/headrace/connectors/shop")
    page.get_by_role("link", name="Add a pipeline").press("Enter")
    expect(page.locator("#tables .choose > tbody")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Add the pipeline").press("Enter")
    expect(page.locator(".field-error")).to_be_visible()
    page.get_by_label("Name of the pipeline").fill("nightly")
    page.get_by_role("checkbox", name="public.customers").press("Space")
    page.get_by_role("button", name="Add the pipeline").press("Enter")
    expect(page.locator(".field-error")).to_contain_text("choose another name")
    page.get_by_label("Name of the pipeline").fill("second")
    page.get_by_role("button", name="Add the pipeline").press("Enter")
    expect(page.locator("#flash")).to_contain_text("Pipeline second is stored.")
    assert [table.name for table in shop.pipelines.show("second").tables] == ["public.customers"]
    assert window.errors == []
