"""Hashed and masked columns: protected on the Arrow batches, before anything is staged, logged or compared."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from assets.arrow_compute import arrow_compute
from assets.sources.interface import UNFIT_COLUMN
from assets.sync import Column, ColumnChoice

if TYPE_CHECKING:
    import pyarrow as pa

MASK = "***"


def key_fingerprint(key: bytes) -> str:
    """Tells two hash keys apart without telling them."""
    return hmac.digest(key, b"headrace fingerprint", "sha256").hex()[:16]


class ColumnProtection:
    """Applies one table's choice. NULL stays NULL; everything else becomes text.

    A hash is the HMAC-SHA-256, in hexadecimal, of the value's text (binary values: of their bytes), so that one value
    has one hash in every table and in every type that prints it alike (5 as int32, int64 or text).
    """

    def __init__(self, choice: ColumnChoice, key: bytes | None) -> None:
        self._hashed, self._masked = frozenset(choice.hash), frozenset(choice.mask)
        self._key = key

    def __bool__(self) -> bool:
        return bool(self._hashed or self._masked)

    def isdisjoint(self, names: Iterable[str]) -> bool:
        """Whether none of these columns is protected."""
        return (self._hashed | self._masked).isdisjoint(names)

    def columns(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """The columns as they are stored."""
        return tuple(self._column(column) for column in columns)

    def _column(self, column: Column) -> Column:
        rule = "hashed" if column.name in self._hashed else "masked" if column.name in self._masked else None
        return column.model_copy(update={"arrow_type": "string", "rule": rule}) if rule else column

    def schema(self, schema: pa.Schema) -> pa.Schema:
        import pyarrow as pa

        protected = self._hashed | self._masked
        return pa.schema([f.with_type(pa.string()) if f.name in protected else f for f in schema])

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        texts = self._unfit_texts(batch)
        arrays = []
        for index, field in enumerate(batch.schema):
            values = batch.column(index)
            if field.name in self._hashed or field.name in self._masked:
                values = self._protected(values, field.name in self._hashed, texts.get(field.name, {}))
            elif field.name == UNFIT_COLUMN and texts:
                values = self._without_protected(values)
            arrays.append(values)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema(batch.schema))

    def _protected(self, values: pa.Array, hashed: bool, texts: dict[int, str]) -> pa.Array:
        """``texts`` are values of the column that fit no type, by row: they are NULL in ``values``."""
        import pyarrow as pa

        pc = arrow_compute()
        if not hashed:
            nulls = pc.is_null(values)
            protected = pc.if_else(nulls, pa.scalar(None, pa.string()), pa.scalar(MASK))
            return self._with(protected, {row: MASK for row in texts})
        encoded = pc.dictionary_encode(values)
        plain = encoded.dictionary
        if not pa.types.is_binary(plain.type):
            plain = plain.cast(pa.string())
        hashes = pa.array([None if v is None else self.hashed(v) for v in plain.to_pylist()], pa.string())
        return self._with(hashes.take(encoded.indices), {row: self.hashed(text) for row, text in texts.items()})

    @staticmethod
    def _with(values: pa.Array, replaced: dict[int, str]) -> pa.Array:
        import pyarrow as pa

        if not replaced:
            return values
        return pa.array([replaced.get(row, value) for row, value in enumerate(values.to_pylist())], pa.string())

    def hashed(self, value: str | bytes) -> str:
        assert self._key is not None, "hashed columns need the installation's key"
        return hmac.digest(self._key, value if isinstance(value, bytes) else value.encode(), hashlib.sha256).hex()

    def _unfit_texts(self, batch: pa.RecordBatch) -> dict[str, dict[int, str]]:
        """Protected columns' values in ``_headrace_unfit``, by column and row."""
        index = batch.schema.get_field_index(UNFIT_COLUMN)
        if index < 0 or batch.column(index).null_count == batch.num_rows:
            return {}
        found: dict[str, dict[int, str]] = {}
        for row, text in enumerate(batch.column(index).to_pylist()):
            for name, value in json.loads(text or "{}").items():
                if name in self._hashed or name in self._masked:
                    found.setdefault(name, {})[row] = value
        return found

    def _without_protected(self, values: pa.Array) -> pa.Array:
        import pyarrow as pa

        left = []
        for text in values.to_pylist():
            kept = {k: v for k, v in json.loads(text or "{}").items() if k not in self._hashed | self._masked}
            left.append(json.dumps(kept, ensure_ascii=False, sort_keys=True) if kept else None)
        return pa.array(left, pa.string())
