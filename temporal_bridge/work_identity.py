"""Is this the same work? Decides whether a start may attach to a workflow that exists."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from temporal_bridge.payload_size import canonical_json

FINGERPRINT_MEMO = "headrace-work"
VOLATILE_FIELDS = frozenset({"dagster_run_id", "trigger"})
"""Who asked is no part of the work: a re-execution asks from another run."""
_MAX_DIFFERENCES = 5


def work_of(value: Any) -> Any:
    """The canonical input without what is no part of the work."""
    return _without_volatile(json.loads(canonical_json(value)))


def fingerprint(value: Any) -> str:
    """sha256 of the canonical input."""
    return hashlib.sha256(canonical_json(work_of(value)).encode()).hexdigest()


def differences(recorded: Any, wanted: Any, selection: str | None = None) -> list[str]:
    """Say what differs between a workflow's recorded input and the wanted one, in words; empty: the same work.

    Args:
        recorded: `work_of` the running or finished workflow's input.
        wanted: `work_of` the input of this start.
        selection: name of the field that lists the selected items. A retry may name fewer: each wanted item has to be
            among the recorded ones.
    """
    found: list[str] = []
    if selection and isinstance(recorded, dict) and isinstance(wanted, dict) and selection in wanted:
        recorded, wanted = dict(recorded), dict(wanted)
        had, wants = recorded.pop(selection, []), wanted.pop(selection)
        for item in wants:
            if item not in had:
                twin = next((old for old in had if _name(old) == _name(item)), None)
                if twin is None:
                    found.append(f"{selection}: {_short(_name(item))} is not among the recorded ones")
                else:
                    _compare(twin, item, f"{selection}[{_name(item)}]", found)
    _compare(recorded, wanted, "", found)
    return found[:_MAX_DIFFERENCES]


def _name(item: Any) -> Any:
    return item.get("table", item.get("name", item)) if isinstance(item, dict) else item


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_volatile(member) for name, member in value.items() if name not in VOLATILE_FIELDS}
    return [_without_volatile(member) for member in value] if isinstance(value, list) else value


def _compare(recorded: Any, wanted: Any, path: str, found: list[str]) -> None:
    if recorded == wanted:
        return
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        for name in sorted({*recorded, *wanted}):
            _compare(recorded.get(name), wanted.get(name), f"{path}.{name}" if path else name, found)
    elif isinstance(recorded, list) and isinstance(wanted, list) and len(recorded) == len(wanted):
        for number, (old, new) in enumerate(zip(recorded, wanted, strict=True)):
            _compare(old, new, f"{path}[{number}]", found)
    else:
        found.append(f"{path or 'the input'}: recorded {_short(recorded)}, now {_short(wanted)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
