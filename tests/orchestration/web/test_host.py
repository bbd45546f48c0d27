"""One server: Dagster's UI, the pages and the API, each with a link to the others, behind a path prefix too."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from orchestration.headrace import Headrace
from orchestration.web.templates import STATIC
from tests.orchestration.web.people import LOCAL

CONFIG = {"host": "127.0.0.1", "port": 9, "database": "shop", "user": "reader", "password": "canary-of-the-config"}


@pytest.mark.parametrize("prefix", ["", "/data/headrace-one"])
def test_pages_api_and_dagster_answer_at_one_address_and_link_to_each_other(
    hr: Headrace, web_app: Callable[..., Starlette], prefix: str
) -> None:
    hr.connectors.add("shop", "postgres", CONFIG)
    with TestClient(web_app(prefix, login=False), base_url=LOCAL) as client:
        listed = client.get(f"{prefix}/headrace/connectors")
        assert listed.status_code == 200 and "shop" in listed.text and "canary" not in listed.text
        page = client.get(f"{prefix}/headrace/")
        assert page.status_code == 200
        addresses = set(re.findall(r'(?:href|src)="([^"#]*)"', page.text))
        assert f"{prefix}/" in addresses and f"{prefix}/api/v1/docs" in addresses
        assert all(address.startswith(f"{prefix}/") for address in addresses)
        for address in addresses:
            assert client.get(address).status_code == 200, address
        assert f'href="{prefix}/headrace/"' in client.get(f"{prefix}/").text
        document = client.get(f"{prefix}/api/v1/openapi.json").json()
        assert document["servers"][0]["url"] == f"{prefix}/api/v1"
        (connector,) = client.get(f"{prefix}/api/v1/connectors").json()["items"]
        assert connector["config"]["password"] == "********"
        assert client.post(f"{prefix}/graphql", json={"query": "{ version }"}).json()["data"]["version"]


def test_a_page_may_run_scripts_and_styles_of_this_server_only(web_app: Callable[..., Starlette]) -> None:
    with TestClient(web_app(login=False), base_url=LOCAL) as client:
        for path in ("/headrace/", "/headrace/none", "/api/v1/docs", "/api/v1/connectors"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "<script>" not in answer.text and not re.search(r"\son[a-z]+=", answer.text)


def test_vendored_files_ask_for_nothing_elsewhere_and_bring_their_licence() -> None:
    for folder in (STATIC / "vendor").iterdir():
        if folder.is_dir():
            assert any(file.name.startswith("LICENSE") for file in folder.iterdir())
    for file in STATIC.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", file.read_text()), file
        assert "sourceMappingURL" not in file.read_text()


def test_errors_are_problems_that_name_the_field(web_app: Callable[..., Starlette]) -> None:
    with TestClient(web_app(login=False), base_url=LOCAL) as client:
        wrong = client.get("/api/v1/connectors", params={"limit": 0})
        assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
        assert [item["field"] for item in wrong.json()["errors"]] == ["limit"]
        missing = client.get("/api/v1/connectors/none")
        assert (missing.status_code, missing.json()["type"], missing.json()["where"]) == (404, "NotFoundError", "none")
        assert client.get("/api/v1/none").headers["content-type"] == "application/problem+json"
