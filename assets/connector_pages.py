"""The pages ``docs/connectors/<type>.md``, one a connector type, made from its config model.

``python -m assets.connector_pages docs/connectors`` writes them.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from assets.config_fields import holds_secret, models_in
from assets.sources.interface import Connector, connector_types


def connector_page(kind: type[Connector]) -> str:
    """The text of one type's page."""
    about = inspect.cleandoc(kind.__doc__ or "").splitlines()
    model_about = inspect.cleandoc(kind.Config.__doc__ or "").splitlines()
    fields = kind.Config.model_fields
    lines = [
        f"# Connector type `{kind.type_name}`",
        "",
        *(about[:1] or [""]),
        "",
        *(model_about[:1] or [""]),
        "",
        "## Config",
        "",
        "| field | type | default | what it is |",
        "|---|---|---|---|",
        *(_row(name, field) for name, field in fields.items()),
        "",
        "A secret is given as text (stored encrypted) or as a reference (`docs/secrets.md`), and is never shown again.",
        "",
        *_nested(fields),
        "## Example",
        "",
        "```yaml",
        *_example(fields),
        "```",
        "",
        f"    headrace connectors add my_{kind.type_name} --type {kind.type_name} --config {kind.type_name}.yaml",
        f"    headrace connectors test my_{kind.type_name}",
        "",
    ]
    if kind.grants:
        lines += ["## Least rights", "", "```", *kind.grants.strip().splitlines(), "```", ""]
    return "\n".join(lines)


def _nested(fields: dict[str, FieldInfo]) -> list[str]:
    """A table for each model that a field holds."""
    lines: list[str] = []
    for model in dict.fromkeys(found for field in fields.values() for found in models_in(field.annotation)):
        lines += [f"### {model.__name__}", "", "| field | type | default | what it is |", "|---|---|---|---|"]
        lines += [*(_row(name, field) for name, field in model.model_fields.items()), ""]
    return lines


def _row(name: str, field: FieldInfo) -> str:
    text = (field.description or "").replace("|", "\\|").replace("\n", " ")
    kind = "secret" if holds_secret(field.annotation) else _type_text(field.annotation)
    if field.is_required():
        default = "required"
    elif field.default is None:
        default = ""
    elif field.default is PydanticUndefined:
        default = _shown(field.default_factory()) if field.default_factory else ""  # type: ignore[call-arg]
    else:
        default = _shown(field.default)
    return f"| `{name}` | {kind} | {default} | {text} |"


def _shown(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    text = json.dumps(value, default=str, ensure_ascii=False).replace("|", "\\|")
    return f"`{text}`"


def _type_text(annotation: Any) -> str:
    """``str | None`` -> text, ``Literal["a", "b"]`` -> `a`, `b`."""
    if str(getattr(annotation, "__origin__", "")) == "typing.Literal":
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): ""}
    if annotation in plain:
        return plain[annotation]
    origin = getattr(annotation, "__origin__", None)
    if origin in (list, tuple, set):
        return f"list of {_type_text(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    parts = [text for part in get_args(annotation) if (text := _type_text(part))]
    if parts:
        return ", ".join(dict.fromkeys(parts))
    name = getattr(annotation, "__name__", str(annotation))
    return name if name != "Any" else "any"


def _example(fields: dict[str, FieldInfo]) -> list[str]:
    """Required fields, secrets and those with an example of their own, as YAML."""
    lines = []
    for name, field in fields.items():
        examples = field.examples or []
        if holds_secret(field.annotation):
            lines.append(f"{name}: env:{name.upper()}")
        elif examples:
            value = examples[0].model_dump(mode="json") if hasattr(examples[0], "model_dump") else examples[0]
            lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
        elif field.is_required():
            lines.append(f"{name}: ...")
    return lines


def connector_pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {f"{name}.md": connector_page(kind) for name, kind in sorted(connector_types().items())}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/connectors")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in connector_pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
