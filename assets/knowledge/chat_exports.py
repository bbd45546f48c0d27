"""Exports of ChatGPT and Claude: ``conversations.json`` as those services write it, times and branches kept."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assets.errors import SourceAccessError
from assets.knowledge.dialogue import Message, Session

FILE = "conversations.json"
PREFIXES = {("", "start_array"): "item", ("conversations", "start_array"): "conversations.item"}
"""Where the list of conversations starts: what ijson calls the list, and each member of it."""


def export_files(path: Path) -> list[Path]:
    """The exports under ``path``: the file itself, or every ``conversations*.json`` and zip in a folder."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and (file.suffix == ".zip" or (file.suffix == ".json" and "conversations" in file.name))
    )


def read_export(file: Path) -> Iterator[Any]:
    """The conversations of one export, one after the other: never more than one of them in memory.

    Raises:
        SourceAccessError: it is no such export, or ends before its end.
    """
    import ijson

    with ExitStack() as opened:
        try:
            if zipfile.is_zipfile(file):
                archive = opened.enter_context(zipfile.ZipFile(file))
                names = [n for n in archive.namelist() if n.rpartition("/")[2] == FILE]
                if not names:
                    raise SourceAccessError(f"the archive holds no {FILE}.", where=str(file))
                first, content = (opened.enter_context(archive.open(names[0])) for _ in range(2))
            else:
                first, content = (opened.enter_context(file.open("rb")) for _ in range(2))
            events = ((prefix, event) for prefix, event, _ in ijson.parse(first))
            prefix = next((PREFIXES[found] for found in events if found in PREFIXES), None)
            if prefix is None:
                raise SourceAccessError("is no list of conversations.", where=str(file))
            yield from ijson.items(content, prefix, use_float=True)
        except (OSError, ijson.JSONError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise SourceAccessError(f"cannot be read as JSON ({type(error).__name__}).", where=str(file)) from None


def chatgpt_sessions(file: Path) -> Iterator[Session]:
    """Conversations of a ChatGPT export.

    A conversation's ``mapping`` is a tree: an edited question or a regenerated answer is a branch. Every node is read
    once, along each branch in turn; the branch that the user saw last (``current_node``) comes first.
    """
    for number, conversation in enumerate(read_export(file)):
        mapping = conversation.get("mapping") if isinstance(conversation, dict) else None
        if not isinstance(mapping, dict):
            continue
        messages = [m for node in _tree_order(mapping, conversation.get("current_node")) for m in _gpt_message(node)]
        id = conversation.get("conversation_id") or conversation.get("id") or f"{file.name}#{number}"
        yield Session(str(id), tuple(messages), str(conversation.get("title") or ""))


def _tree_order(mapping: dict[str, Any], current: Any) -> Iterator[dict[str, Any]]:
    """Every node once: the path to ``current`` first, then what branches off, each branch from its root on."""
    path: list[str] = []
    node = current if isinstance(current, str) else None
    while node in mapping and node not in path:
        path.append(node)
        node = mapping[node].get("parent")
    path.reverse()
    seen: set[str] = set()

    def walk(starts: list[str]) -> Iterator[dict[str, Any]]:
        stack = list(reversed(starts))
        while stack:
            id = stack.pop()
            if id in seen or id not in mapping:
                continue
            seen.add(id)
            yield mapping[id]
            stack.extend(reversed([str(child) for child in mapping[id].get("children") or []]))

    for id in path:
        seen.add(id)
        yield mapping[id]
    for id in path:
        yield from walk([str(child) for child in mapping[id].get("children") or []])
    roots = [id for id, node in mapping.items() if node.get("parent") not in mapping]
    yield from walk([*roots, *mapping])


def _gpt_message(node: dict[str, Any]) -> Iterator[Message]:
    message = node.get("message")
    if not isinstance(message, dict):
        return
    role = str((message.get("author") or {}).get("role") or "unknown")
    metadata = message.get("metadata") or {}
    if role == "system" or metadata.get("is_visually_hidden_from_conversation"):
        return
    content = message.get("content") or {}
    parts = content.get("parts") if isinstance(content, dict) else None
    pieces = [part if isinstance(part, str) else str(part.get("text") or "") for part in parts or [] if part]
    if not parts and isinstance(content, dict):
        pieces = [str(content.get("text") or "")]
    text = "\n".join(piece for piece in pieces if piece)
    if text:
        yield Message(str(message.get("id") or node.get("id")), role, moment(message.get("create_time")), text)


def claude_sessions(file: Path) -> Iterator[Session]:
    """Conversations of a Claude export: ``chat_messages`` in order, attachments' extracted text after the message."""
    for number, conversation in enumerate(read_export(file)):
        if not isinstance(conversation, dict) or not isinstance(conversation.get("chat_messages"), list):
            continue
        id = str(conversation.get("uuid") or f"{file.name}#{number}")
        messages = []
        for position, message in enumerate(conversation["chat_messages"]):
            role = {"human": "user"}.get(str(message.get("sender")), str(message.get("sender") or "unknown"))
            own, at = str(message.get("uuid") or f"{id}/{position}"), moment(message.get("created_at"))
            blocks = [b for b in message.get("content") or [] if isinstance(b, dict) and b.get("type") == "text"]
            text = "\n".join(str(block.get("text") or "") for block in blocks) or str(message.get("text") or "")
            if text:
                messages.append(Message(own, role, at, text))
            for part, attachment in enumerate(message.get("attachments") or []):
                if extracted := str(attachment.get("extracted_content") or ""):
                    messages.append(Message(f"{own}/attachment/{part}", role, at, extracted))
        yield Session(id, tuple(messages), str(conversation.get("name") or ""))


def moment(value: Any) -> datetime | None:
    """Epoch seconds or ISO 8601; without a zone it is UTC."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and value:
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
