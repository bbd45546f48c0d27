"""Reading and writing a Delta table's log: one JSON entry a commit, created exclusively."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.errors import CommitConflictError, LakehouseError
from assets.lakehouse.deletion_vectors import DeletionVector
from assets.lakehouse.log_replay import LOG, active_files
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

MASKS = "deletionVectors"
MASKED_DELETED = "headrace.maskedDeletedRows"


@dataclass(frozen=True)
class DataFile:
    """An active data file: name in the table folder, size in bytes, and its rows.

    Attributes:
        rows: those that are in the table.
        deleted_rows: of them, those with a value in the counted column; None where that is not known.
        vector: marks the rows that are not in the table any more.
        bounds: least and greatest value by column, of integers.
    """

    path: str
    size: int
    rows: int
    deleted_rows: int | None = 0
    vector: DeletionVector | None = None
    bounds: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def masked(self) -> int:
        return self.vector.cardinality if self.vector else 0


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
    reader_features: frozenset[str] = field(default_factory=frozenset)
    protocol: tuple[int, int] = (1, 2)


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
    features = frozenset(protocol.writer_features or ())
    logged = active_files(storage, folder, table.version()) if MASKS in features else None
    actions = pa.table(table.get_add_actions(flatten=True))
    told = set(actions.column_names)  # asked for, a table makes the list anew each time
    bounded = [n.removeprefix("min.") for n in told if n.startswith("min.") and _is_integer(actions, n)]
    wanted = ["path", "size_bytes", "num_records", f"null_count.{count_column}"]
    wanted += [f"{side}.{name}" for side in ("min", "max") for name in bounded]
    schema = pa.schema(table.schema().to_arrow())
    counted = f"null_count.{count_column}" in told or count_column not in schema.names
    files = [
        _data_file(action, (logged or {}).get(action["path"], {}), count_column if counted else None, bounded)
        for action in actions.select([n for n in wanted if n in told]).to_pylist()
    ]
    if logged is not None and {file.path for file in files} != set(logged):
        raise LakehouseError("the log and delta-rs name different files", where=folder)
    return Snapshot(
        version=table.version(),
        files=files,
        schema=schema,
        configuration=dict(metadata.configuration),
        table_id=str(metadata.id),
        created=int(metadata.created_time or 0),
        features=features,
        reader_features=frozenset(protocol.reader_features or ()),
        protocol=(protocol.min_reader_version, protocol.min_writer_version),
    )


def _data_file(
    action: Mapping[str, Any], logged: Mapping[str, Any], count_column: str | None, bounds: Sequence[str]
) -> DataFile:
    """``count_column`` is None where delta-rs tells nothing of it: it reads the statistics of so many columns only."""
    stored = int(action["num_records"] or 0)
    nulls = action.get(f"null_count.{count_column}")
    # a file without the column has no entry: all its values are NULL
    deleted = None if count_column is None else stored - int(stored if nulls is None else nulls)
    vector = DeletionVector.from_log(logged["deletionVector"]) if logged.get("deletionVector") else None
    if vector is not None and deleted:
        told = (logged.get("tags") or {}).get(MASKED_DELETED)
        deleted = None if told is None else deleted - int(told)
    return DataFile(
        action["path"],
        int(action["size_bytes"]),
        stored - (vector.cardinality if vector else 0),
        deleted,
        vector,
        {
            name: (action[f"min.{name}"], action[f"max.{name}"])
            for name in bounds
            if action[f"min.{name}"] is not None and action.get(f"max.{name}") is not None
        },
    )


def _is_integer(actions: pa.Table, name: str) -> bool:
    import pyarrow.types as types

    return types.is_integer(actions.schema.field(name).type)


def masked_file(
    file: DataFile, logged: Mapping[str, Any], vector: DeletionVector, masked_deleted: int
) -> dict[str, Any]:
    """The ``add`` action of a file whose rows are marked by a new vector.

    Args:
        logged: its action as the log has it.
        masked_deleted: how many of the marked rows have a value in the counted column.
    """
    statistics = json.loads(logged["stats"]) | {"tightBounds": False}
    return {
        "path": file.path,
        "partitionValues": {},
        "size": file.size,
        "modificationTime": logged["modificationTime"],
        "dataChange": True,
        "stats": json.dumps(statistics),
        "tags": {**(logged.get("tags") or {}), MASKED_DELETED: str(masked_deleted)},
        "deletionVector": vector.to_log(),
    }


def write_commit(
    storage: Storage,
    folder: str,
    snapshot: Snapshot | None,
    schema: pa.Schema,
    configuration: dict[str, str],
    *,
    tag: str,
    add: list[dict[str, Any]],
    remove: Sequence[DataFile],
    operation: str,
) -> int:
    """Write the next log entry. Returns its version.

    A commit that removes all files and adds none with a deletion vector makes a plain table again.

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
    anew = snapshot is None or {file.path for file in snapshot.files} == {file.path for file in remove}
    needed = {"timestampNtz"} if '"timestamp_ntz"' in schema_text else set[str]()
    masks = any("deletionVector" in action for action in add)
    if masks:
        needed.add(MASKS)
        configuration = configuration | {"delta.enableDeletionVectors": "true"}
    elif anew:
        configuration = {name: value for name, value in configuration.items() if name != "delta.enableDeletionVectors"}
    kept = snapshot.features - ({MASKS} if anew and not masks else set()) if snapshot else frozenset[str]()
    features = kept | needed
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
    if snapshot is None or features != snapshot.features:
        actions.append(
            {"protocol": _protocol(features, (snapshot.reader_features if snapshot else frozenset()) | needed)}
        )
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
    actions += [{"remove": _removal(file, now)} for file in remove]
    actions += [{"add": action} for action in add]
    version = snapshot.version + 1 if snapshot else 0
    text = "\n".join(json.dumps(action) for action in actions) + "\n"
    try:
        storage.create(f"{folder}/{LOG}/{version:020d}.json", text)
    except FileExistsError as error:
        raise CommitConflictError(f"another writer committed version {version} first", where=folder) from error
    return version


def _protocol(features: frozenset[str], reader_features: frozenset[str]) -> dict[str, Any]:
    """The oldest protocol, or the one that names its features: those that these tables need."""
    if not features:
        return {"minReaderVersion": 1, "minWriterVersion": 2}
    return {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": sorted(reader_features & features),
        "writerFeatures": sorted(features),
    }


def _removal(file: DataFile, now: int) -> dict[str, Any]:
    """Files are known by path and deletion vector together."""
    vector = {"deletionVector": file.vector.to_log()} if file.vector else {}
    return {"path": file.path, "deletionTimestamp": now, "dataChange": True, **vector}
