"""Sessions, their messages, and the chunks that an extractor reads: exact character offsets throughout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

CHUNK_CHARACTERS = 6_000
OVERLAP_CHARACTERS = 400


@dataclass(frozen=True)
class Message:
    """One message. ``text`` is the source's own, unchanged: every span counts its characters (Python's, from 0)."""

    id: str
    role: str
    at: datetime | None
    text: str


@dataclass(frozen=True)
class Session:
    """One conversation or document: its messages in the order they were said."""

    id: str
    messages: tuple[Message, ...]
    title: str = ""

    @property
    def content_hash(self) -> str:
        """sha256 of what an extraction depends on: ids, roles, times and texts, in order."""
        digest = hashlib.sha256(json.dumps([self.id, self.title], ensure_ascii=False).encode())
        for message in self.messages:
            at = message.at.astimezone(UTC).isoformat() if message.at else None
            digest.update(json.dumps([message.id, message.role, at, message.text], ensure_ascii=False).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Segment:
    """A piece of a message: ``text == message.text[start:start + len(text)]``."""

    message: int
    start: int
    role: str
    text: str


@dataclass(frozen=True)
class Chunk:
    """What one call of an extractor reads. Chunks of a session overlap, so that nothing is cut in two unseen."""

    number: int
    segments: tuple[Segment, ...]

    @property
    def content_hash(self) -> str:
        """sha256 of the roles and texts alone: the same words elsewhere have the same answer."""
        pieces = [[segment.role, segment.text] for segment in self.segments]
        return hashlib.sha256(json.dumps(pieces, ensure_ascii=False).encode()).hexdigest()

    @property
    def characters(self) -> int:
        return sum(len(segment.text) for segment in self.segments)


def chunked(
    messages: Sequence[Message], size: int = CHUNK_CHARACTERS, overlap: int = OVERLAP_CHARACTERS
) -> Iterator[Chunk]:
    """Cut a session into chunks of at most ``size`` characters, each beginning with the end of the one before.

    Args:
        size: most characters of one chunk.
        overlap: characters that two neighbours share, cut at a word's end where there is one; less than half of
            ``size``.
    """
    if not 0 <= overlap < size / 2:
        raise ValueError("the overlap has to be less than half of a chunk")
    held: list[Segment] = []
    used = number = 0
    fresh = False
    for index, message in enumerate(messages):
        position = 0
        while position < len(message.text):
            room = size - used
            end = min(len(message.text), position + room)
            if end < len(message.text):
                end = _word_end(message.text, position, end)
            # a message that fits a chunk of its own is not cut, unless the chunk would stay almost empty
            whole = len(message.text) <= size - overlap and position == 0
            if end < len(message.text) and fresh and whole and used > overlap:
                end = position
            if end > position:
                held.append(Segment(index, position, message.role, message.text[position:end]))
                used += end - position
                position, fresh = end, True
            if position < len(message.text):
                yield Chunk(number, tuple(held))
                number += 1
                held = _tail(held, overlap)
                used, fresh = sum(len(segment.text) for segment in held), False
    if fresh:
        yield Chunk(number, tuple(held))


def _word_end(text: str, start: int, end: int) -> int:
    """The last place before ``end`` where no word is cut; ``end`` itself if there is none nearby."""
    for place in range(end, max(start + 1, end - 200), -1):
        if text[place - 1].isspace() or text[place].isspace():
            return place
    return end


def _tail(segments: Sequence[Segment], characters: int) -> list[Segment]:
    """The last ``characters`` of the segments, from a word's beginning on."""
    kept: list[Segment] = []
    left = characters
    for segment in reversed(segments):
        if left <= 0:
            break
        cut = max(0, len(segment.text) - left)
        while 0 < cut < len(segment.text) and not segment.text[cut - 1].isspace():
            cut += 1
        if cut < len(segment.text):
            kept.insert(0, Segment(segment.message, segment.start + cut, segment.role, segment.text[cut:]))
        left -= len(segment.text)
    return kept
