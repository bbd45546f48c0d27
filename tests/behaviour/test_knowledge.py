"""Knowledge extraction dies at every step: no row is doubled, no call is paid twice, no session is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.failpoints import KNOWLEDGE_FAILPOINTS
from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.servers.openai_server import OpenAIServer

NAMES = ("Anna Keller", "Tom Hughes", "Priya Nair")


def respond(body: dict[str, Any]) -> str:
    """Names the person and the preference that the text states, and one person that it does not."""
    text = json.loads(body["messages"][1]["content"])["messages"][0]["text"]
    quotes = [name for name in (*NAMES, "Invented Person") if name in text or name == "Invented Person"]
    entities = [{"message": 0, "quote": quote, "type": "person", "is_speaker": False} for quote in quotes]
    statement = {"message": 0, "quote": "I prefer e-mail", "kind": "preference", "about": "e-mail", "polarity": 1}
    return json.dumps({"entities": entities, "statements": [statement], "relations": []})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    monkeypatch.setenv("KNOWLEDGE_TEST_KEY", OpenAIServer.api_key)
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    with OpenAIServer(respond) as server:
        yield server


@pytest.fixture
def headrace(headrace_home: Path, tmp_path: Path, endpoint: OpenAIServer) -> Headrace:
    documents = tmp_path / "documents"
    documents.mkdir()
    for name in NAMES:
        (documents / f"{name}.txt").write_text(f"This is {name}. I prefer e-mail.")
    hr = Headrace(home=headrace_home)
    config = {"kind": "text", "path": str(documents)}
    model = {"kind": "endpoint", "base_url": endpoint.base_url, "model": "test-model"}
    model |= {"api_key": "env:KNOWLEDGE_TEST_KEY", "price_in": 1, "price_out": 1}
    hr.knowledge.add("notes", config, model)
    return hr


def extract(hr: Headrace, **options: Any) -> Any:
    with LocalStack(Settings(home=hr.settings.home_path)).start(temporal=True, worker=True, dagster=False):
        (result,) = hr.knowledge.extract("notes", **options).sources
    return result


@pytest.mark.timeout(280)
def test_an_extraction_that_dies_at_every_step_in_turn_pays_each_text_once_and_loses_nothing(
    headrace: Headrace, endpoint: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINTS_FIRED", str(tmp_path / "fired"))
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in KNOWLEDGE_FAILPOINTS))
    result = extract(headrace)
    assert {path.name for path in (tmp_path / "fired").iterdir()} == set(KNOWLEDGE_FAILPOINTS)
    assert (result.status, result.totals.extracted, result.totals.incomplete) == ("succeeded", 3, 0)
    assert endpoint.paid == 3
    people = [row for row in headrace.knowledge.rows("entities") if row["type"] == "person"]
    assert sorted(row["canonical_name"] for row in people) == sorted(NAMES)
    assert [row["mentions"] for row in people] == [1, 1, 1]
    assert len(headrace.knowledge.rows("observations")) == 3
    assert all(check["passed"] for check in headrace.knowledge.check())


@pytest.mark.timeout(280)
def test_each_failure_of_the_endpoint_ends_in_a_stated_result(
    headrace: Headrace, endpoint: OpenAIServer, tmp_path: Path
) -> None:
    injected = {"message": 0, "quote": "PWNED", "type": "person", "is_speaker": False}
    endpoint.injected_content = json.dumps({"entities": [injected], "statements": [], "relations": []})
    for failure in ("rate_limit", "timeout_after_answer", "malformed_json", "refusal", "injected", "server_error"):
        endpoint.fail(failure)
    result = extract(headrace)
    assert result.status == "succeeded"
    assert (result.totals.extracted, result.totals.incomplete, result.totals.calls_failed) == (3, 1, 1)
    assert result.totals.dropped >= 1
    problems = [row["problem"] for row in headrace.knowledge.rows("sessions") if row["status"] == "incomplete"]
    assert problems == ["chunk 0: the model refused"]
    assert headrace.knowledge.search("PWNED") == []
    log = (headrace.settings.home_path / "logs" / "worker.log").read_text()
    assert endpoint.api_key not in log

    paid = endpoint.paid
    for name in NAMES[:2]:
        (tmp_path / "documents" / f"{name} again.txt").write_text(f"Here is {name} again.")
    for failure in ("truncated", "malformed_json", "malformed_json"):
        endpoint.fail(failure)
    again = extract(headrace, again=True)
    assert (endpoint.paid - paid, again.totals.calls) == (3, 3), "answers that are stored are not paid twice"
    assert {row["problem"] for row in headrace.knowledge.rows("sessions") if row["status"] == "incomplete"} == {
        "chunk 0: the model refused",
        "chunk 0: the answer was cut off at the token limit",
        "chunk 0: the answer did not fit the schema, nor did its repair",
    }
