"""A person's whole path, with the real stack: install, log in, connect, sync, watch, break, repair, look back."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from orchestration.embedded_postgres import EmbeddedPostgres
from tests.orchestration.browser.conftest import WIDE, Visitor

SECONDS = 120_000
PASSWORD = "a long enough password"


@contextmanager
def headrace_up(home: Path) -> Iterator[str]:
    """The stack as a person starts it; yields the set-up link that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "DAGSTER_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration", "up"],
        env=environment | {"HEADRACE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(
        target=lambda said: [lines.put(line) for line in said], args=(process.stderr,), daemon=True
    )
    reader.start()
    try:
        said = ""
        while (found := re.search(r"http://\S+/setup\?token=\S+", said)) is None:
            said += lines.get(timeout=180)
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def reader(postgres: EmbeddedPostgres, database: Callable[[], str]) -> Iterator[dict[str, str]]:
    """A shop with two tables and a role that may read them."""
    name = database()
    role = f"reader_{name}"
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(12,2), changed timestamptz)")
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO orders SELECT n, n * 1.25, now() FROM generate_series(1, 500) n")
        connection.execute("INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n")
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'the right one'".encode())
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}".encode())
    config = postgres.config(name) | {"user": role, "password": "the right one"}
    yield {key: str(value) for key, value in config.items()}
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def test_a_person_connects_a_source_and_lives_through_its_failure(
    browser: Browser, postgres: EmbeddedPostgres, reader: dict[str, str], tmp_path: Path
) -> None:
    def at_source(statement: str) -> None:
        with postgres.connect(reader["database"], autocommit=True) as connection:
            connection.execute(statement.encode())

    with headrace_up(tmp_path / "home") as link:
        context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
        window = Visitor(context, link.partition("/headrace/")[0])
        page = window.page
        page.set_default_timeout(60_000)
        navigation = page.get_by_role("navigation", name="Main")

        page.goto(link)
        window.shot("path-setup")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password", exact=False).first.fill(PASSWORD)
        page.get_by_label("Password again").fill(PASSWORD)
        page.get_by_role("button", name="Make the administrator").click()
        expect(page.locator("header")).to_contain_text("ada")
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()

        navigation.get_by_role("link", name="Connectors").click()
        page.get_by_role("button", name="Add the first one").click()
        page.get_by_role("link", name="PostgreSQL").click()
        page.wait_for_load_state()
        page.get_by_label("Name of the connector").fill("shop")
        for name in ("host", "port", "database", "user"):
            page.locator(f'[name="config.{name}"]').fill(reader[name])
        page.locator('[name="config.password"]').fill("the wrong one")
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator("#checks")).to_contain_text("login did not pass")
        page.locator('[name="config.password"]').fill(reader["password"])
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator("#checks")).to_contain_text("All 5 checks passed.")
        page.get_by_role("button", name="Next: tables").click()
        for table in ("public.orders", "public.customers"):
            page.get_by_role("checkbox", name=table).check()
        page.get_by_role("button", name="Next: review").click()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#flash")).to_contain_text("its first sync has begun", timeout=SECONDS)

        # watched live: the page is not loaded again
        navigation.get_by_role("link", name="Status").click()
        expect(page.locator("#count-ok")).to_contain_text("2", timeout=SECONDS)
        expect(page.locator("main")).to_contain_text("equal")
        window.shot("path-status-ok")

        at_source(f"REVOKE SELECT ON orders FROM {reader['user']}")
        navigation.get_by_role("link", name="Connectors").click()
        page.get_by_role("link", name="shop").click()
        page.get_by_role("button", name="Run shop now").click()
        expect(page.locator("main h1")).to_contain_text("Run")
        expect(page.locator("main .bar .badge")).to_have_text("failed", timeout=SECONDS)
        expect(page.locator("main")).to_contain_text("permission denied")
        window.shot("path-run-failed")
        navigation.get_by_role("link", name="Status").click()
        expect(page.locator("#count-attention")).to_contain_text("1 needs attention")
        window.shot("path-status-failed")

        # the test says what to do, and it is done
        navigation.get_by_role("link", name="Connectors").click()
        page.get_by_role("link", name="shop").click()
        page.wait_for_load_state()
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator(".check.failing")).to_contain_text("GRANT SELECT ON ALL TABLES")
        expect(page.locator("#state")).to_have_text("error")
        window.shot("path-connector-failing")
        at_source(page.locator(".check.failing pre").inner_text())
        page.get_by_role("button", name="Test the connection").click()
        expect(page.locator("#checks")).to_contain_text("All 5 checks passed.")

        navigation.get_by_role("link", name="Runs").click()
        page.locator("tbody tr", has_text="failed").get_by_role("link").first.click()
        page.wait_for_load_state()
        page.get_by_role("button", name="Run the failed tables again").click()
        expect(page.locator("main .bar .badge")).to_have_text("succeeded", timeout=SECONDS)
        window.shot("path-run-repaired")
        navigation.get_by_role("link", name="Runs").click()
        expect(page.locator("tbody tr")).to_have_count(3)
        expect(page.locator("tbody .badge.succeeded")).to_have_count(2)
        window.shot("path-history")
        navigation.get_by_role("link", name="Dagster").click()
        page.get_by_role("link", name="Headrace", exact=True).click()
        expect(page.locator("#count-ok")).to_contain_text("2")
        assert [error for error in window.errors if "/headrace/" in error] == []
        context.close()
