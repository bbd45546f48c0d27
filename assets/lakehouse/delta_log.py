"""Reading and writing a Delta table's log on a folder: one JSON entry a commit, created exclusively."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import CommitConflictError, LakehouseError

if TYPE_CHECKING:
    import pyarrow as pa

CHECKPOINT_EVERY = 10


@dataclass(frozen=True)
class DataFile:
    """An active data file: name in the table folder, size in bytes, rows, NULLs by column where counted."""

    path: str
    size: int
    rows: int
    deleted_rows: int = 0


@dataclass
class Snapshot:
    """A table's state at one version."""

    version: int
    files: list[DataFile]
    configuration: dict[str, str]
    table_id: str
    created: int
    features: frozenset[str] = field(default_factory=frozenset)


def read_snapshot(folder: Path, count_column: str) -> Snapshot | None:
    """Read the current state, or None where there is no table. ``count_column``'s values are counted per file."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    if not (folder / "_delta_log").is_dir():
        return None
    try:
        table = DeltaTable(str(folder))
    except TableNotFoundError:
        return None
    metadata, protocol = table.metadata(), table.protocol()
    files = []
    for action in _rows(table.get_add_actions(flatten=True)):
        rows = int(action["num_records"] or 0)
        nulls = action.get(f"null_count.{count_column}")
        # a file without the column has no entry: all its values are NULL
        files.append(
            DataFile(action["path"], int(action["size_bytes"]), rows, rows - int(rows if nulls is None else nulls))
        )
    return Snapshot(
        version=table.version(),
        files=files,
        configuration=dict(metadata.configuration),
        table_id=str(metadata.id),
        created=int(metadata.created_time or 0),
        features=frozenset(protocol.writer_features or ()),
    )


def _rows(batch: Any) -> list[dict[str, Any]]:
    import pyarrow as pa

    table = pa.table(batch)
    wanted = [
        n for n in table.column_names if n in ("path", "size_bytes", "num_records") or n.startswith("null_count._h")
    ]
    return table.select(wanted).to_pylist()


def table_schema(folder: Path) -> pa.Schema:
    """The table's Arrow schema."""
    import pyarrow as pa
    from deltalake import DeltaTable

    return pa.schema(DeltaTable(str(folder)).schema().to_arrow())


def write_commit(
    folder: Path,
    snapshot: Snapshot | None,
    schema: pa.Schema,
    configuration: dict[str, str],
    *,
    tag: str,
    add: list[dict[str, Any]],
    remove: list[str],
    operation: str,
) -> int:
    """Write the next log entry. Returns its version.

    Raises:
        CommitConflictError: that version exists already; nothing was changed.
        LakehouseError: Delta cannot hold the schema.
    """
    from deltalake import Schema
    from deltalake.exceptions import DeltaError

    now = int(time.time() * 1000)
    try:
        schema_text = Schema.from_arrow(schema).to_json()
    except (DeltaError, ValueError, TypeError) as error:
        raise LakehouseError(f"Delta cannot hold the schema: {error}", where=folder.name) from error
    needs_ntz = '"timestamp_ntz"' in schema_text
    actions: list[dict[str, Any]] = [
        {"commitInfo": {"timestamp": now, "operation": operation, "engineInfo": "headrace", "headrace.tag": tag}}
    ]
    if snapshot is None or (needs_ntz and "timestampNtz" not in snapshot.features):
        if needs_ntz:
            # the one feature these tables need beyond the oldest protocol
            protocol = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["timestampNtz"],
                "writerFeatures": ["timestampNtz"],
            }
        else:
            protocol = {"minReaderVersion": 1, "minWriterVersion": 2}
        actions.append({"protocol": protocol})
    actions.append(
        {
            "metaData": {
                "id": snapshot.table_id if snapshot else str(uuid.uuid4()),
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema_text,
                "partitionColumns": [],
                "configuration": configuration,
                "createdTime": snapshot.created if snapshot else now,
            }
        }
    )
    actions.append({"txn": {"appId": tag, "version": 1, "lastUpdated": now}})
    actions += [{"remove": {"path": path, "deletionTimestamp": now, "dataChange": True}} for path in remove]
    actions += [{"add": action} for action in add]
    version = snapshot.version + 1 if snapshot else 0
    _create_entry(folder / "_delta_log", version, "\n".join(json.dumps(action) for action in actions) + "\n")
    if version and version % CHECKPOINT_EVERY == 0:
        from deltalake import DeltaTable

        DeltaTable(str(folder), version=version).create_checkpoint()
    return version


def _create_entry(log: Path, version: int, text: str) -> None:
    log.mkdir(parents=True, exist_ok=True)
    entry, draft = log / f"{version:020d}.json", log / f".{uuid.uuid4().hex}.tmp"
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, entry)
    except FileExistsError as error:
        raise CommitConflictError(f"another writer committed version {version} first", where=log.parent.name) from error
    finally:
        draft.unlink()
    directory = os.open(log, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
