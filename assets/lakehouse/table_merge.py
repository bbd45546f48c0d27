"""What an upsert does to the files that hold touched rows: it rewrites them, or marks the rows as gone.

Rewriting keeps a table plain for every Delta reader and costs what the files hold. Marking rows by deletion vectors
costs what the changes hold. Small tables are rewritten, large ones are marked; files that became small or sparse are
gathered now and then, so that a table's upserts cost the same however many came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.errors import LakehouseError
from assets.lakehouse.data_files import TouchedRows, deleted_among, rewritten, stamped_rows
from assets.lakehouse.deletion_vectors import read_vector, write_vectors
from assets.lakehouse.delta_log import MASKED_DELETED, DataFile, masked_file
from assets.lakehouse.log_replay import active_files
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lakehouse.deletion_vectors import Rows

SPARSE = 1 / 3
"""A file is rewritten without its marked rows once they are this share of it."""
FOLDED_BYTES = 64 << 20
"""Sparse files are rewritten up to so many bytes a commit, one at least."""
GATHERED_FILES = 10
GATHERED_SIZES = ((0, 1 << 20), (1 << 20, 8 << 20))
"""So many files of a size are gathered into one."""


def files_to_rewrite(
    files: Sequence[DataFile], touched: Mapping[str, TouchedRows], rewrite_bytes: int, *, plain: bool
) -> set[str]:
    """The files to rewrite in this commit; the touched rows of the others are marked.

    Args:
        rewrite_bytes: a plain table stays plain while the touched files have no more bytes together.
        plain: the table has no deletion vectors.
    """
    hit = [file for file in files if file.path in touched]
    if plain and sum(file.size for file in hit) <= rewrite_bytes:
        chosen = {file.path for file in hit}
    else:
        chosen = _sparse(hit, touched)
    for low, high in GATHERED_SIZES:
        alike = [file.path for file in files if low <= file.size < high]
        if len(alike) >= GATHERED_FILES:
            chosen |= set(alike)
    return chosen


def _sparse(files: Sequence[DataFile], touched: Mapping[str, TouchedRows]) -> set[str]:
    def share(file: DataFile) -> float:
        return (file.masked + len(touched[file.path].rows)) / (file.masked + file.rows)

    chosen: set[str] = set()
    size = 0
    for file in sorted((file for file in files if share(file) >= SPARSE), key=share, reverse=True):
        size += file.size
        if chosen and size > FOLDED_BYTES:
            break
        chosen.add(file.path)
    return chosen


class MaskedRows:
    """The rows of a table's files that deletion vectors mark, each vector read once."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._read: dict[str, Rows] = {}

    def of(self, file: DataFile) -> Rows | None:
        if file.vector is None:
            return None
        if file.path not in self._read:
            self._read[file.path] = read_vector(self._storage, self._folder, file.vector)
        return self._read[file.path]


@dataclass
class FileMerge:
    """One upsert's changes to the stored files of a table, as it stood at ``version``.

    Args:
        stamp: the metadata that deleted rows get.
    """

    storage: Storage
    folder: str
    version: int
    schema: pa.Schema
    masked: MaskedRows
    stamp: Mapping[str, Any]
    marked: dict[str, Rows] = field(default_factory=dict)
    marked_deleted: dict[str, int] = field(default_factory=dict)

    def rows_of(self, file: DataFile, touched: TouchedRows) -> Iterator[pa.RecordBatch]:
        """What a file is to be rewritten as."""
        address = f"{self.folder}/{file.path}"
        rows = 0
        for batch in rewritten(self.storage, address, self.schema, touched, self.masked.of(file), dict(self.stamp)):
            rows += batch.num_rows
            yield batch
        if rows != file.rows - int((~touched.gone).sum()):
            raise LakehouseError(
                f"{file.rows} rows were to be in {file.path}, of which {rows} were kept", where=self.folder
            )

    def mark(self, file: DataFile, touched: TouchedRows) -> Iterator[pa.RecordBatch]:
        """Mark the touched rows; yields the deleted ones anew, stamped. Those deleted before stay as they are."""
        import numpy as np

        address = f"{self.folder}/{file.path}"
        before = self.masked.of(file)
        deleted = np.zeros(len(touched.rows), dtype=bool)
        if file.deleted_rows != 0:
            deleted = deleted_among(self.storage, address, self.schema, touched.rows)
        going = touched.rows[touched.gone & ~deleted]
        marked = touched.rows[~(touched.gone & deleted)]
        if not len(marked):
            return
        self.marked[file.path] = marked if before is None else np.sort(np.concatenate([before, marked]))
        self.marked_deleted[file.path] = int((deleted & ~touched.gone).sum())
        if file.deleted_rows is None and before is not None:  # another writer's vector: it does not say
            self.marked_deleted[file.path] += int(deleted_among(self.storage, address, self.schema, before).sum())
        if len(going):
            yield from stamped_rows(self.storage, address, self.schema, going, dict(self.stamp))

    def actions(self, files: Sequence[DataFile], tag: str) -> list[dict[str, Any]]:
        """Write the vectors; returns the ``add`` actions of the files under them."""
        if not self.marked:
            return []
        logged = active_files(self.storage, self.folder, self.version)
        vectors = write_vectors(self.storage, self.folder, tag, self.marked)
        actions = []
        for file in files:
            if file.path in self.marked:
                action = logged[file.path]
                known = 0 if file.deleted_rows is None else int((action.get("tags") or {}).get(MASKED_DELETED, 0))
                deleted = known + self.marked_deleted[file.path]
                actions.append(masked_file(file, action, vectors[file.path], deleted))
        return actions
