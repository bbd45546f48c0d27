"""Files that users upload, kept under the hash of their content: no name of theirs ever becomes a path."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from assets.errors import ConfigurationError

MAX_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 1000
MAX_NAME = 200
CHUNK = 1 << 20


def plain_name(name: str) -> str:
    """A file's own name without any folder.

    Raises:
        ConfigurationError: it has none, or one that no file should have.
    """
    own = PurePosixPath(PureWindowsPath(name).name).name
    if not own or own in (".", "..") or len(own) > MAX_NAME or any(ord(c) < 32 or ord(c) == 127 for c in own):
        raise ConfigurationError("a file has no usable name", remedy="Rename it.")
    return own


class UploadedFiles:
    """The folder ``uploads`` of one installation."""

    def __init__(self, home: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = home / "uploads"
        self._max_bytes = max_bytes

    def path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def store(self, content: IO[bytes], name: str, compression: str = "none") -> tuple[str, int]:
        """Copy a stream in bounded memory; return its hash and size. The same content is kept once.

        Raises:
            ConfigurationError: it is too large, or unpacks to far more than a table would.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".incoming-") as incoming:
            while chunk := content.read(CHUNK):
                size += len(chunk)
                if size > self._max_bytes:
                    raise ConfigurationError(
                        f"the file is larger than {self._max_bytes} bytes",
                        where=name,
                        remedy="Put it into a bucket, and use connector type s3 or gcs.",
                    )
                digest.update(chunk)
                incoming.write(chunk)
            incoming.flush()
            os.fsync(incoming.fileno())
            if compression != "none":
                self._refuse_bomb(Path(incoming.name), size, compression, name)
            target = self.path(digest.hexdigest())
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                os.link(incoming.name, target)
        return digest.hexdigest(), size

    @staticmethod
    def _refuse_bomb(path: Path, size: int, compression: str, name: str) -> None:
        import pyarrow as pa

        unpacked = 0
        stream: Any
        try:
            with pa.CompressedInputStream(pa.OSFile(str(path)), compression) as stream:
                while chunk := stream.read(CHUNK):
                    unpacked += len(chunk)
                    if unpacked > max(MAX_RATIO * size, CHUNK) or unpacked > MAX_UNPACKED_BYTES:
                        raise ConfigurationError("the file unpacks to far more than its size", where=name)
        except OSError:
            raise ConfigurationError(f"the file is no whole {compression} file", where=name) from None

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)
