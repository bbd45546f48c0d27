"""Exports and documents become sessions, with their times and every branch."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assets.errors import SourceAccessError
from assets.knowledge.chat_exports import chatgpt_sessions, claude_sessions
from assets.knowledge.documents import email_sessions, html_sessions, json_sessions


def node(id: str, parent: str | None, children: list[str], role: str = "user", text: str = "") -> dict[str, object]:
    content = {"content_type": "text", "parts": [text]}
    message = {"id": f"m-{id}", "author": {"role": role}, "create_time": 1_700_000_000.5, "content": content}
    return {"id": id, "parent": parent, "children": children, "message": message if text else None}


def test_every_branch_of_a_chatgpt_conversation_is_read_once_the_seen_one_first(tmp_path: Path) -> None:
    mapping = {
        "root": node("root", None, ["q"]),
        "q": node("q", "root", ["a1", "a2"], text="question"),
        "a1": node("a1", "q", [], "assistant", "discarded answer"),
        "a2": node("a2", "q", ["q2"], "assistant", "kept answer"),
        "q2": node("q2", "a2", [], text="follow-up"),
    }
    conversation = {"conversation_id": "c1", "title": "Bikes", "mapping": mapping, "current_node": "q2"}
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps([conversation]))
    (session,) = chatgpt_sessions(tmp_path / "export.zip")
    assert [m.text for m in session.messages] == ["question", "kept answer", "follow-up", "discarded answer"]
    assert session.messages[0].at == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert (session.id, session.title, session.messages[1].role) == ("c1", "Bikes", "assistant")


def test_a_claude_export_keeps_times_roles_and_attachments(tmp_path: Path) -> None:
    message = {
        "uuid": "m1",
        "sender": "human",
        "created_at": "2026-03-01T10:00:00.123456Z",
        "text": "see the file",
        "content": [{"type": "text", "text": "see the file"}],
        "attachments": [{"file_name": "a.txt", "extracted_content": "inside"}],
    }
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps([{"uuid": "c", "name": "Notes", "chat_messages": [message]}]))
    (session,) = claude_sessions(file)
    assert [(m.role, m.text) for m in session.messages] == [("user", "see the file"), ("user", "inside")]
    assert session.messages[0].at == datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)


def test_an_export_is_read_a_conversation_at_a_time(tmp_path: Path) -> None:
    message = {"uuid": "m", "sender": "human", "created_at": None, "text": "x" * 500_000}
    file = tmp_path / "conversations.json"
    with file.open("w") as out:
        out.write('{"account": {"tags": []}, "conversations": [')
        for number in range(60):
            out.write("," * (number > 0) + json.dumps({"uuid": f"c{number}", "chat_messages": [message]}))
        out.write("]}")
    tracemalloc.start()
    try:
        assert [session.id for session in claude_sessions(file)] == [f"c{number}" for number in range(60)]
        assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"uuid": "c", "chat_messages": []}, {"uuid": "d", "chat', "cannot be read as JSON (IncompleteJSONError)"),
        ('{"account": 1}', "is no list of conversations"),
        ("", "cannot be read as JSON (IncompleteJSONError)"),
        ("<html>", "cannot be read as JSON"),
    ],
)
def test_what_is_no_whole_export_is_told(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(content)
    with pytest.raises(SourceAccessError) as raised:
        list(claude_sessions(file))
    assert told in str(raised.value)


def test_mails_that_answer_each_other_are_one_session_without_what_they_quote(tmp_path: Path) -> None:
    (tmp_path / "2.eml").write_text(
        "From: Bo <bo@example.com>\nMessage-ID: <2@x>\nIn-Reply-To: <1@x>\nSubject: Re: Plan\n"
        "Date: Tue, 3 Mar 2026 10:00:00 +0100\n\nAgreed.\n> Shall we meet?\n"
    )
    (tmp_path / "1.eml").write_text(
        "From: Ann <ann@example.com>\nMessage-ID: <1@x>\nSubject: Plan\n"
        "Date: Mon, 2 Mar 2026 10:00:00 +0100\n\nShall we meet?\n"
    )
    (session,) = email_sessions(sorted(tmp_path.glob("*.eml"), reverse=True), tmp_path)
    assert session.title == "Plan"
    assert [(m.role, m.text) for m in session.messages] == [("Ann", "Shall we meet?"), ("Bo", "Agreed.")]


def test_html_gives_its_visible_text_and_json_its_texts(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<title>T</title><script>no()</script><p>One <b>two</b></p><p hidden>no</p><li>three</li>")
    (session,) = html_sessions(page, tmp_path)
    assert (session.title, session.messages[0].text) == ("T", "One two\nthree")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"id": 7, "body": {"text": "hello"}, "n": 1}\n')
    (document,) = json_sessions(lines, tmp_path, id_field="id")
    assert (document.id, document.messages[0].text) == ("7", "hello")
