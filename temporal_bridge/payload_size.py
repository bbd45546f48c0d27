"""Refusal of what one Temporal payload cannot hold, before the server does it in a way that hangs."""

from __future__ import annotations

import json
from typing import Any

from assets.errors import BridgeError

MAX_PAYLOAD_BYTES = 1_572_864
"""1.5 MiB. The server's limit is 2 MiB: above it an argument leaves the workflow RUNNING for ever, without an error."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Takes models, dataclasses and plain values."""
    from pydantic_core import to_jsonable_python

    return json.dumps(to_jsonable_python(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def refuse_large_payload(value: Any, what: str) -> None:
    """Raise if a value does not fit.

    Args:
        value: an argument or result.
        what: how the message calls it, such as ``the input of DatasetSyncWorkflow``.

    Raises:
        BridgeError: naming the largest field.
    """
    size = len(canonical_json(value).encode())
    if size <= MAX_PAYLOAD_BYTES:
        return
    field, field_size = _largest_field(json.loads(canonical_json(value)))
    named = f"; the largest part is `{field}` with {field_size:,} bytes" if field else ""
    raise BridgeError(
        f"{what} has {size:,} bytes, more than the {MAX_PAYLOAD_BYTES:,} that one Temporal payload may have{named}.",
        remedy="Pass a reference (a path or an id) instead of the data.",
        retryable=False,
    )


def _largest_field(value: Any) -> tuple[str, int]:
    """Follow the largest member down as long as it makes up most of its parent."""
    path, size = "", 0
    while isinstance(value, (dict, list)) and value:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        sizes = {name: len(json.dumps(member, ensure_ascii=False).encode()) for name, member in members}
        name = max(sizes, key=lambda key: sizes[key])
        if path and sizes[name] < size / 2:
            break
        path += f"[{name}]" if isinstance(value, list) else f".{name}" if path else str(name)
        size = sizes[name]
        value = value[name]
    return path, size
