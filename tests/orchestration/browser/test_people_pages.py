"""People in the browser: somebody is let in by a link, gets another role, is kept out; a token is made and revoked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from playwright.sync_api import Browser, Route, expect

from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import PHONE, WIDE, Visitor

PASSWORD = "another long password"


def test_an_administrator_lets_people_in_and_keeps_them_out(
    visit: Callable[..., Visitor], browser: Browser, hr: Headrace
) -> None:
    window = visit()
    page = window.go("/headrace/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="People").click()
    page.get_by_label("Name").fill("ada")
    page.locator("section").get_by_label("Role").select_option("operator")
    page.get_by_role("button", name="Add").click()
    link = page.locator("#password-link").inner_text()
    window.shot("people-link")

    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    theirs = Visitor(context, window.address)
    theirs.page.goto(link)
    theirs.shot("password-link")
    theirs.page.get_by_label("Password", exact=True).fill(PASSWORD)
    theirs.page.get_by_label("Password again").fill(PASSWORD)
    theirs.page.get_by_role("button", name="Set the password").click()
    expect(theirs.page.locator("header")).to_contain_text("ada")
    expect(theirs.page.get_by_role("link", name="People")).to_have_count(0)
    theirs.page.goto(link)
    expect(theirs.page.locator("main")).to_contain_text("This link was used, or has ended.")

    page.get_by_label("Role of ada", exact=True).select_option("viewer")
    page.get_by_role("button", name="Set the role of ada").click()
    expect(page.locator("#flash")).to_contain_text("ada is viewer now.")
    page.get_by_role("button", name="Disable ada").click()
    expect(page.locator("tr", has_text="ada")).to_contain_text("disabled")
    window.shot("people")
    theirs.go("/headrace/")
    expect(theirs.page.locator("h1")).to_have_text("Log in")
    page.get_by_role("button", name="Enable ada").click()
    expect(page.locator("#flash")).to_contain_text("ada may come in again.")

    page.get_by_role("link", name="API tokens").click()
    page.get_by_label("What it is for").fill("nightly")
    page.get_by_label("Owner").select_option("ada")
    page.get_by_role("button", name="Make the token").click()
    expect(page.locator("#new-token")).to_contain_text("hr_")
    window.shot("api-tokens")
    page.once("dialog", lambda dialog: dialog.accept())
    page.remove_listener("dialog", window._note_dialog)
    page.get_by_role("button", name="Revoke nightly").click()
    expect(page.locator("#flash")).to_contain_text("is revoked")
    assert hr.catalog.access.tokens() == []
    page.go_back()
    for size in (WIDE, PHONE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for path in ("/headrace/people", "/headrace/people/tokens"):
            window.go(path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert window.errors == [] and theirs.errors == []
    context.close()


def test_a_form_that_is_sent_before_the_scripts_are_there_is_sent_when_they_are(
    visit: Callable[..., Visitor], hr: Headrace
) -> None:
    hr.catalog.access.make_token("early", "admin", ["read"], timedelta(days=1))
    window = visit()
    page = window.page
    waiting: list[Route] = []
    page.route("**/headrace.js*", lambda route: waiting.append(route))  # a builtin is no handler
    page.goto(f"{window.address}/headrace/people/tokens", wait_until="commit")
    page.remove_listener("dialog", window._note_dialog)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke early").click()
    assert waiting, "the scripts were there already"
    waiting.pop().continue_()
    expect(page.locator("#flash")).to_contain_text("is revoked")
    assert hr.catalog.access.tokens() == []
    assert window.errors == []
