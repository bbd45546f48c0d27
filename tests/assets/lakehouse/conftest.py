"""A local lakehouse in a temporary folder, and ways to put rows into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from assets.lakehouse.interface import TableId
from assets.lakehouse.local import LocalLakehouse
from assets.sync import Part

BRONZE = TableId(layer="bronze", connector="shop", table="public.orders")
SILVER = TableId(layer="silver", connector="shop", table="public.orders")
Stage = Callable[..., tuple[Part, ...]]


@pytest.fixture
def lakehouse(tmp_path: Path) -> LocalLakehouse:
    return LocalLakehouse(tmp_path / "lakehouse", tmp_path / "staging")


@pytest.fixture
def stage(lakehouse: LocalLakehouse) -> Stage:
    """Write tables as staged parts, one part each."""

    def write(tag: str, *tables: pa.Table) -> tuple[Part, ...]:
        parts: list[Part] = []
        for number, table in enumerate(tables):
            writer = lakehouse.part_writer("shop", "public.orders", tag, 1, f"s{number}", table.schema)
            for batch in table.to_batches():
                writer.write(batch)
            parts += writer.close()
        return tuple(parts)

    return write
