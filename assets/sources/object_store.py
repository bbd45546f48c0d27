"""Where files lie: a listing, and exact ranges of one version of an object. S3, GCS and local folders are stores."""

from __future__ import annotations

import io
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assets.errors import ConfigurationError, SourceAccessError, SourceUnreachableError

if TYPE_CHECKING:
    from assets.sync import CheckResult

WHOLE_BYTES = 16 << 20
"""Objects up to this size are fetched with one request."""
RANGE_BYTES = 8 << 20
TRIES = 4


@dataclass(frozen=True)
class StoredObject:
    """One version of one object: ``version`` is the ETag, the generation or the content's hash."""

    key: str
    version: str
    size: int
    modified: float


class ObjectChangedError(Exception):
    """The version that was listed is not there any more."""


class ObjectStore(ABC):
    """One bucket or folder."""

    where: str
    """What errors name, such as ``s3://bucket``."""

    @abstractmethod
    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key begins with ``prefix``, page by page.

        Raises:
            SourceUnreachableError, SourceAccessError.
        """

    @abstractmethod
    def stat(self, key: str) -> StoredObject | None:
        """The object's current version; None: it is gone."""

    @abstractmethod
    def fetch(self, found: StoredObject, start: int, length: int) -> bytes:
        """A range of exactly this version, one try.

        Raises:
            ObjectChangedError: it was overwritten or deleted.
            SourceUnreachableError: worth another try.
            SourceAccessError.
        """

    @abstractmethod
    def checks(self) -> list[tuple[str, Callable[[], tuple[str, str]]]]:
        """The prerequisites in order: a name, and what says (problem, fix), both empty where all is well."""

    def read(self, found: StoredObject, start: int, length: int) -> bytes:
        """A range of exactly this version; a cut or refused connection is tried again, from where it was."""
        for attempt in range(TRIES):
            try:
                data = self.fetch(found, start, length)
            except SourceUnreachableError:
                if attempt == TRIES - 1:
                    raise
                time.sleep(0.2 * 3**attempt)
                continue
            if len(data) == length:
                return data
            if attempt == TRIES - 1:
                raise SourceUnreachableError(
                    f"{len(data)} of {length} bytes arrived", where=f"{self.where}/{found.key}"
                )
        raise AssertionError("unreachable")


class ObjectStream(io.RawIOBase):
    """One version of an object as a seekable file, read ahead in ranges."""

    def __init__(self, store: ObjectStore, found: StoredObject) -> None:
        self._store, self._found = store, found
        self._at = self._start = 0
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        return self._at

    def size(self) -> int:
        return self._found.size

    def read(self, size: int | None = -1) -> bytes:
        left = self._found.size - self._at
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted <= 0:
            return b""
        inside = self._at - self._start
        if inside < 0 or inside + wanted > len(self._held):
            sequential = inside == len(self._held)
            length = min(left, max(wanted, RANGE_BYTES) if sequential else wanted)
            self._held, self._start, inside = self._store.read(self._found, self._at, length), self._at, 0
        self._at += wanted
        return self._held[inside : inside + wanted]

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(store: ObjectStore, found: StoredObject, compression: str = "none") -> Iterator[Any]:
    """The object's content as an Arrow input file, decompressed."""
    import pyarrow as pa

    raw: Any
    if found.size <= WHOLE_BYTES:
        raw = pa.BufferReader(store.read(found, 0, found.size) if found.size else b"")
    else:
        raw = pa.PythonFile(ObjectStream(store, found), mode="r")
    with raw:
        if compression == "none":
            yield raw
        else:
            with pa.CompressedInputStream(raw, compression) as stream:
                yield stream


def unreadable(error: Exception, where: str, what: str) -> SourceAccessError:
    """A damaged file; Arrow's text may repeat values and is left out."""
    return SourceAccessError(
        f"no readable {what} ({type(error).__name__})", where=where, remedy="Replace the file, or leave it out by glob."
    )


def reachable(url: str, seconds: float) -> tuple[str, str]:
    """Try the network to a store: (problem, fix), both empty where it answers."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except OSError as error:
        return (
            f"{parts.hostname}:{port} does not answer ({type(error).__name__})",
            "Correct `endpoint_url`; check that no firewall is between.",
        )
    return "", ""


def run_checks(store: Callable[[], ObjectStore], names: tuple[str, ...]) -> Iterator[CheckResult]:
    """Try the store's prerequisites in turn; after a failure the later ones are not tried."""
    from assets.errors import HeadraceError
    from assets.sync import CheckResult

    failed = ""
    tried: dict[str, Callable[[], tuple[str, str]]] = {}
    try:
        tried = dict(store().checks())
    except HeadraceError as error:
        first = (error.what, error.remedy)
        at = names[0] if isinstance(error, ConfigurationError) else "login"
        tried = {at: lambda: first}
    for name in names:
        if failed:
            yield CheckResult(name=name, ok=False, detail=f"not tried: {failed} failed")
            continue
        started = time.monotonic()
        try:
            problem, fix = tried[name]() if name in tried else ("", "")
        except HeadraceError as error:
            problem, fix = error.what, error.remedy
        failed = name if problem else ""
        seconds = time.monotonic() - started
        yield CheckResult(name=name, ok=not problem, detail=problem or "ok", fix=fix, seconds=seconds)
