"""One rule for every name Headrace makes: tables, folders and Silver columns.

Bronze keeps the source's column names. Silver columns and the folders of tables are snake_case: letters ``a-z``, digits
and ``_`` stay, a change of case starts a new word, space, dot and hyphen become ``_``, everything else ``_xHEX_``. Two
names that map to one are told apart by hash digits of the exact source name, so no two ever meet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import quote

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
CONNECTOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
METADATA_PREFIX = "_headrace_"


def snake_case(name: str) -> str:
    """Turn a source name into snake_case: ``orderID`` -> ``order_id``; what has no plain form is escaped ``_xHEX_``."""
    words = "_".join(_WORD_START.split(name)).lower().replace(" ", "_").replace("-", "_").replace(".", "_")
    text = "".join(c if c.isascii() and (c.isalnum() or c == "_") else f"_x{ord(c):x}_" for c in words)
    if not text or text[0].isdigit():
        text = f"_{text}"
    return f"x{text}" if text.startswith(METADATA_PREFIX) else text


def column_names(names: Sequence[str]) -> dict[str, str]:
    """Map source column names to unique Silver names.

    A name that is plain already keeps itself; of the others, the first in code-point order that claims a free name
    gets it, a later one gets eight hash digits of its exact source name appended. The order of ``names`` is no matter.
    """
    plain = {name for name in names if _PLAIN.match(name) and snake_case(name) == name}
    mapping = {name: name for name in plain}
    taken = set(plain)
    for name in sorted(set(names) - plain):
        target = snake_case(name)
        if target in taken:
            target = f"{target}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        taken.add(target)
        mapping[name] = target
    return {name: mapping[name] for name in names}


def table_label(schema: str, table: str) -> str:
    """``schema.table``; the schema is quoted where it holds a dot or a quote, so that the label is unambiguous."""
    if "." in schema or '"' in schema:
        schema = '"' + schema.replace('"', '""') + '"'
    return f"{schema}.{table}"


def table_slug(table: str) -> str:
    """The folder and table name of ``schema.table``: reversible, unique, at most 200 characters.

    Plain names stay readable (``public.orders`` -> ``public__orders``); any other name gets a hash of the exact source
    name appended, so that twins such as ``Orders`` and ``orders`` never meet, on case-insensitive storage either.
    """
    parts = table.split(".")
    if len(parts) <= 2 and all(_PLAIN.match(part) for part in parts) and "__" not in table and len(table) < 190:
        return "__".join(parts)
    readable = re.sub(r"[^a-z0-9_]+", "_", table.lower().replace(".", "__")).strip("_")[:120] or "table"
    return f"{readable}__{hashlib.sha256(table.encode()).hexdigest()[:12]}"


def path_part(text: str) -> str:
    """Encode one path or identifier part so that it holds no separator: percent-encoding, a leading ``.`` included."""
    encoded = quote(text, safe="-_.~")
    return encoded if not encoded.startswith(".") else "%2E" + encoded[1:]


def workflow_id(connector: str, table: str) -> str:
    """The fixed id of a table's sync: a free mutex, one running sync per table."""
    return f"sync/{path_part(connector)}/{path_part(table)}"
