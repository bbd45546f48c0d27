"""Deletion vectors: which rows of a data file are no longer in the table, as the Delta protocol stores them."""

from __future__ import annotations

import base64
import hashlib
import struct
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.errors import LakehouseError
from assets.lakehouse.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]

_MAGIC = struct.pack("<I", 1681511377)
_VERSION = b"\1"
_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85, _FROM_Z85 = str.maketrans(_B85, _Z85), str.maketrans(_Z85, _B85)


@dataclass(frozen=True)
class DeletionVector:
    """Where one vector lies: ``u`` a file in the table's folder, ``i`` in the log itself. ``offset`` in bytes."""

    kind: str
    place: str
    offset: int | None
    size: int
    cardinality: int

    @classmethod
    def from_log(cls, entry: Mapping[str, Any]) -> DeletionVector:
        return cls(
            entry["storageType"],
            entry["pathOrInlineDv"],
            entry.get("offset"),
            int(entry["sizeInBytes"]),
            int(entry["cardinality"]),
        )

    def to_log(self) -> dict[str, Any]:
        offset = {} if self.offset is None else {"offset": self.offset}
        return {
            "storageType": self.kind,
            "pathOrInlineDv": self.place,
            **offset,
            "sizeInBytes": self.size,
            "cardinality": self.cardinality,
        }

    @property
    def file(self) -> str | None:
        """The file's name within the table's folder; None for a vector in the log."""
        if self.kind != "u":
            return None
        prefix, encoded = self.place[:-20], self.place[-20:]
        name = f"deletion_vector_{uuid.UUID(bytes=_from_z85(encoded))}.bin"
        return f"{prefix}/{name}" if prefix else name


def vector_prefix(tag: str) -> str:
    """How the names of the vector files of a commit's tries begin."""
    return f"deletion_vector_{str(_uuid(tag, bytes(8)))[:18]}-"


def _uuid(tag: str, tail: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.sha256(tag.encode()).digest()[:8] + tail)


def _from_z85(text: str) -> bytes:
    return base64.b85decode(text.translate(_FROM_Z85))


def read_vector(storage: Storage, folder: str, vector: DeletionVector) -> Rows:
    """The row numbers that it marks, in order.

    Raises:
        LakehouseError: it is damaged, or stored in a way that is not read here.
    """
    import numpy as np
    from pyroaring import BitMap64

    where = f"{folder}/{vector.file or '_delta_log'}"
    if vector.kind == "i":
        data = _from_z85(vector.place)[: vector.size]
    elif vector.kind == "u":
        with storage.open_input(where) as opened:
            opened.seek(vector.offset or 0)
            framed = opened.read(vector.size + 8)
        data = framed[4:-4]
        if framed[:4] != struct.pack(">I", vector.size) or framed[-4:] != struct.pack(">I", zlib.crc32(data)):
            raise LakehouseError("a deletion vector is damaged", where=where)
    else:
        raise LakehouseError(f"a deletion vector of storage type {vector.kind} is not read here", where=where)
    if data[:4] != _MAGIC:
        raise LakehouseError("a deletion vector has an unknown format", where=where)
    try:
        rows = np.frombuffer(BitMap64.deserialize(data[4:]).to_array(), dtype=np.uint64).astype(np.int64)
    except ValueError as error:
        raise LakehouseError("a deletion vector is damaged", where=where) from error
    if len(rows) != vector.cardinality:
        raise LakehouseError(f"a deletion vector marks {len(rows)} rows and says {vector.cardinality}", where=where)
    return rows


def write_vectors(storage: Storage, folder: str, tag: str, rows: Mapping[str, Rows]) -> dict[str, DeletionVector]:
    """Write one file with a vector for each data file; returns where they lie. The file's name is this try's own."""
    from pyroaring import BitMap64

    name = _uuid(tag, uuid.uuid4().bytes[:8])
    place = base64.b85encode(name.bytes).decode().translate(_TO_Z85)
    found: dict[str, DeletionVector] = {}
    content = bytearray(_VERSION)
    for path, marked in rows.items():
        data = _MAGIC + BitMap64(marked.astype("uint64")).serialize()
        found[path] = DeletionVector("u", place, len(content), len(data), len(marked))
        content += struct.pack(">I", len(data)) + data + struct.pack(">I", zlib.crc32(data))
    with storage.open_output(f"{folder}/deletion_vector_{name}.bin") as file:
        file.write(bytes(content))
    return found
