"""Rows that nobody needs to look at, still encoded: a row group of a source's Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from assets.thrift_compact import Struct


@dataclass(frozen=True)
class EncodedChunk:
    """One column of a row group.

    Args:
        data: its pages.
        start: where ``data`` begins in its file, as the offsets in ``metadata`` count.
        metadata: Parquet's ColumnMetaData.
        element: the column's SchemaElement.
    """

    data: memoryview
    start: int
    metadata: Struct
    element: Struct


@dataclass(frozen=True)
class EncodedRows:
    """One row group. A column that neither ``chunks`` nor ``constants`` nor ``numbers`` names is NULL.

    Args:
        nbytes: about what the rows take in memory when decoded.
        chunks: columns as the source's file holds them.
        constants: columns with one value.
        numbers: columns that count rows, by their first number.
        created_by: the program that wrote ``chunks``; readers know some programs' faults by it. Empty: not told.
    """

    num_rows: int
    nbytes: int
    chunks: Mapping[str, EncodedChunk]
    constants: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    created_by: bytes = b""

    def renamed(self, names: Mapping[str, str]) -> EncodedRows:
        return replace(
            self,
            chunks={names[name]: chunk for name, chunk in self.chunks.items()},
            constants={names[name]: value for name, value in self.constants.items()},
            numbers={names[name]: first for name, first in self.numbers.items()},
        )

    def with_constants(self, constants: Mapping[str, Any]) -> EncodedRows:
        return replace(self, constants={**self.constants, **constants})
