"""Keys with values that fit no column type: they are NULL in the stored tables, so only one of them can be told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from assets.arrow_compute import arrow_compute
from assets.encoded_rows import EncodedRows
from assets.errors import UnsupportedTableError
from assets.sources.interface import UNFIT_COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

ALONE = frozenset(["infinity", "NaN"])
"""What a key may hold all the same, as periods without an end do: in a column of one type only one of them can be."""


def require_told_apart(batch: pa.RecordBatch, key: Sequence[str], where: str) -> None:
    """Raises UnsupportedTableError: a key column holds a value that would be taken for another row's, both NULL."""
    unfit = batch.column(batch.schema.get_field_index(UNFIT_COLUMN))
    if not key or unfit.null_count == len(unfit):
        return
    for text in arrow_compute().unique(unfit).drop_null().to_pylist():
        for name, value in json.loads(text).items():
            if name in key and value not in ALONE:
                raise UnsupportedTableError(
                    f"key column {name} holds a value that fits no {batch.schema.field(name).type}, so it would be "
                    "NULL and one with other such values",
                    where=where,
                    remedy="Correct it at the source, name other columns with --key, or use --mode full.",
                )


def told_apart(
    batches: Iterator[pa.RecordBatch | EncodedRows], key: Sequence[str], where: str
) -> Iterator[pa.RecordBatch | EncodedRows]:
    for batch in batches:
        if not isinstance(batch, EncodedRows):  # all values of those fit their columns
            require_told_apart(batch, key, where)
        yield batch
