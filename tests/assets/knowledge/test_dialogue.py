"""Chunks cover a session, overlap, and say exactly where each piece stands."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.knowledge.dialogue import Message, Session, chunked

TEXTS = st.lists(st.text(alphabet="ab 🚲\n", min_size=1, max_size=120), min_size=1, max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is no fault
@given(TEXTS, st.integers(20, 80), st.integers(0, 9))
def test_every_character_is_in_a_chunk_at_its_own_place(texts: list[str], size: int, overlap: int) -> None:
    messages = [Message(str(n), "user", None, text) for n, text in enumerate(texts)]
    covered = [set() for _ in texts]
    for chunk in chunked(messages, size, overlap):
        assert 0 < chunk.characters <= size
        for piece in chunk.segments:
            end = piece.start + len(piece.text)
            assert texts[piece.message][piece.start : end] == piece.text
            covered[piece.message] |= set(range(piece.start, end))
    assert covered == [set(range(len(text))) for text in texts]


def test_neighbouring_chunks_share_their_edge() -> None:
    words = " ".join(f"word{n}" for n in range(200))
    chunks = list(chunked([Message("1", "user", None, words)], 300, 60))
    for before, after in pairwise(chunks):
        assert after.segments[0].start < before.segments[-1].start + len(before.segments[-1].text)


def test_the_content_hash_of_a_session_changes_with_text_role_and_order() -> None:
    first, second = Message("1", "user", None, "a"), Message("2", "user", None, "b")
    hashes = {
        Session("s", messages).content_hash
        for messages in ((first, second), (second, first), (first,), (Message("1", "agent", None, "a"), second))
    }
    assert len(hashes) == 4
