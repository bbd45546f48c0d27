"""Expressions and templates of kits: Jinja's sandbox, with values only and no way to the program."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assets.errors import ConfigurationError

MAX_TEXT = 200_000
MAX_EXPRESSION = 4_000


class ExpressionError(ConfigurationError):
    """An expression does not parse, names what is not there, or fails."""


class _Environment(ImmutableSandboxedEnvironment):
    def is_safe_callable(self, obj: Any) -> bool:
        return False  # values only: no method, no function

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``a.b`` is the item ``b`` of ``a``, never an attribute: ``steps.find.items`` is data, not a method."""
        try:
            return obj[attribute]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=attribute)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, autoescape=False)
    environment.globals.clear()
    for risky in ("attr", "map", "pprint", "random", "xmlattr", "urlize", "wordwrap", "indent", "center", "tojson"):
        environment.filters.pop(risky, None)
    environment.filters["json"] = _json
    return environment


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str)


def _refuse_calls(tree: nodes.Template) -> None:
    forbidden = (nodes.Macro, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.CallBlock, nodes.Call)
    if next(tree.find_all(forbidden), None) is not None:
        raise ExpressionError("only values, filters and {% for %} or {% if %} are allowed")
    for operation in tree.find_all((nodes.Pow, nodes.Mul)):
        left = operation.left
        if isinstance(operation, nodes.Pow) or (isinstance(left, nodes.Const) and isinstance(left.value, str)):
            raise ExpressionError("powers and repeated texts are not allowed")


def _parsed(text: str) -> nodes.Template:
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"longer than {MAX_TEXT} characters")
    try:
        tree = _environment().parse(text)
    except TemplateError as error:
        raise ExpressionError(f"{error.message}") from None
    _refuse_calls(tree)
    return tree


def _check(tree: nodes.Template, inputs: set[str], steps: set[str], names: set[str]) -> None:
    try:
        unknown = sorted(meta.find_undeclared_variables(tree) - names)
    except TemplateError as error:
        raise ExpressionError(f"{error.message}") from None
    if unknown:
        raise ExpressionError(f"{unknown[0]} is not known here; known: {', '.join(sorted(names))}")
    known = {"inputs": inputs, "steps": steps}
    for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if not isinstance(access.node, nodes.Name) or access.node.name not in known:
            continue
        name = access.attr if isinstance(access, nodes.Getattr) else getattr(access.arg, "value", None)
        if isinstance(name, str) and name not in known[access.node.name]:
            kind = "input" if access.node.name == "inputs" else "earlier step"
            raise ExpressionError(f"there is no {kind} {name}")


def check_expression(text: str, *, inputs: set[str], steps: set[str], names: set[str]) -> None:
    """Check one expression such as ``steps.find.row_count > 0``.

    Raises:
        ExpressionError: it does not parse, or names what cannot be there.
    """
    if len(text) > MAX_EXPRESSION:
        raise ExpressionError(f"longer than {MAX_EXPRESSION} characters")
    _check(_parsed("{{ (" + text + ") }}"), inputs, steps, names)


def check_template(text: str, *, inputs: set[str], steps: set[str], names: set[str]) -> None:
    """Check a text with expressions between ``{{`` and ``}}``. Errors as in `check_expression`."""
    _check(_parsed(text), inputs, steps, names)


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Raises:
        ExpressionError: it fails on these values.
    """
    _parsed("{{ (" + text + ") }}")
    try:
        value = _environment().compile_expression(text, undefined_to_none=False)(**values)
    except (TemplateError, SecurityError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ExpressionError(f"{type(error).__name__} in `{text[:200]}`: {str(error)[:300]}") from None
    if isinstance(value, Undefined):
        raise ExpressionError(f"`{text[:200]}` names what is not there")
    return value


def render(value: Any, values: Mapping[str, Any]) -> Any:
    """Fill the templates in texts, also inside lists and mappings; a text that is one expression keeps its type.

    Raises:
        ExpressionError: an expression fails on these values.
    """
    if isinstance(value, Mapping):
        return {key: render(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, values) for item in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    stripped = value.strip()
    if stripped.startswith("{{") and stripped.endswith("}}") and stripped.count("{{") == 1:
        return evaluate(stripped[2:-2], values)
    _parsed(value)
    try:
        text = _environment().from_string(value).render(**values)
    except (TemplateError, SecurityError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ExpressionError(f"{type(error).__name__} in a template: {str(error)[:300]}") from None
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"a text became longer than {MAX_TEXT} characters")
    return text
