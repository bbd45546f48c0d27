"""Where tables and parts lie: a folder here, an S3 bucket in ``s3_storage``. Addresses are plain text."""

from __future__ import annotations

import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StoredFile:
    """One file: its name within the folder that was listed, size in bytes, time of its last change (Unix seconds)."""

    name: str
    size: int
    changed: float


class StagingStorage(ABC):
    """Files under addresses. A file appears whole or not at all; deleting what is missing is fine."""

    @abstractmethod
    def open_input(self, address: str) -> Any:
        """A readable, seekable file for pyarrow. Raises FileNotFoundError."""

    @abstractmethod
    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        """A file for pyarrow to write. It appears, durable, when the block ends without an error."""

    @abstractmethod
    def read_text(self, address: str) -> str:
        """Raises FileNotFoundError."""

    @abstractmethod
    def stat(self, address: str) -> StoredFile:
        """Raises FileNotFoundError."""

    @abstractmethod
    def delete(self, address: str) -> None: ...

    @abstractmethod
    def delete_folder(self, folder: str) -> None: ...

    @abstractmethod
    def files(self, folder: str, prefix: str = "") -> Iterator[StoredFile]:
        """The files right in a folder whose names start with ``prefix``. A missing folder has none."""


class Storage(StagingStorage):
    """A storage that holds tables too."""

    delta_options: dict[str, str]
    """What delta-rs needs to reach the same storage."""

    @abstractmethod
    def adopt(self, part: str, address: str) -> None:
        """Make a staged part of this storage appear under another address, without reading it here."""

    @abstractmethod
    def create(self, address: str, text: str) -> None:
        """Write a new file, durably. Raises FileExistsError when it exists; exactly one of several writers wins."""

    @abstractmethod
    def settle(self, folder: str) -> None:
        """Make the names of the folder's files durable."""


class FolderStorage(Storage):
    """A file system of this machine."""

    def __init__(self) -> None:
        self.delta_options: dict[str, str] = {}

    def open_input(self, address: str) -> Any:
        import pyarrow as pa

        return pa.OSFile(address)

    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        draft = f"{address}.tmp"
        try:
            with open(draft, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        os.replace(draft, address)

    def adopt(self, part: str, address: str) -> None:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(part, address)
        except FileNotFoundError:
            raise
        except OSError:  # staging lies on another file system
            with open(part, "rb") as source, self.open_output(address) as target:
                shutil.copyfileobj(source, target, 1 << 20)

    def create(self, address: str, text: str) -> None:
        folder = Path(address).parent
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{uuid.uuid4().hex}.tmp"
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, address)
        finally:
            draft.unlink()
        self.settle(str(folder))

    def read_text(self, address: str) -> str:
        return Path(address).read_text()

    def stat(self, address: str) -> StoredFile:
        status = os.stat(address)
        return StoredFile(os.path.basename(address), status.st_size, status.st_mtime)

    def files(self, folder: str, prefix: str = "") -> Iterator[StoredFile]:
        try:
            entries = list(os.scandir(folder))  # closed before anything is deleted
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith(prefix) and entry.is_file():
                try:
                    yield self.stat(entry.path)
                except FileNotFoundError:
                    continue  # deleted meanwhile

    def settle(self, folder: str) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def delete(self, address: str) -> None:
        Path(address).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
