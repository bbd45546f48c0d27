"""How a source's columns changed since the table was last read, told apart, in words. Decides nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assets.sync import Column, ColumnChoice

Kind = Literal["added", "dropped", "renamed", "widened", "retyped", "changed", "replaced"]
"""``retyped``: another source type, the same stored type. ``changed``: a stored type that cannot take the new values.
``replaced``: dropped and added again under the same name."""
_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)\Z")
_INTEGERS = {"int16": 5, "int32": 10, "int64": 19}


@dataclass(frozen=True)
class ColumnChange:
    """One column's change. ``old`` and ``new`` as they are stored; None where there is none."""

    kind: Kind
    old: Column | None
    new: Column | None

    @property
    def text(self) -> str:
        old, new = self.old, self.new
        if old is None:
            assert new is not None
            return f"column {new.name} ({new.source_type}) was added"
        if new is None:
            return f"column {old.name} was dropped"
        if self.kind == "renamed":
            return f"column {old.name} is now called {new.name}"
        if self.kind == "replaced":
            return f"column {new.name} was dropped and added again ({old.source_type}, now {new.source_type})"
        before, after = (old.source_type, new.source_type)
        if before == after:  # the types of a JSON value have no names of their own
            before, after = old.arrow_type, new.arrow_type
        return f"column {new.name} was {before} and is now {after}"


def widens(old: str, new: str) -> bool:
    """Whether every value of the stored type ``old`` has the same value in ``new``, and types need no reload."""
    if old in _INTEGERS and new in _INTEGERS:
        return _INTEGERS[new] >= _INTEGERS[old]
    if (old, new) == ("float", "double") or old == new:
        return True
    after = _DECIMAL.match(new)
    if after is None:
        return False
    precision, scale = int(after[1]), int(after[2])
    if before := _DECIMAL.match(old):
        return scale >= int(before[2]) and precision - scale >= int(before[1]) - int(before[2])
    return old in _INTEGERS and precision - scale >= _INTEGERS[old]


def column_changes(
    seen: Sequence[Column], now: Sequence[Column], choice: ColumnChoice, kept: Sequence[Column] = ()
) -> list[ColumnChange]:
    """Compare the columns as the last sync saw them with the columns now, both before protection.

    A column with an id is followed through a new name. Ids of another table (it was created again) do not count.
    ``kept`` columns were dropped before; one that comes again is a replaced one.
    """
    earlier = {c.name: c for c in kept}
    before = {c.name: c for c in seen}
    after = {c.name: c for c in now}
    by_id = {c.id: c for c in now if c.id} if ids_tell(seen, now) else {}
    found: list[ColumnChange] = []
    followed: set[str] = set()
    for old in seen:
        same = by_id.get(old.id) if old.id else None
        new = after.get(old.name)
        if same is not None and same.name != old.name:
            found.append(ColumnChange("renamed", old, same))
            followed.add(same.name)
            new = same
        elif new is None:
            found.append(ColumnChange("dropped", old, None))
            continue
        elif by_id and old.id and new.id and old.id != new.id:
            found.append(ColumnChange("replaced", old, new))
            continue
        if retyped := _retyped(old, new, choice):
            found.append(ColumnChange(retyped, old, new))
    for new in now:
        if new.name not in before and new.name not in followed:
            old = earlier.get(new.name)
            found.append(ColumnChange("replaced" if old else "added", old, new))
    return found


def ids_tell(seen: Sequence[Column], now: Sequence[Column]) -> bool:
    """Whether the columns have ids, of one and the same table: then a renamed one is known."""
    tables = {c.id.split(".")[0] for c in (*seen, *now) if c.id}
    return len(tables) == 1


def _retyped(old: Column, new: Column, choice: ColumnChoice) -> Kind | None:
    if old.arrow_type == new.arrow_type and old.rule == new.rule:
        return "retyped" if old.source_type != new.source_type else None
    if old.name in choice.mask or new.name in choice.mask:
        return "retyped"
    if old.name in choice.hash or new.name in choice.hash:  # the hash is of the value's text
        return "retyped" if {old.arrow_type, new.arrow_type} <= _INTEGERS.keys() else "changed"
    if old.arrow_type == new.arrow_type:  # another text form, such as of a text that became an array
        return "retyped"
    return "widened" if widens(old.arrow_type, new.arrow_type) else "changed"
