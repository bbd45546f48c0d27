"""The wizard for a source that a person logs in at: stored, logged in there, its tables chosen then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import Visitor
from tests.servers.snowflake_server import SnowflakeServer
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider

UNFOLD = "document.querySelectorAll('details').forEach(fold => fold.open = true)"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenIdProvider]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with OpenIdProvider() as running:
        yield running


def test_the_wizard_leads_to_the_login_at_the_source(
    visit: Callable[..., Visitor], hr: Headrace, server: OpenIdProvider
) -> None:
    window = visit()
    page = window.go("/headrace/connectors/add-new?type=rest_api")
    page.get_by_label("Name of the connector").fill("api")
    page.locator('[name="config.base_url"]').fill(server.url)
    page.locator('[name="config.auth.type"]').select_option("oauth2_authorization_code")
    given = {"authorization_url": f"{server.url}/authorize", "token_url": f"{server.url}/token"}
    for name, value in (given | {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}).items():
        page.locator(f'[name="config.auth.{name}"]:enabled').fill(value)
    if page.locator('[name="config.endpoints.0.name"]').count() == 0:
        page.locator('[data-path="config.endpoints"] [data-add-item]').first.click()
    page.locator('[name="config.endpoints.0.name"]').fill("orders")
    page.locator('[name="config.endpoints.0.path"]').fill("orders")
    store = page.get_by_role("button", name="Store it and log in at the source")
    expect(store).to_be_hidden()
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#checks")).to_contain_text("a person has to log in there")
    expect(page.get_by_role("button", name="Next: tables")).to_be_disabled()
    window.shot("wizard-needs-login")
    store.click()
    expect(page.locator("#flash")).to_contain_text("Connector api is stored. Log in at its source now.")
    page.get_by_role("button", name="Log in at 127.0.0.1").click()
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    expect(page.locator("#flash")).to_contain_text("api may read its source now.")
    window.shot("oauth-given")
    assert hr.connectors.test("api").ok
    page.get_by_role("link", name="Choose its tables").click()
    expect(page.get_by_role("checkbox", name="orders")).to_be_visible()
    assert window.errors == []


def test_the_wizard_leads_to_the_login_at_snowflake(
    visit: Callable[..., Visitor], hr: Headrace, snowflake_server: SnowflakeServer, snowflake_database: str
) -> None:
    snowflake_server.add_user("ADA")
    snowflake_server.oauth(forget=True, settings={"person": "ADA"})
    snowflake_server.execute(snowflake_database, "CREATE TABLE orders (id INT PRIMARY KEY)")
    window = visit()
    page = window.go("/headrace/connectors/add-new?type=snowflake")
    page.get_by_label("Name of the connector").fill("shop")
    page.evaluate(UNFOLD)
    config = snowflake_server.config(snowflake_database, user="ada")
    for name in ("account", "user", "role", "warehouse", "database", "host", "port"):
        page.locator(f'[name="config.{name}"]').fill(str(config[name]))
    page.locator('[name="config.protocol"]').select_option("http")
    page.locator('[name="config.oauth.client_id"]').fill("not known yet")
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#checks")).to_contain_text("CREATE SECURITY INTEGRATION HEADRACE")
    window.shot("wizard-snowflake-login")
    page.get_by_role("button", name="Store it and log in at the source").click()
    expect(page.locator("#flash")).to_contain_text("Connector shop is stored.")
    statement, secrets = page.locator("pre", has_text="SECURITY INTEGRATION").inner_text().split(";\n")
    assert f"OAUTH_REDIRECT_URI = '{window.address}/headrace/oauth/callback'" in statement
    window.shot("oauth-snowflake")
    snowflake_server.execute(None, statement)
    ((found,),) = snowflake_server.execute(None, secrets)
    given = json.loads(found)
    page.goto(f"{window.address}/headrace/connectors/shop/edit")
    page.evaluate(UNFOLD)
    page.locator('[name="config.oauth.client_id"]').fill(given["OAUTH_CLIENT_ID"])
    page.locator('[name="config.oauth.client_secret"]').fill(given["OAUTH_CLIENT_SECRET"])
    page.get_by_role("button", name="Store the change").click()
    page.get_by_role("button", name="Log in at the source").click()
    page.get_by_role("button", name="Log in at 127.0.0.1").click()
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    expect(page.locator("#flash")).to_contain_text("shop may read its source now.")
    assert "canary" not in page.content()
    page.goto(f"{window.address}/headrace/connectors/shop")
    page.get_by_role("button", name="Test the connection").click()
    expect(page.locator("#checks")).to_contain_text("access was given by admin on")
    window.shot("connector-snowflake-tested")
    assert "canary" not in page.content()
    assert hr.connectors.test("shop").ok
    assert window.errors == []
