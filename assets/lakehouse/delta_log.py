"""Reading and writing a Delta table's log: one JSON entry a commit, created exclusively."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.errors import CommitConflictError, LakehouseError
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

LOG = "_delta_log"


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
    schema: pa.Schema
    configuration: dict[str, str]
    table_id: str
    created: int
    features: frozenset[str] = field(default_factory=frozenset)


def read_snapshot(storage: Storage, folder: str, count_column: str) -> Snapshot | None:
    """Read the current state, or None where there is no table. ``count_column``'s values are counted per file."""
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        table = DeltaTable(folder, storage_options=storage.delta_options)
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
        schema=pa.schema(table.schema().to_arrow()),
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


def write_commit(
    storage: Storage,
    folder: str,
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
        raise LakehouseError(f"Delta cannot hold the schema: {error}", where=folder) from error
    needs_ntz = '"timestamp_ntz"' in schema_text
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": operation,
                "engineInfo": "headrace",
                "headrace.tag": tag,
                "txnId": str(uuid.uuid4()),
            }
        }
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
    actions += [{"remove": {"path": path, "deletionTimestamp": now, "dataChange": True}} for path in remove]
    actions += [{"add": action} for action in add]
    version = snapshot.version + 1 if snapshot else 0
    text = "\n".join(json.dumps(action) for action in actions) + "\n"
    try:
        storage.create(f"{folder}/{LOG}/{version:020d}.json", text)
    except FileExistsError as error:
        raise CommitConflictError(f"another writer committed version {version} first", where=folder) from error
    return version
