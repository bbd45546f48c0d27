"""The form of a connector type: fields drawn from its config model, and a sent form read back into a config.

A field's path is its place in the config after `PREFIX`, ``config.auth.token`` or ``config.endpoints.0.path``; it is
the input's name too. Values of secrets go in and never out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from assets.errors import ConfigurationError
from assets.sources.interface import Connector

Kind = Literal["text", "number", "flag", "choice", "secret", "lines", "json", "group", "variants", "repeated"]
PREFIX = "config."
NEW = "__new__"
"""Stands for the number of an item that is not there yet; the page's script puts one in its place."""
MAX_ITEMS = 500
_ACRONYMS = {
    "sslmode": "TLS mode",
    "sslrootcert": "TLS root certificate",
    "tls": "TLS",
    "cdc": "Change data capture",
    "oauth": "Login of a person (OAuth)",
}


@dataclass(frozen=True)
class Field:
    """One field as the page shows it; ``parts`` are the fields of a group, the variants, or the repeated items."""

    path: str
    label: str
    kind: Kind
    help: str = ""
    example: str = ""
    value: Any = ""
    required: bool = False
    stored: str = ""
    """Of a secret: its mask or its reference, where there is one."""
    whole: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    parts: tuple[Field, ...] = ()
    blank: Field | None = None
    """Of a repeated field: an item that can be added, its number written as `NEW`."""
    variant: str = ""
    """Of a field within a variant: which one, since variants share paths."""

    @property
    def id(self) -> str:
        return "-".join(filter(None, ("field", self.variant, self.path.replace(".", "-"))))

    def within(self, variant: str) -> Field:
        parts = tuple(part.within(variant) for part in self.parts)
        return replace(self, variant=variant, parts=parts, blank=self.blank.within(variant) if self.blank else None)

    def left_out(self) -> Field:
        """As a part of a group that may be left out whole: what is wrong with half of one, the model says."""
        parts = self.parts if self.kind == "repeated" else tuple(part.left_out() for part in self.parts)
        return replace(self, required=False, parts=parts)


@dataclass
class ConfigForm:
    """The fields of a type, those that a person has to look at first."""

    fields: list[Field] = field(default_factory=list)
    more: list[Field] = field(default_factory=list)


def config_form(kind: type[Connector], config: Mapping[str, Any] | None = None) -> ConfigForm:
    """Draw a type's form.

    Args:
        config: what is there already, secrets as masks or references: `assets.catalog.records.ConnectorRecord`.
    """
    schema = kind.Config.model_json_schema()
    shown = list(_fields(schema, schema, config or {}, PREFIX))
    needed = [number for number, item in enumerate(shown) if item.required or item.kind == "secret"]
    last = max(needed, default=len(shown))
    form = ConfigForm()
    for number, item in enumerate(shown):
        heavy = item.kind in ("group", "repeated", "json") and not item.required
        (form.more if number > last or heavy else form.fields).append(item)
    return form


def _fields(root: Mapping[str, Any], schema: Mapping[str, Any], config: Any, prefix: str) -> Iterator[Field]:
    known = config if isinstance(config, Mapping) else {}
    for name, item in schema.get("properties", {}).items():
        if "const" not in item:
            yield _field(root, item, name, known, prefix, name in schema.get("required", ()))


def _field(
    root: Mapping[str, Any],
    schema: Mapping[str, Any],
    name: str,
    config: Mapping[str, Any],
    prefix: str,
    required: bool,
) -> Field:
    plain, optional = _plain(root, schema)
    path = f"{prefix}{name}"
    given = config.get(name)
    value = given if given is not None else schema.get("default", plain.get("default"))
    kind = _kind(root, plain)
    facts: dict[str, Any] = {
        "path": path,
        "label": _ACRONYMS.get(name, name.replace("_", " ").capitalize().replace(" url", " URL")),
        "kind": kind,
        "help": schema.get("description") or plain.get("description", ""),
        "example": _example(schema.get("examples") or plain.get("examples") or []),
        "required": required and not optional,
    }
    if kind == "secret":
        return Field(**facts, stored=str(given) if given else "")
    if kind == "variants":
        return Field(**facts, **_variants(root, plain, value, path))
    if kind == "group":
        parts = _fields(root, plain, value, f"{path}.")
        return Field(**facts, parts=tuple(part if facts["required"] else part.left_out() for part in parts))
    if kind == "repeated":
        item, _ = _plain(root, plain["items"])
        items = [_item(root, item, part, f"{path}.{number}") for number, part in enumerate(value or [])]
        return Field(**facts, parts=tuple(items), blank=_item(root, item, {}, f"{path}.{NEW}"))
    if kind == "choice":
        return Field(**facts, choices=tuple(str(choice) for choice in plain["enum"]), value=str(value or ""))
    if kind == "flag":
        return Field(**facts, value=bool(value))
    if kind == "number":
        bounds = {"least": plain.get("minimum"), "most": plain.get("maximum"), "whole": plain["type"] == "integer"}
        return Field(**facts, **bounds, value="" if value is None else value)
    return Field(**facts, value=_text(kind, value))


def _item(root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: str) -> Field:
    number = path.rpartition(".")[2]
    title = "New" if number == NEW else str(int(number) + 1)
    return Field(path=path, label=title, kind="group", parts=tuple(_fields(root, schema, value, f"{path}.")))


def _variants(root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: str) -> dict[str, Any]:
    """The kinds of a choice of objects: each a group named by its ``type``."""
    chosen = value.get("type") if isinstance(value, Mapping) else None
    parts = []
    for option in schema["oneOf"] if "oneOf" in schema else schema["anyOf"]:
        variant, _ = _plain(root, option)
        tag = variant["properties"]["type"]["const"]
        mine = value if tag == chosen else {}
        parts.append(
            Field(
                path=f"{path}.{tag}",
                label=tag,
                kind="group",
                help=variant.get("description", ""),
                parts=tuple(part.within(tag) for part in _fields(root, variant, mine, f"{path}.")),
            )
        )
    return {"parts": tuple(parts), "choices": tuple(part.label for part in parts), "value": chosen or parts[0].label}


def _plain(root: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The schema without references and without ``null``; whether it may be ``null``."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    options = schema.get("anyOf")
    if options is not None:
        real = [option for option in options if option.get("type") != "null"]
        if len(real) == 1 and len(options) == 2:
            return _plain(root, real[0])[0], True
    return schema, False


def _kind(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Kind:
    if schema.get("format") == "password" or schema.get("writeOnly"):
        return "secret"
    options = schema.get("oneOf") or schema.get("anyOf")
    if options:
        return _kind_of_options(root, [_plain(root, option)[0] for option in options])
    if "enum" in schema:
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "flag"
        case "integer" | "number":
            return "number"
        case "array":
            item, _ = _plain(root, schema.get("items", {}))
            return "lines" if item.get("type") == "string" else "repeated" if "properties" in item else "json"
        case "object":
            return "group" if "properties" in schema else "json"
    return "text"


def _kind_of_options(root: Mapping[str, Any], options: Sequence[Mapping[str, Any]]) -> Kind:
    if all("const" in option.get("properties", {}).get("type", {}) for option in options):
        return "variants"
    kinds = {option.get("type") for option in options}
    if kinds == {"string"}:
        return "text"
    return "lines" if kinds == {"string", "array"} else "json"


def _example(examples: Sequence[Any]) -> str:
    if not examples:
        return ""
    first = examples[0]
    if isinstance(first, list) and all(isinstance(item, str) for item in first):
        return "\n".join(first)
    return first if isinstance(first, str) else json.dumps(first)


def _text(kind: Kind, value: Any) -> str:
    if value is None:
        return ""
    if kind == "lines":
        return "\n".join([value] if isinstance(value, str) else value)
    return json.dumps(value) if kind == "json" and value != {} and value != [] else str(value) if kind == "text" else ""


# reading


def read_config(kind: type[Connector], sent: Mapping[str, str]) -> dict[str, Any]:
    """The config that a sent form holds. Empty fields are left out, so that defaults and stored secrets stay.

    Raises:
        ConfigurationError: a field is not what it has to be; it is named in ``fields``.
    """
    schema = kind.Config.model_json_schema()
    wrong: list[tuple[str, str]] = []
    config = _read_group(schema, schema, sent, PREFIX, wrong)
    if wrong:
        wrong = [(path.removeprefix(PREFIX), text) for path, text in wrong]
        raise ConfigurationError("; ".join(f"{path}: {text}" for path, text in wrong) + ".", fields=wrong)
    return config


def _read_group(
    root: Mapping[str, Any],
    schema: Mapping[str, Any],
    sent: Mapping[str, str],
    prefix: str,
    wrong: list[tuple[str, str]],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in schema.get("properties", {}).items():
        if "const" in item:
            found[name] = item["const"]
            continue
        if f"{prefix}{name}.forget" in sent:
            found[name] = None  # said, so that the stored secret does not stay
            continue
        value = _read(root, item, sent, f"{prefix}{name}", wrong)
        if value is None and name in schema.get("required", ()) and _kind(root, _plain(root, item)[0]) == "group":
            value = {}  # the model says what is missing in it
        if value is not None:
            found[name] = value
    return found


def _read(
    root: Mapping[str, Any], schema: Mapping[str, Any], sent: Mapping[str, str], path: str, wrong: list[tuple[str, str]]
) -> Any:
    """The value of one field; None: left out."""
    plain, _ = _plain(root, schema)
    kind = _kind(root, plain)
    if kind == "group":
        group = _read_group(root, plain, sent, f"{path}.", wrong)
        return None if _is_untouched(plain, group) else group
    if kind == "variants":
        return _read_variant(root, plain, sent, path, wrong)
    if kind == "repeated":
        item, _ = _plain(root, plain["items"])
        items = [_read_group(root, item, sent, f"{path}.{number}.", wrong) for number in _numbers(sent, path)]
        return items or None
    text = sent.get(path)
    if kind == "flag":
        return None if text is None and f"{path}.asked" not in sent else text is not None
    if text is None or not (text.strip() if kind != "secret" else text):
        return None
    try:
        return _value(kind, text)
    except ValueError:
        wrong.append((path, "is no valid JSON" if kind == "json" else "is no number"))
        return None


def _is_untouched(schema: Mapping[str, Any], group: Mapping[str, Any]) -> bool:
    """Whether a group holds nothing but what its form shows of itself: defaults, and the first kind of a choice."""
    properties = schema.get("properties", {})
    return all(
        name not in schema.get("required", ())
        and (value == properties[name].get("default") or (isinstance(value, dict) and set(value) <= {"type"}))
        for name, value in group.items()
        if "const" not in properties[name]
    )


def _read_variant(
    root: Mapping[str, Any], schema: Mapping[str, Any], sent: Mapping[str, str], path: str, wrong: list[tuple[str, str]]
) -> dict[str, Any] | None:
    chosen = sent.get(f"{path}.type")
    for option in schema["oneOf"] if "oneOf" in schema else schema["anyOf"]:
        variant, _ = _plain(root, option)
        if variant["properties"]["type"]["const"] == chosen:
            return _read_group(root, variant, sent, f"{path}.", wrong)
    return None


def _numbers(sent: Mapping[str, str], path: str) -> list[int]:
    found = {name[len(path) + 1 :].split(".", 1)[0] for name in sent if name.startswith(f"{path}.")}
    return sorted(int(number) for number in found if number.isascii() and number.isdecimal() and len(number) < 9)[
        :MAX_ITEMS
    ]


def _value(kind: Kind, text: str) -> Any:
    match kind:
        case "number":
            number = float(text)
            return int(text) if text.strip().lstrip("+-").isdecimal() else number
        case "json":
            return json.loads(text)
        case "lines":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "secret":
            return text
    return text.strip()


def input_of(path: str, sent: Mapping[str, str]) -> str:
    """The input that an error's path means: the model names the kind of a variant in it, ``auth.bearer.token``."""
    parts = path.split(".")
    shorter = [".".join(parts[:at] + parts[at + 1 :]) for at in range(1, len(parts))]
    candidates = [path, *(PREFIX + candidate for candidate in (path, *shorter))]
    return next((candidate for candidate in candidates if candidate in sent), path)
