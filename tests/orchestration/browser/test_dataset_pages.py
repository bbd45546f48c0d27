"""Files uploaded on a page, in a browser: what is wrong with them, their rows, names and values that would run."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect
from starlette.applications import Starlette

from orchestration.headrace import Headrace
from tests.orchestration.browser.conftest import PHONE, Visitor
from tests.orchestration.stored import HOSTILE
from tests.orchestration.web.people import People


def test_files_are_uploaded_looked_at_and_removed(visit: Callable[..., Visitor], hr: Headrace) -> None:
    window = visit()
    page = window.go("/headrace/datasets")
    page.get_by_role("button", name="Upload files").click()
    window.shot("dataset-upload")
    page.get_by_label("Dataset", exact=True).fill("sales")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator(".field-error")).to_be_visible()
    page.get_by_label("Files", exact=True).set_input_files({"name": "notes.exe", "mimeType": "x/y", "buffer": b"x"})
    page.get_by_role("button", name="Upload").click()
    expect(page.locator(".field-error")).to_contain_text("format is not known")
    rows = f'id,"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n1,"<script>alert(3)</script>"\n2,\n'
    page.get_by_label("Files", exact=True).set_input_files(
        [
            {"name": "<img src=x onerror=alert(1)>.csv", "mimeType": "text/csv", "buffer": rows.encode()},
            {"name": "more.json", "mimeType": "application/json", "buffer": b'[{"a": 1}]'},
        ]
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#flash")).to_contain_text("2 files are in sales now.")
    expect(page.locator("#rows")).to_contain_text("2 rows in")
    expect(page.locator("#rows")).to_contain_text("<script>alert(3)</script>")
    window.shot("dataset")
    page.locator("select[name=table]").select_option("more")
    expect(page.locator("#rows")).to_contain_text("1 row in")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert len(hr.datasets.show("sales").files) == 2
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove sales").click()
    expect(page.locator("#flash")).to_contain_text("sales is removed")
    assert not any(path.is_file() for path in (hr.settings.home_path / "uploads").rglob("*"))
    assert window.errors == []


def test_files_from_another_site_or_without_the_proof_are_refused(
    web_app: Callable[..., Starlette], people: People, hr: Headrace
) -> None:
    files, data = {"files": ("a.csv", b"a\n1\n")}, {"name": "sales"}
    client = people.client(web_app(), "admin")
    client.headers.pop("X-CSRF-Token", None)
    assert client.post("/headrace/datasets/add-new", files=files, data=data).status_code == 403
    forged = {"Origin": "http://evil.example"}
    assert client.post("/headrace/datasets/add-new", files=files, data=data, headers=forged).status_code == 403
    assert hr.datasets.list() == []
