"""Things in a row in groups of about one size."""

from __future__ import annotations

from collections.abc import Sequence


def group_starts(sizes: Sequence[int], groups: int) -> list[int]:
    """Where each group begins; fewer of them where single things are larger than a group."""
    wanted = sum(sizes) / groups
    starts: list[int] = []
    taken = 0
    for place, size in enumerate(sizes):
        if not starts or taken + size / 2 > wanted * len(starts):
            starts.append(place)
        taken += size
    return starts
