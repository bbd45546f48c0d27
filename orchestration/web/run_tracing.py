"""Hands the trace of a request on to the Dagster runs that it launches: as a tag of theirs."""

from __future__ import annotations

import re
from typing import Any

from assets import tracing
from temporal_bridge.tracing import TRACEPARENT_TAG

_TAGS_OF = {
    "ExecutionParams": ("executionMetadata", "tags"),
    "ReexecutionParams": ("extraTags",),
    "LaunchBackfillParams": ("tags",),
}
"""Where an argument of Dagster's launching mutations, by its type, holds the tags of its runs."""
_VARIABLE = re.compile(rf"\$(\w+)\s*:\s*({'|'.join(_TAGS_OF)})\b")


def with_traceparent(query: str, variables: dict[str, Any] | None) -> dict[str, Any] | None:
    """The variables of a mutation, the launched runs tagged with the current trace; as they are where there is none."""
    handed_on = tracing.traceparent()
    if handed_on is None or not variables:
        return variables
    changed = dict(variables)
    for name, kind in _VARIABLE.findall(query):
        if isinstance(changed.get(name), dict):
            changed[name] = _tagged(changed[name], _TAGS_OF[kind], handed_on)
    return changed


def _tagged(value: dict[str, Any], path: tuple[str, ...], handed_on: str) -> dict[str, Any]:
    first, *rest = path
    inner = value.get(first)
    if rest:
        return value | {first: _tagged(inner if isinstance(inner, dict) else {}, tuple(rest), handed_on)}
    kept = [tag for tag in inner or [] if not (isinstance(tag, dict) and tag.get("key") == TRACEPARENT_TAG)]
    return value | {first: [*kept, {"key": TRACEPARENT_TAG, "value": handed_on}]}
