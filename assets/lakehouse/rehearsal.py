"""An engine that does nothing, and keeps what it would have done. ``headrace plan`` runs the steps on it.

What is stored is read where it lies; what the steps then commit is kept in memory, so that later steps find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import LakehouseError
from assets.lakehouse.interface import Lakehouse, PartWriter
from assets.sync import Manifest, Part
from assets.sync_plan import PlannedStatement

if TYPE_CHECKING:
    import pyarrow as pa


class NoParts(PartWriter):
    """Writes nothing; stands for one part where batches came."""

    def __init__(self, uri: str) -> None:
        self._part = Part(uri=uri, rows=0, bytes=0)
        self._came = False

    def write(self, batch: pa.RecordBatch) -> None:
        self._came = True

    def close(self) -> tuple[Part, ...]:
        return (self._part,) if self._came else ()

    def abort(self) -> None:
        return


class Rehearsal(Lakehouse):
    """Mixed in before an engine, which is ``real``. ``staged`` is the schema of the parts that would be staged."""

    real: Lakehouse
    manifest: Manifest | None = None
    staged: pa.Schema | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.planned: list[PlannedStatement] = []

    def part_uri(self, connector: str, table: str, run_group: str, attempt: int, stream: str) -> str:
        """Where a part would lie."""
        raise NotImplementedError

    def part_writer(
        self, connector: str, table: str, run_group: str, attempt: int, stream: str, schema: pa.Schema
    ) -> PartWriter:
        return NoParts(self.part_uri(connector, table, run_group, attempt, stream))

    def write_manifest(self, manifest: Manifest) -> str:
        self.manifest = manifest
        return "planned"

    def read_manifest(self, uri: str) -> Manifest:
        if self.manifest is None:
            raise LakehouseError("nothing was planned", where=uri)
        return self.manifest

    stages_notes = True

    def write_note(self, connector: str, table: str, run_group: str, name: str, text: str) -> str:
        return "planned"

    def read_note(self, uri: str) -> str | None:
        return None

    def clear_staging(self, connector: str, table: str, run_group: str | None = None) -> None:
        return

    def read_parts(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """One batch without rows: the parts are not there yet."""
        import pyarrow as pa

        if parts and self.staged is not None:
            wanted = self.staged if columns is None else pa.schema([self.staged.field(name) for name in columns])
            yield pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in wanted], schema=wanted)
