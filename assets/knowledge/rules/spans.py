"""Spans that rules find, and which of two that overlap stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """``text[start:end]`` is an entity of this type. ``rank``: of two that overlap the lower one stays."""

    start: int
    end: int
    type: str
    rank: int = 5
    confidence: float = 0.9
    attributes: dict[str, str] = field(default_factory=dict, hash=False, compare=False)

    def overlaps(self, other: Span) -> bool:
        return self.start < other.end and other.start < self.end


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Keep the better of two that overlap: by rank, then the longer one, then the first."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.rank, s.start - s.end, s.start)):
        if not any(span.overlaps(other) for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda s: s.start)
