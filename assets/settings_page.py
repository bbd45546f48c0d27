"""Writes ``docs/settings.md`` from the settings model: ``python -m assets.settings_page > docs/settings.md``."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

from assets.settings import Settings

_HEAD = """# Settings

Every setting is an environment variable. This page is generated from `assets/settings.py`
(`python -m assets.settings_page > docs/settings.md`); a test holds it current.

| variable | type | default | what it does |
|---|---|---|---|
"""
_TAIL = """
Temporal's own names apply to Temporal:

| variable | what it does |
|---|---|
| `TEMPORAL_ADDRESS` | `host:port` of a Temporal server with workers of its own; then no embedded stack is started |
| `TEMPORAL_NAMESPACE` | its namespace; default `default` |

Crash tests only: `HEADRACE_FAILPOINTS` (`name=kill,...`) and `HEADRACE_FAILPOINTS_FIRED` (folder of markers), see
`assets/failpoints.py`.
"""


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return _type_name(next(part for part in get_args(annotation) if part is not type(None)))
    names: dict[Any, str] = {
        SecretStr: "secret",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true, false",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def settings_page() -> str:
    """Return the Markdown page."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `HEADRACE_{name.upper()}` | {_type_name(field.annotation)} | {default} | {description} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


if __name__ == "__main__":
    print(settings_page(), end="")
