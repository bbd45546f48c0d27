"""Knowledge of synced chats in Dagster, from the sync to the search; sources that are erased; long backlogs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from assets.settings import Settings
from orchestration.cli import app
from orchestration.defs.knowledge import request_after_sync
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.servers.openai_server import OpenAIServer

CHAT = {
    "kind": "chat_tables",
    "connector": "shop",
    "messages": "public.chat_messages",
    "session": "session_id",
    "message": "id",
    "role": "sender",
    "time": "sent_at",
    "text": "body",
}


def knowledge_job(name: str = "knowledge") -> dg.JobDefinition:
    """The definitions as a code location would load them now."""
    from orchestration.defs import knowledge

    loaded: Any = knowledge.knowledge
    definitions = loaded.load_fn() if hasattr(loaded, "load_fn") else loaded()
    return definitions.get_repository_def().get_job(name)


def people(hr: Headrace) -> dict[str, int]:
    return {row["canonical_name"]: row["mentions"] for row in hr.knowledge.rows("entities") if row["type"] == "person"}


def test_a_chat_sync_starts_an_extraction_in_dagster_and_a_source_can_be_erased(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE chat_messages (id int PRIMARY KEY, session_id text, sender text, body text, "
            "sent_at timestamptz)"
        )
        connection.execute(
            "INSERT INTO chat_messages VALUES "
            "(1, 's1', 'user', 'Hello, this is Anna Keller from Berlin. I prefer e-mail.', '2026-01-01Z'), "
            "(2, 's1', 'agent', 'Thank you, Anna Keller.', '2026-01-01 00:01Z'), "
            "(3, 's2', 'user', 'This is Tom Hughes, I live in Hamburg.', '2026-01-02Z')"
        )
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "call.txt").write_text("Call with Priya Nair and Anna Keller about the order.")
    hr = Headrace(settings=Settings())
    hr.connectors.add("shop", "postgres", postgres.config(name))
    hr.knowledge.add("chats", CHAT)
    hr.knowledge.add("never_synced", CHAT | {"messages": "public.other"}, active=True)
    hr.knowledge.add("notes", {"kind": "text", "path": str(notes)})
    with LocalStack(hr.settings).start() as stack, dg.instance_for_test() as instance:
        monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal_address)
        assert isinstance(request_after_sync(dg.build_sensor_context(instance=instance)), dg.SkipReason)
        hr.sync("shop", ["public.chat_messages"])
        first = request_after_sync(dg.build_sensor_context(instance=instance))
        assert isinstance(first, dg.SensorResult), "a source whose table is missing holds up no other"
        same = request_after_sync(dg.build_sensor_context(instance=instance, cursor=first.cursor))
        assert isinstance(same, dg.SkipReason)
        hr.knowledge.remove("never_synced")

        ended = knowledge_job().execute_in_process(instance=instance)
        assert ended.success
        events = ended.get_asset_materialization_events()
        assert {str(event.asset_key.path[-1]) for event in events if event.asset_key} >= {"entities", "observations"}
        assert all(check.passed for check in ended.get_asset_check_evaluations())
        found = people(hr)
        assert set(found) == {"Anna Keller", "Tom Hughes", "Priya Nair"}
        searched = CliRunner().invoke(app, ["knowledge", "search", "prefer e-mail", "--json"])
        assert searched.exit_code == 0, searched.output
        hit = next(hit for hit in json.loads(searched.output)["hits"] if hit["kind"] == "observation")
        message = hr.knowledge.message(hit["source"], hit["session"], hit["message"])
        assert hit["text"] == message["text"][hit["start"] : hit["end"]], "provenance leads back to the words"

        with postgres.connect(name, autocommit=True) as connection:
            connection.execute("DELETE FROM chat_messages WHERE session_id = 's2'")
        hr.sync("shop", ["public.chat_messages"], mode="full")
        (chats,) = hr.knowledge.extract("chats").sources
        assert (chats.status, chats.totals.gone, chats.totals.extracted) == ("succeeded", 1, 0)
        assert set(people(hr)) == {"Anna Keller", "Priya Nair"}

        removed = CliRunner().invoke(app, ["knowledge", "remove", "chats", "--erase"])
        assert removed.exit_code == 0, removed.output
        assert people(hr) == {"Anna Keller": 1, "Priya Nair": 1}, "what the notes say stays"
        assert hr.knowledge.search("prefer e-mail") == []
        assert [source.name for source in hr.knowledge.sources()] == ["notes"]
        assert all(check["passed"] for check in hr.knowledge.check())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_backlog_longer_than_one_history_goes_on_in_a_new_one_and_pays_each_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    monkeypatch.setenv("KNOWLEDGE_TEST_KEY", OpenAIServer.api_key)
    documents = tmp_path / "documents"
    documents.mkdir()
    count = 2_010
    for number in range(count):
        (documents / f"{number}.txt").write_text(f"note number {number}")
    answer = json.dumps({"entities": [], "statements": [], "relations": []})
    with OpenAIServer(lambda body: answer) as endpoint:
        hr = Headrace(settings=Settings())
        model = {"kind": "endpoint", "base_url": endpoint.base_url, "model": "m", "api_key": "env:KNOWLEDGE_TEST_KEY"}
        hr.knowledge.add("notes", {"kind": "text", "path": str(documents)}, model | {"parallel": 8})
        with LocalStack(hr.settings).start(temporal=True, worker=True, dagster=False):
            (result,) = hr.knowledge.extract("notes").sources
        assert endpoint.paid == count
    assert (result.status, result.generations, result.totals.extracted) == ("succeeded", 2, count)
    assert result.totals.calls == count
