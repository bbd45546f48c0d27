"""What a Bronze table holds of a table of files: versions, rows, row numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assets.lakehouse.interface import OP, POSITION
from assets.sources.file_reading import FILE, ROW, VERSION

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class LoadedFiles:
    """What a Bronze table holds: of each file the version loaded last, its rows, and whether it was deleted."""

    version: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    past: dict[str, int] = field(default_factory=dict)
    """Of each file a row number beyond all that are stored; the number of rows, where none was left out."""
    position: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    @classmethod
    def of_bronze(cls, batches: Iterator[pa.RecordBatch]) -> LoadedFiles:
        """From the columns file, version, operation and position. Memory follows the number of files."""
        import pyarrow as pa

        counts: dict[tuple[str, str, int], int] = {}
        past: dict[tuple[str, str, int], int] = {}
        deleted: dict[str, int] = {}
        for batch in batches:
            numbered = [(ROW, "max")] if ROW in batch.schema.names else []
            by_file = pa.Table.from_batches([batch]).group_by([FILE, VERSION, OP, POSITION])
            grouped = by_file.aggregate([([], "count_all"), *numbered])
            for row in grouped.to_pylist():
                file, position = row[FILE], row[POSITION]
                if file is None:
                    continue  # a delete under the user's own key
                if row[OP] == "d":
                    deleted[file] = max(deleted.get(file, 0), position)
                else:
                    loaded = (file, row[VERSION], position)
                    counts[loaded] = counts.get(loaded, 0) + row["count_all"]
                    if numbered:
                        past[loaded] = max(past.get(loaded, 0), row[f"{ROW}_max"] + 1)
        found = cls()
        newest: dict[str, int] = {}
        for (file, version, position), count in counts.items():
            if position >= newest.get(file, -1):
                newest[file] = position
                found.version[file], found.rows[file] = version, count
                found.past[file] = past.get((file, version, position), count)
        found.position = newest
        found.gone = {file for file, position in deleted.items() if position > newest.get(file, -1)}
        return found

    def live(self) -> set[str]:
        return self.version.keys() - self.gone


def mark_rows(bits: dict[str, bytearray], batch: pa.RecordBatch, past: dict[str, int]) -> None:
    """Set a bit for each row of the batch whose file is in ``past``."""
    import numpy as np

    files = batch.column(FILE).dictionary_encode()
    places, numbers = files.indices.to_numpy(zero_copy_only=False), batch.column(ROW).to_numpy()
    for place, file in enumerate(files.dictionary.to_pylist()):
        if file not in past:
            continue
        held = np.frombuffer(bits.setdefault(file, bytearray(past[file] // 8 + 1)), np.uint8)
        mine = numbers[places == place]
        mine = mine[mine < past[file]]
        np.bitwise_or.at(held, mine >> 3, (1 << (mine & 7)).astype(np.uint8))
