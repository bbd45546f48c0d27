"""Connectors and pipelines over HTTP: secrets are write-only, two editors never overwrite each other."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from orchestration.headrace import Headrace
from tests.orchestration.api.conftest import AsAdministrator

CANARY = "canary-Zx81-pass:word"
CONFIG = {"host": "127.0.0.1", "port": 9, "database": "shop", "user": "reader", "password": CANARY}
NEW = {"name": "shop", "type": "postgres", "config": CONFIG}


def add(client: TestClient, name: str = "shop") -> Any:
    answer = client.post("/connectors", json=NEW | {"name": name})
    assert answer.status_code == 201, answer.text
    return answer


def test_a_connector_is_added_changed_and_removed_and_its_secret_never_comes_back(
    client: TestClient, hr: Headrace
) -> None:
    made = add(client)
    seen = [made.text]
    etag = made.headers["etag"]
    hr.catalog.record_test("shop", [])
    assert client.get("/connectors/shop").json()["status"] == "active"
    changed = {name: value for name, value in CONFIG.items() if name != "password"} | {"database": "other"}
    answer = client.put("/connectors/shop", json={"config": changed}, headers={"If-Match": etag})
    seen.append(answer.text)
    assert (answer.status_code, answer.json()["status"], answer.json()["config"]["database"]) == (
        200,
        "pending",
        "other",
    )
    assert hr.catalog.connector("shop").config.password.get_secret_value() == CANARY, "kept"
    stale = client.put("/connectors/shop", json={"config": changed}, headers={"If-Match": etag})
    assert stale.status_code == 412
    assert client.put("/connectors/shop", json={"config": changed}).status_code == 428
    seen += [client.get(path).text for path in ("/connectors", "/connectors/shop", "/connectors/types")]
    wrong = client.post("/connectors", json=NEW | {"name": "x", "config": CONFIG | {"port": CANARY}})
    assert wrong.status_code == 422 and "port" in wrong.json()["detail"]
    seen += [wrong.text, client.post("/connectors", json=NEW).text]
    seen.append(client.post("/connectors", json={"name": "y", "type": {"x": CANARY}, "config": CANARY}).text)
    assert client.post("/connectors", json=NEW).status_code == 409
    tested = client.post("/connectors/test", json={"type": "postgres", "config": CONFIG})
    assert tested.status_code == 200 and not tested.json()["ok"]
    seen += [tested.text, client.post("/connectors/shop/test").text, client.get("/connectors/shop/discover").text]
    assert CANARY not in "".join(seen)
    assert client.delete("/connectors/shop").status_code == 204
    assert client.get("/connectors/shop").status_code == 404


def test_pages_are_ordered_filtered_and_counted(client: TestClient) -> None:
    for name in ("b_two", "a_one", "c_three"):
        add(client, name)
    page = client.get("/connectors", params={"limit": 2, "order": "-name"}).json()
    assert ([item["name"] for item in page["items"]], page["total"]) == (["c_three", "b_two"], 3)
    page = client.get("/connectors", params={"limit": 2, "offset": 2, "order": "-name"}).json()
    assert [item["name"] for item in page["items"]] == ["a_one"]
    assert client.get("/connectors", params={"search": "_t"}).json()["total"] == 2
    assert client.get("/connectors", params={"search": "%"}).json()["total"] == 0
    assert client.get("/connectors", params={"status": "active"}).json()["total"] == 0


def test_of_two_editors_one_wins_and_the_other_is_told(api: FastAPI, client: TestClient, hr: Headrace) -> None:
    etag = add(client).headers["etag"]
    answers: list[int] = []

    def edit(number: int) -> None:
        config = {"config": CONFIG | {"database": f"d{number}"}}
        with TestClient(AsAdministrator(api)) as editor:
            answers.append(editor.put("/connectors/shop", json=config, headers={"If-Match": etag}).status_code)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 412, 412, 412]


def test_a_request_that_is_sent_again_has_one_effect(client: TestClient) -> None:
    key = {"Idempotency-Key": "one"}
    first = client.post("/connectors", json=NEW, headers=key)
    again = client.post("/connectors", json=NEW, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json() and again.headers["idempotency-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]
    other = client.post("/connectors", json=NEW | {"name": "other"}, headers=key)
    assert other.status_code == 409
    failed = {"Idempotency-Key": "two"}
    assert client.post("/connectors", json=NEW, headers=failed).status_code == 409
    assert client.post("/connectors", json=NEW | {"name": "other"}, headers=failed).status_code == 201


def test_a_pipeline_over_http(client: TestClient) -> None:
    add(client)
    new = {"name": "nightly", "connector": "shop", "tables": ["public.t"], "schedule": "cron:0 3 * * *"}
    made = client.post("/pipelines", json=new)
    assert (made.status_code, made.json()["schedule"]) == (201, "cron:0 3 * * *"), made.text
    assert client.post("/pipelines/nightly/pause").json()["active"] is False
    assert client.post("/pipelines/nightly/resume").json()["active"] is True
    etag = client.get("/pipelines/nightly").headers["etag"]
    change = {"connector": "shop", "all_tables": True, "schedule": "every:15m"}
    assert client.put("/pipelines/nightly", json=change, headers={"If-Match": etag}).json()["schedule"] == "every:15m"
    assert client.put("/pipelines/nightly", json=change, headers={"If-Match": etag}).status_code == 412
    assert client.post("/pipelines", json=new | {"name": "x", "schedule": "every:1s"}).status_code == 422
    assert client.post("/pipelines", json=new | {"name": "x", "connector": "none"}).status_code == 404
    assert client.get("/pipelines", params={"connector": "shop"}).json()["total"] == 1
    assert client.delete("/connectors/shop").status_code == 409
    assert client.delete("/connectors/shop", params={"with_pipelines": True}).status_code == 204


@pytest.mark.parametrize("path", ["/runs/none", "/runs/none/events", "/tables/shop/none", "/pipelines/none"])
def test_what_is_not_there_is_a_404_problem(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
