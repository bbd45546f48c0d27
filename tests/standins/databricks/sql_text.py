"""Reading SQL text without a parser: names, parameters and parentheses outside of literals and comments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.standins.databricks.errors import SqlError

_PART = r"(?:`(?:[^`]|``)+`|[A-Za-z_][A-Za-z0-9_]*)"
NAME = rf"{_PART}(?:\.{_PART}){{0,2}}"
_LITERAL = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|/\*.*?\*/"
_NAMES = re.compile(rf"({_LITERAL})|(?<![:\w`.]){NAME}", re.S)
_MARKERS = re.compile(rf"({_LITERAL}|`(?:[^`]|``)+`)|(?<![:\w]):([A-Za-z_]\w*)", re.S)
_BEFORE_TABLE = re.compile(r"(?i)\b(from|join|into|table|update|using)\s+\Z")
_PLAIN_TYPE = re.compile(r"[A-Za-z_]+(\(\d+(, ?\d+)?\))?\Z")


def parts_of(name: str) -> list[str]:
    """``a.`b c`` ` -> ``["a", "b c"]``."""
    found = re.findall(_PART, name)
    return [part[1:-1].replace("``", "`") if part.startswith("`") else part for part in found]


def literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def unescaped(text: str) -> str:
    """The value of a quoted literal."""
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r", "t": "\t"}.get(m[1], m[1]), text[1:-1])


def bind(sql: str, parameters: list[dict[str, Any]]) -> str:
    """Put typed literals in the place of ``:name`` markers.

    Raises:
        SqlError: a marker without a value.
    """
    values = {str(p["name"]): p for p in parameters}

    def value_of(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        if match[2] not in values:
            raise SqlError(f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {match[2]}. SQLSTATE: 42P02")
        given = values[match[2]]
        kind = str(given.get("type") or "STRING").upper()
        if not _PLAIN_TYPE.match(kind):
            raise SqlError(f"[INVALID_PARAMETER_VALUE] the type {kind} of parameter {match[2]} is not supported")
        if given.get("value") is None:
            return f"CAST(NULL AS {kind})"
        text = literal(str(given["value"]))
        return text if kind == "STRING" else f"CAST({text} AS {kind})"

    return _MARKERS.sub(value_of, sql)


def has_markers(sql: str) -> bool:
    return any(match[2] for match in _MARKERS.finditer(sql))


def replace_names(sql: str, known: Mapping[tuple[str, ...], str], default: tuple[str, str]) -> str:
    """Put ``known``'s text in the place of each table name that resolves to one of its keys."""

    def replaced(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        parts = [part.lower() for part in parts_of(match[0])]
        if len(parts) == 1 and not _BEFORE_TABLE.search(sql[max(0, match.start() - 20) : match.start()]):
            return match[0]
        return known.get((*default[: 3 - len(parts)], *parts), match[0])

    return _NAMES.sub(replaced, sql)


def closing(sql: str, start: int) -> int:
    """Index of the parenthesis that closes the one at ``start``."""
    depth = 0
    for match in re.compile(rf"{_LITERAL}|`(?:[^`]|``)+`|[()]", re.S).finditer(sql, start):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
            if depth == 0:
                return match.start()
    raise SqlError("[PARSE_SYNTAX_ERROR] a parenthesis is not closed. SQLSTATE: 42601")


def replace_calls(sql: str, function: str, put: Callable[[str], str]) -> str:
    """Replace each call of a function; ``put`` is given the text between its parentheses."""
    pattern = re.compile(rf"({_LITERAL}|`(?:[^`]|``)+`)|\b{function}\s*\(", re.S | re.I)
    done, position = [], 0
    while match := pattern.search(sql, position):
        if match[1]:
            done.append(sql[position : match.end()])
            position = match.end()
            continue
        end = closing(sql, match.end() - 1)
        done += [sql[position : match.start()], put(sql[match.end() : end])]
        position = end + 1
    return "".join([*done, sql[position:]])


def split_list(text: str) -> list[str]:
    """Split at commas outside of parentheses and literals."""
    items, depth, start = [], 0, 0
    for match in re.compile(rf"{_LITERAL}|`(?:[^`]|``)+`|=>|[(),<>]", re.S).finditer(text):
        if match[0] in "(<":
            depth += 1
        elif match[0] in ")>":
            depth -= 1
        elif match[0] == "," and depth == 0:
            items.append(text[start : match.start()].strip())
            start = match.end()
    return [*items, text[start:].strip()] if text.strip() else items
