"""The active files of a Delta table as its log has them: delta-rs tells neither deletion vectors nor tags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from assets.arrow_compute import arrow_compute
from assets.errors import LakehouseError
from assets.lakehouse.storage import Storage

LOG = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d{10}\.\d{10})?\.parquet")
_COLUMNS = ("path", "size", "modificationTime", "stats", "tags", "deletionVector")


def active_files(storage: Storage, folder: str, version: int) -> dict[str, dict[str, Any]]:
    """The ``add`` action of each file that is active at ``version``, by path.

    Raises:
        LakehouseError: the log does not reach back to a checkpoint that can be read here.
    """
    entries: set[int] = set()
    checkpoints: dict[int, list[str]] = {}
    for file in storage.files(f"{folder}/{LOG}"):
        if (found := _ENTRY.fullmatch(file.name)) and int(found[1]) <= version:
            entries.add(int(found[1]))
        elif (found := _CHECKPOINT.fullmatch(file.name)) and int(found[1]) <= version:
            checkpoints.setdefault(int(found[1]), []).append(file.name)
    base = max(checkpoints, default=-1)
    missing = set(range(base + 1, version + 1)) - entries
    if missing:
        raise LakehouseError(
            f"the log has no entry of version {min(missing)}, and no checkpoint after it", where=folder
        )
    active: dict[str, dict[str, Any]] = {}
    for name in checkpoints.get(base, []):
        active |= {action["path"]: action for action in _checkpointed(storage, f"{folder}/{LOG}/{name}")}
    for number in range(base + 1, version + 1):
        _apply(storage.read_text(f"{folder}/{LOG}/{number:020d}.json"), active)
    return active


def _apply(text: str, active: dict[str, dict[str, Any]]) -> None:
    """One log entry: within it a file may be removed and added again under another deletion vector."""
    actions = [json.loads(line) for line in text.splitlines() if line.strip()]
    for action in actions:
        if "remove" in action:
            active.pop(action["remove"]["path"], None)
    for action in actions:
        if "add" in action:
            active[action["add"]["path"]] = action["add"]


def _checkpointed(storage: Storage, address: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    pc = arrow_compute()

    with storage.open_input(address) as opened, pq.ParquetFile(opened) as file:
        for batch in file.iter_batches(columns=[f"add.{name}" for name in _COLUMNS]):
            actions = batch.column("add")
            for action in actions.filter(pc.is_valid(pc.struct_field(actions, "path"))).to_pylist():
                kept = {name: value for name, value in action.items() if value is not None}
                if "tags" in kept:
                    kept["tags"] = dict(kept["tags"])
                yield {**kept, "partitionValues": {}, "dataChange": False}
