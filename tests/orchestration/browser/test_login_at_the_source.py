"""The wizard for a source that a person logs in at: stored, logged in there, its tables chosen then."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import Visitor
from tests.standins.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider


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
