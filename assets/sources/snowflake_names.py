"""Snowflake's names as Headrace shows them: what folds to upper case is lower case here, and every name comes back.

``ORDERS`` is ``orders``; a name that was quoted and is lower case is ``"orders"``; any other one stays as it is.
"""

from __future__ import annotations

import re

_UPPER = re.compile(r"[A-Z_][A-Z0-9_$]*\Z")
_LOWER = re.compile(r"[a-z_][a-z0-9_$]*\Z")


def quoted(name: str) -> str:
    """A name as a Snowflake identifier."""
    return '"' + name.replace('"', '""') + '"'


def relation(database: str, schema: str, table: str) -> str:
    return ".".join(quoted(part) for part in (database, schema, table))


def literal(text: str) -> str:
    """A text as Snowflake writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def natural(name: str) -> str:
    """A name of the source as Headrace shows it."""
    if _UPPER.match(name):
        return name.lower()
    if _LOWER.match(name) or name.startswith('"'):
        return quoted(name)
    return name


def exact(shown: str) -> str:
    """The source's name of one that `natural` gave."""
    if shown.startswith('"'):
        return shown[1:-1].replace('""', '"')
    return shown.upper() if _LOWER.match(shown) else shown


def folded(written: str) -> str:
    """A name as a user writes it in SQL or a config: folded to upper case unless it is quoted."""
    if len(written) > 1 and written.startswith('"') and written.endswith('"'):
        return written[1:-1].replace('""', '"')
    return written.upper()


def table_name(schema: str, table: str) -> str:
    """``schema.table`` as every command takes it; the schema is quoted where it holds a dot."""
    shown = natural(schema)
    if "." in shown and not shown.startswith('"'):
        shown = quoted(schema)
    return f"{shown}.{natural(table)}"


def split_table_name(name: str) -> tuple[str, str]:
    """The source's schema and table of a name that `table_name` gave; empty texts where it gave none such."""
    match = re.match(r'("(?:[^"]|"")+"|[^".][^.]*)\.(.+)\Z', name, re.DOTALL)
    return (exact(match[1]), exact(match[2])) if match else ("", "")
