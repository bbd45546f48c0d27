"""Pages in a real browser: chromium, once for these tests, against the real webserver in a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect
from starlette.applications import Starlette

from assets.catalog.access_records import Role
from orchestration.child_process import free_port
from tests.orchestration.web.conftest import hr, people, web_app, workspace  # noqa: F401
from tests.orchestration.web.people import People
from tests.servers.chromium import MISSING, chromium, chromium_program

expect.set_options(timeout=60_000)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SHOTS = os.environ.get("HEADRACE_TEST_SCREENSHOTS")
"""Folder where screenshots are kept, to look at."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Closed before other tests: while Playwright is open its event loop runs, and no test may start another one."""
    program = chromium_program()
    if program is None:
        pytest.skip(MISSING)
    with chromium(program) as opened:
        yield opened


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The app on a free loopback port; yields its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def address(web_app: Callable[..., Starlette]) -> Iterator[str]:  # noqa: F811
    with served(web_app()) as found:
        yield found


class Visitor:
    """A browser window whose page notes every script error and refused load."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context = context
        self.address = address
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", self._note_dialog)

    def _note(self, said: ConsoleMessage) -> None:
        # what the server refused is answered on the page; htmx and the browser say it on the console too
        refusals = ("the server responded with a status of ", "Response Status Error Code ")
        if said.type == "error" and not any(text in said.text for text in refusals):
            self.errors.append(said.text)

    def _note_dialog(self, dialog: Dialog) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def go(self, path: str) -> Page:
        self.page.goto(f"{self.address}{path}")
        return self.page

    def shot(self, name: str) -> None:
        """Screenshots of the page as it is, in both themes, wide and on a telephone."""
        if SHOTS is None:
            return
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        for width, size in (("wide", WIDE), ("phone", PHONE)):
            self.page.set_viewport_size(size)  # type: ignore[arg-type]
            for theme in ("light", "dark"):
                self.page.emulate_media(color_scheme=theme)
                self.page.screenshot(path=f"{SHOTS}/{name}-{width}-{theme}.png", full_page=True, animations="disabled")
        self.page.set_viewport_size(WIDE)  # type: ignore[arg-type]


@pytest.fixture
def visit(browser: Browser, people: People, address: str) -> Iterator[Callable[..., Visitor]]:  # noqa: F811
    """Open a window, logged in as a role."""
    opened: list[BrowserContext] = []

    def open_window(role: Role = "admin") -> Visitor:
        from datetime import timedelta

        context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
        secret = people.access.open_session(role, timedelta(hours=1))
        context.add_cookies([{"name": people.sessions.cookie, "value": secret, "url": address, "httpOnly": True}])
        opened.append(context)
        return Visitor(context, address)

    yield open_window
    for context in opened:
        context.close()
