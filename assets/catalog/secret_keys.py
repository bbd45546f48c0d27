"""The keys of stored secrets: Fernet keys, the first of which encrypts, the others read what they encrypted earlier.

They come from ``HEADRACE_SECRET_KEY`` (separated by commas), else from the file ``secret.key`` in the home, one a line.
A key's id is a digest of it, so that a stored secret names its key and nothing has to be kept beside them.
"""

from __future__ import annotations

import hashlib
import os
import secrets as random_names
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import ConfigurationError
from assets.settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_MAKE = "Make one: python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"


def key_id(key: bytes) -> str:
    """Names a key without telling it."""
    return hashlib.sha256(b"headrace secret key:" + key).hexdigest()[:8]


class SecretKeys:
    """The keys of one installation, read anew at each use: another process may rotate them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def file(self) -> Path:
        return self._settings.home_path / "secret.key"

    @property
    def given(self) -> bool:
        """Whether they come from the environment, where only a person changes them."""
        return self._settings.secret_key is not None

    def read(self, *, create: bool, where: str = "") -> dict[str, Fernet]:
        """The ciphers by key id, the one that encrypts first.

        Args:
            create: make the file where there is none.

        Raises:
            ConfigurationError: there is no key, or one of them is none.
        """
        from cryptography.fernet import Fernet

        try:
            return {key_id(key): Fernet(key) for key in self._keys(create, where)}
        except ValueError:
            source = "HEADRACE_SECRET_KEY" if self.given else str(self.file)
            raise ConfigurationError(f"{source} holds no Fernet key.", remedy=_MAKE) from None

    def _keys(self, create: bool, where: str) -> list[bytes]:
        given = self._settings.secret_key
        if given is not None:
            text = given.get_secret_value().replace(",", "\n")
            return [line.strip().encode() for line in text.splitlines() if line.strip()] or [b""]
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            if not create:
                raise ConfigurationError(
                    f"the key of the stored secrets is gone: {self.file}.",
                    where=where,
                    remedy="Bring the file back, set HEADRACE_SECRET_KEY, or add the connector again with --replace.",
                ) from None
            self._create()
            content = self.file.read_bytes()
        return content.split() or [b""]

    def add(self) -> str:
        """Put a new key before those of the file; returns its id."""
        from cryptography.fernet import Fernet

        fresh = Fernet.generate_key()
        self._replace([fresh, *self._keys(True, "")])
        return key_id(fresh)

    def keep_first(self) -> None:
        """Take all keys but the first out of the file."""
        self._replace(self._keys(False, "")[:1])

    def _create(self) -> None:
        from cryptography.fernet import Fernet

        temporary = self._written([Fernet.generate_key()])
        try:
            os.link(temporary, self.file)  # whole or not at all, and never over another process's key
        except FileExistsError:
            return
        finally:
            temporary.unlink(missing_ok=True)
        self._sync_folder()

    def _replace(self, keys: Sequence[bytes]) -> None:
        self._written(keys).replace(self.file)
        self._sync_folder()

    def _written(self, keys: Sequence[bytes]) -> Path:
        """A file with these keys beside the real one, on disk, readable by its owner only."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".secret.key.{os.getpid()}.{random_names.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(key + b"\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def _sync_folder(self) -> None:
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
