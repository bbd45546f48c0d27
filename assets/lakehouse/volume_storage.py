"""Staging in a Unity Catalog volume, through the Files API: files are written here, then uploaded several at a time."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.lakehouse.databricks_client import DatabricksConnection, MissingError, databricks_errors
from assets.lakehouse.parquet_parts import BackgroundPartWriter
from assets.lakehouse.storage import StagingStorage, StoredFile
from assets.sync import Part

if TYPE_CHECKING:
    import pyarrow as pa

PARALLEL_UPLOADS = 4
PART_BYTES = 128 << 20


class VolumeStorage(StagingStorage):
    """Files under ``/Volumes/<catalog>/<schema>/<volume>/``.

    Args:
        scratch: local folder of files on their way.
    """

    def __init__(self, connection: DatabricksConnection, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch

    def upload(self, local: Path, address: str) -> None:
        with databricks_errors(address):
            self._connection.client.files.upload_from(address, str(local), overwrite=True)

    @contextmanager
    def local_file(self, address: str) -> Iterator[Path]:
        """A local draft of the file, removed at the end."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        draft = self._scratch / f"upload-{uuid.uuid4().hex}"
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        with self.local_file(address) as draft:
            with draft.open("wb") as file:
                yield file
            self.upload(draft, address)

    def open_input(self, address: str) -> Any:
        import pyarrow as pa

        with self.local_file(address) as draft:
            try:
                with databricks_errors(address):
                    self._connection.client.files.download_to(address, str(draft))
            except MissingError as error:
                raise FileNotFoundError(address) from error
            return pa.OSFile(str(draft))  # stays readable after its name is gone

    def read_text(self, address: str) -> str:
        with self.open_input(address) as file:
            return file.read().decode()

    def stat(self, address: str) -> StoredFile:
        try:
            with databricks_errors(address):
                found = self._connection.client.files.get_metadata(address)
        except MissingError as error:
            raise FileNotFoundError(address) from error
        return StoredFile(address.rpartition("/")[2], found.content_length or 0, 0)

    def files(self, folder: str, prefix: str = "") -> Iterator[StoredFile]:
        list_folder = self._connection.client.files.list_directory_contents
        for entry in self._unless_missing(lambda address: list(list_folder(address)), folder) or ():
            name = str(entry.path).rpartition("/")[2]
            if name.startswith(prefix) and not entry.is_directory:
                yield StoredFile(name, entry.file_size or 0, (entry.last_modified or 0) / 1000)

    def delete(self, address: str) -> None:
        self._unless_missing(self._connection.client.files.delete, address)

    def delete_folder(self, folder: str) -> None:
        """The API deletes empty folders only: what is in it goes first."""
        files = self._connection.client.files
        found = self._unless_missing(lambda address: list(files.list_directory_contents(address)), folder)
        if found is None:
            return
        with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="staging-clean-up") as pool:
            list(pool.map(self.delete, [str(e.path) for e in found if not e.is_directory]))
        for entry in found:
            if entry.is_directory:
                self.delete_folder(str(entry.path))
        self._unless_missing(files.delete_directory, folder)

    @staticmethod
    def _unless_missing(call: Any, address: str) -> Any:
        try:
            with databricks_errors(address):
                return call(address)
        except MissingError:
            return None


class _ParallelUploads(VolumeStorage):
    """Uploads in the background; `settle` waits for them. At most four files wait on disk."""

    def __init__(self, connection: DatabricksConnection, scratch: Path) -> None:
        super().__init__(connection, scratch)
        self._pool = ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="staging-upload")
        self._slots = threading.BoundedSemaphore(PARALLEL_UPLOADS)
        self._uploads: list[Future[None]] = []
        self._sizes: dict[str, int] = {}

    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        self._slots.acquire()
        self._scratch.mkdir(parents=True, exist_ok=True)
        draft = self._scratch / f"upload-{uuid.uuid4().hex}"
        try:
            with draft.open("wb") as file:
                yield file
        except BaseException:
            draft.unlink(missing_ok=True)
            self._slots.release()
            raise
        self._sizes[address] = draft.stat().st_size
        self._uploads.append(self._pool.submit(self._send, draft, address))

    def _send(self, draft: Path, address: str) -> None:
        try:
            self.upload(draft, address)
        finally:
            draft.unlink(missing_ok=True)
            self._slots.release()

    def stat(self, address: str) -> StoredFile:
        return StoredFile(address.rpartition("/")[2], self._sizes[address], 0)

    def delete(self, address: str) -> None:
        self.settle(failed_too=True)
        super().delete(address)

    def settle(self, *, failed_too: bool = False) -> None:
        for upload in self._uploads:
            if (error := upload.exception()) and not failed_too:
                raise error

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class VolumePartWriter(BackgroundPartWriter):
    """Parts of 128 MiB in memory, so that a warehouse reads and this machine uploads several side by side."""

    part_bytes = PART_BYTES

    def __init__(self, storage: VolumeStorage, folder: str, schema: pa.Schema) -> None:
        self._uploads = _ParallelUploads(storage._connection, storage._scratch)
        super().__init__(self._uploads, folder, schema)

    def close(self) -> tuple[Part, ...]:
        try:
            parts = super().close()
            self._uploads.settle()
            return parts
        finally:
            self._uploads.close()

    def abort(self) -> None:
        try:
            super().abort()
        finally:
            self._uploads.close()
