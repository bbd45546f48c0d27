"""Large tables of files in chunks: files that one activity reads.

A store has no snapshot. A chunk names its files with their versions and needs no listing; the read that ends it lists
the files once more, and reads what was overwritten, deleted or added meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from assets.sources.even_groups import group_starts
from assets.sources.file_reading import TableFile
from assets.sources.file_tables import FileTable
from assets.sources.interface import MAX_CHUNKS
from assets.sources.object_store import ObjectStore, StoredObject
from assets.sync import Chunk

if TYPE_CHECKING:
    from assets.sync import ChunkRead

MAX_FILES = 200_000
"""Every chunk's activity reads the note that names all files: a table of more is read as a whole."""


def file_chunks(files: Sequence[TableFile], chunk_bytes: int) -> list[Chunk]:
    """The files in order, in groups of about ``chunk_bytes``; empty where they are too small or too many."""
    total = sum(file.found.size for file in files)
    if total < 2 * chunk_bytes or len(files) > MAX_FILES:
        return []
    starts = group_starts([file.found.size for file in files], min(-(-total // chunk_bytes), MAX_CHUNKS))
    groups = [files[start:end] for start, end in pairwise([*starts, len(files)])]
    return [chunk_of(str(number), group) for number, group in enumerate(groups)] if len(groups) > 1 else []


def chunk_of(name: str, files: Sequence[TableFile]) -> Chunk:
    """A chunk that is read without another listing: each file, and how it is read (uploads have a sheet each)."""
    places: dict[tuple[int, str, str], int] = {}
    ways: list[list[Any]] = []
    rows: list[list[Any]] = []
    for file in files:
        place = places.setdefault((id(file.table), file.kind, file.compression), len(ways))
        if place == len(ways):
            ways.append([file.table.model_dump(mode="json"), file.kind, file.compression])
        rows.append([*astuple(file.found), place])
    return Chunk(id=name, where={"ways": ways, "files": rows})


def files_of(chunk: Chunk, store: ObjectStore) -> list[TableFile]:
    ways = [(FileTable.model_validate(table), *how) for table, *how in chunk.where["ways"]]
    return [TableFile(store, StoredObject(*found), *ways[place]) for *found, place in chunk.where["files"]]


def changed_chunks(listed: Sequence[TableFile], done: Iterable[ChunkRead]) -> list[Chunk]:
    """The chunks whose files are not, in this listing, as they were read; and one of the files that are in none."""
    now = {file.found.key: file for file in listed}
    chunks: list[Chunk] = []
    for read in done:
        mine = [file for key, *_ in read.chunk.where["files"] if (file := now.pop(key, None))]
        if {(file.found.key, file.found.version) for file in mine} != _versions(read.found):
            chunks.append(chunk_of(read.chunk.id, mine))
    return [*chunks, chunk_of("late", list(now.values()))] if now else chunks


def _versions(found: dict[str, Any]) -> set[tuple[str, str]]:
    """Of the files that a chunk's read has read or left for the next sync."""
    return {(key, version) for key, version, *_ in (*found["files"], *found["left"])}
