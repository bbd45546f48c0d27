"""Checkpoints, and the removal of log entries and data files that no reader needs any more."""

from __future__ import annotations

import time
from urllib.parse import unquote

from assets.lakehouse.deletion_vectors import DeletionVector
from assets.lakehouse.key_index import KEY_INDEXES, indexed_file
from assets.lakehouse.log_replay import LOG, active_files
from assets.lakehouse.storage import Storage

CHECKPOINT_EVERY = 10


def keep_up(storage: Storage, folder: str, version: int, retention_hours: float) -> None:
    """After every ``CHECKPOINT_EVERY``-th commit: write a checkpoint, drop expired log entries and data files."""
    if version == 0 or version % CHECKPOINT_EVERY:
        return
    from deltalake import DeltaTable

    table = DeltaTable(folder, version=version, storage_options=storage.delta_options)
    table.create_checkpoint()
    table.cleanup_metadata()  # by the table's own delta.logRetentionDuration
    remove_expired_files(storage, folder, version, {*table.file_uris()}, retention_hours)


def remove_expired_files(
    storage: Storage, folder: str, version: int, live_addresses: set[str], retention_hours: float
) -> int:
    """Delete data files that left the table, or never came in, more than ``retention_hours`` ago.

    Deletion vectors and key indexes go with them. A file that another commit adopts meanwhile is younger than that.
    Returns how many were deleted.
    """
    import pyarrow.parquet as pq

    oldest = time.time() - retention_hours * 3600
    live: set[str | None] = {unquote(address).rsplit("/", 1)[-1] for address in live_addresses}
    with storage.open_input(f"{folder}/{LOG}/{version:020d}.checkpoint.parquet") as opened:
        columns = ["remove.path", "remove.deletionTimestamp", "remove.deletionVector"]
        tombstones = pq.ParquetFile(opened).read(columns=columns).column("remove").to_pylist()
    recent = [entry for entry in tombstones if entry and (entry["deletionTimestamp"] or 0) / 1000 > oldest]
    kept = live | {entry["path"] for entry in recent}
    for action in [*active_files(storage, folder, version).values(), *recent]:
        if vector := action.get("deletionVector"):
            kept.add(DeletionVector.from_log(vector).file)
    count = 0
    for file in list(storage.files(folder)):
        expired = file.name not in kept and file.changed < oldest
        if expired and file.name.endswith((".parquet", ".bin", ".tmp")):
            storage.delete(f"{folder}/{file.name}")
            count += 1
    for index in list(storage.files(f"{folder}/{KEY_INDEXES}")):
        if indexed_file(index.name) not in kept and index.changed < oldest:
            storage.delete(f"{folder}/{KEY_INDEXES}/{index.name}")
            count += 1
    return count
