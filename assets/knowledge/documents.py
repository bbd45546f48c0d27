"""Documents as sessions: plain text, e-mail, HTML pages and JSON."""

from __future__ import annotations

import email
import email.policy
import email.utils
import hashlib
import json
import mailbox
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from assets.errors import SourceAccessError
from assets.knowledge.chat_exports import moment
from assets.knowledge.dialogue import Message, Session

MAX_FILE_BYTES = 256 << 20
MAX_JSON_TEXTS = 10_000


def files_under(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file itself, or the files in a folder with one of the suffixes, in the order of their names."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in suffixes)


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise SourceAccessError("is larger than 256 MiB.", where=str(file))
    return file.read_bytes()


def _changed(file: Path) -> datetime:
    return datetime.fromtimestamp(int(file.stat().st_mtime), UTC)


def _name(file: Path, root: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def text_sessions(file: Path, root: Path) -> Iterator[Session]:
    """One document, one message; its time is the file's."""
    text = _read(file).decode("utf-8-sig", errors="replace")
    if text.strip():
        name = _name(file, root)
        yield Session(name, (Message(name, "author", _changed(file), text),), file.name)


def html_sessions(file: Path, root: Path) -> Iterator[Session]:
    """The text a reader sees, a block a line, without scripts, styles and what is hidden."""
    title, text = html_text(_read(file))
    if text:
        name = _name(file, root)
        yield Session(name, (Message(name, "author", _changed(file), text),), title)


def html_text(content: bytes | str) -> tuple[str, str]:
    """Title and visible text of a page."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(content, "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for hidden in page(["script", "style", "template", "noscript", "head", "title"]):
        hidden.decompose()
    for hidden in page.select("[hidden], [aria-hidden=true]"):
        hidden.decompose()
    for block in page.find_all(
        ["p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "br", "section", "article", "blockquote", "table"]
    ):
        block.append("\n")
    lines = (" ".join(line.split()) for line in page.get_text().splitlines())
    return title, "\n".join(line for line in lines if line)


def json_sessions(
    file: Path,
    root: Path,
    text_fields: Sequence[str] = (),
    id_field: str | None = None,
    time_field: str | None = None,
) -> Iterator[Session]:
    """Documents of a JSON or JSON Lines file: each object of a list, or each line; each text in it is a message."""
    content = _read(file).decode("utf-8-sig", errors="replace")
    try:
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            documents = [json.loads(line) for line in content.splitlines() if line.strip()]
        else:
            loaded = json.loads(content)
            documents = loaded if isinstance(loaded, list) else [loaded]
    except ValueError as error:
        raise SourceAccessError(f"is no JSON ({error}).", where=str(file)) from None
    for number, document in enumerate(documents):
        own = _field(document, id_field) if id_field else None
        id = str(own) if own is not None else f"{_name(file, root)}#{number}"
        at = moment(_field(document, time_field)) if time_field else None
        found = [(path, text) for path, text in _texts(document, "") if not text_fields or path in text_fields]
        messages = [Message(f"{id}/{path}", "author", at, text) for path, text in found[:MAX_JSON_TEXTS]]
        if messages:
            yield Session(id, tuple(messages))


def _field(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value.strip():
            yield path or "text", value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _texts(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _texts(member, f"{path}[{number}]")


def email_sessions(files: Sequence[Path], root: Path) -> Iterator[Session]:
    """Mails, one session a thread: a mail belongs to the thread of the first mail that it refers to."""
    threads: dict[str, list[tuple[datetime, str, Message, str]]] = {}
    roots: dict[str, str] = {}
    for file in files:
        for mail in _mails(file):
            text = _mail_text(mail)
            if not text.strip():
                continue
            own = str(mail["Message-ID"] or "").strip() or hashlib.sha256(text.encode()).hexdigest()[:32]
            earlier = [*str(mail["References"] or "").split(), *str(mail["In-Reply-To"] or "").split()]
            thread = next((roots[id] for id in earlier if id in roots), earlier[0] if earlier else own)
            for id in (own, *earlier):
                roots.setdefault(id, thread)
            at = _mail_time(mail)
            name, address = email.utils.parseaddr(str(mail["From"] or ""))
            message = Message(own, name or address or "sender", at, text)
            subject = str(mail["Subject"] or "")
            threads.setdefault(thread, []).append((at or datetime.max.replace(tzinfo=UTC), own, message, subject))
    for thread, mails in threads.items():
        ordered = sorted(mails, key=lambda mail: mail[:2])
        yield Session(thread, tuple({mail[1]: mail[2] for mail in ordered}.values()), ordered[0][3])


def _mails(file: Path) -> Iterator[EmailMessage]:
    if file.suffix.lower() == ".mbox":
        box = mailbox.mbox(file, create=False)
        try:
            for key in box.iterkeys():
                yield _parsed(box.get_bytes(key))
        finally:
            box.close()
    else:
        yield _parsed(_read(file))


def _parsed(content: bytes) -> EmailMessage:
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    return mail


def _mail_time(mail: EmailMessage) -> datetime | None:
    try:
        at = email.utils.parsedate_to_datetime(str(mail["Date"]))
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _mail_text(mail: EmailMessage) -> str:
    """The body without what it quotes of earlier mails: those are messages of their own."""
    body = mail.get_body(preferencelist=("plain", "html"))
    if body is None:
        return ""
    try:
        content = body.get_content()
    except (LookupError, UnicodeError):
        raw = body.get_payload(decode=True)
        content = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw)
    text = html_text(content)[1] if body.get_content_subtype() == "html" else content
    lines = text.replace("\r\n", "\n").split("\n")
    kept = [line for line in lines if not line.lstrip().startswith(">")]
    return "\n".join(kept).strip("\n")
