"""Snapshots of tables that were read already, as long as no commit came since."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from assets.lakehouse.delta_log import LOG, Snapshot, read_snapshot
from assets.lakehouse.storage import FolderStorage, Storage

KEPT_TABLES, MOST_FILES = 1024, 256

_Identity = tuple[int, int, int]


class SnapshotCache:
    """Reads a table's log once for each of its versions. On a folder only: there a look costs two system calls.

    A snapshot is current while its own log entry is the same file and the next one is not there: entries are never
    changed, and each version follows the one before.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._looks = isinstance(storage, FolderStorage)
        self._known: OrderedDict[str, tuple[Snapshot, _Identity]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, folder: str, count_column: str) -> Snapshot | None:
        """As `assets.lakehouse.delta_log.read_snapshot`. What is returned is shared: not to be changed."""
        if not self._looks:
            return read_snapshot(self._storage, folder, count_column)
        with self._lock:
            known = self._known.get(folder)
        if known is not None and self._current(folder, *known):
            return known[0]
        if known is None and not os.path.isdir(f"{folder}/{LOG}"):
            return None
        snapshot = read_snapshot(self._storage, folder, count_column)
        identity = _identity(folder, snapshot.version) if snapshot else None
        with self._lock:
            self._known.pop(folder, None)
            if snapshot is not None and identity is not None and len(snapshot.files) <= MOST_FILES:
                self._known[folder] = (snapshot, identity)
                if len(self._known) > KEPT_TABLES:
                    self._known.popitem(last=False)
        return snapshot

    @staticmethod
    def _current(folder: str, snapshot: Snapshot, identity: _Identity) -> bool:
        return _identity(folder, snapshot.version) == identity and not os.path.exists(
            _entry(folder, snapshot.version + 1)
        )


def _entry(folder: str, version: int) -> str:
    return f"{folder}/{LOG}/{version:020d}.json"


def _identity(folder: str, version: int) -> _Identity | None:
    try:
        status = os.stat(_entry(folder, version))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
