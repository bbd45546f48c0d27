"""The contract's types on Databricks and back: ``docs/types.md`` lists them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assets.errors import LakehouseError

if TYPE_CHECKING:
    import pyarrow as pa

DATABRICKS_TYPES: dict[str, str] = {
    "bool": "BOOLEAN",
    "int16": "SMALLINT",
    "int32": "INT",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "STRING",
    "binary": "BINARY",
    "date32[day]": "DATE",
    "timestamp[us]": "TIMESTAMP_NTZ",
    "timestamp[us, tz=UTC]": "TIMESTAMP",
}
"""Contract type -> Databricks type; ``decimal128(p, s)`` is ``DECIMAL(p, s)``."""

CLUSTERED_TYPES = frozenset(
    ("SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "STRING", "DATE", "TIMESTAMP", "TIMESTAMP_NTZ", "DECIMAL")
)
"""What liquid clustering takes as a key (docs.databricks.com/delta/clustering)."""

_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)\Z", re.I)


def databricks_type(kind: pa.DataType, where: str = "") -> str:
    """The SQL type that holds a contract type.

    Raises:
        LakehouseError: Databricks has none.
    """
    text = str(kind)
    if text.startswith("decimal128("):
        return f"DECIMAL({text.removeprefix('decimal128(')[:-1].replace(' ', '')})"
    if text not in DATABRICKS_TYPES:
        raise LakehouseError(f"Databricks has no type for {text}", where=where)
    return DATABRICKS_TYPES[text]


def contract_type(sql_type: str, where: str = "") -> pa.DataType:
    """The contract type of a column, from the text that Unity Catalog gives.

    Raises:
        LakehouseError: no such column is ever made by Headrace.
    """
    import pyarrow as pa

    from assets.types import arrow_type

    if match := _DECIMAL.match(sql_type):
        return pa.decimal128(int(match[1]), int(match[2]))
    for contract, name in DATABRICKS_TYPES.items():
        if name == sql_type.upper():
            return arrow_type(contract)
    raise LakehouseError(f"a column of type {sql_type} is none of Headrace's", where=where)
