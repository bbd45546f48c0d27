"""A stored connector's secret that its source replaces, such as a refresh token that is valid once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets.catalog.secrets import SecretVault
from assets.errors import ConfigurationError
from assets.naming import path_part

if TYPE_CHECKING:
    from assets.catalog.store import Catalog

LOCK_SECONDS = 60


class StoredSecret:
    """Secrets of one connector, read and replaced by their place in its config."""

    def __init__(self, catalog: Catalog, connector: str, vault: SecretVault) -> None:
        self._catalog, self._connector, self._vault = catalog, connector, vault

    def current(self, *path: str) -> str:
        """The secret as it is stored now."""
        return str(_at(self._catalog.resolved_config(self._connector)[1], path))

    def replace(self, new: str, *path: str) -> None:
        """Store another value.

        Raises:
            ConfigurationError: the stored one is a reference such as ``env:``, which is not ours to write.
        """

        def changed(stored: dict[str, Any]) -> dict[str, Any]:
            old = _at(stored, path)
            if not (isinstance(old, dict) and str(old.get("$secret", "")).startswith("fernet:")):
                raise ConfigurationError(
                    f"the API replaced {'.'.join(path)}, which is kept outside of Headrace",
                    where=self._connector,
                    remedy="Store the secret itself in the connector's config, no reference.",
                )
            return _with(stored, path, self._vault.encrypted(new))

        self._catalog.change_stored_config(self._connector, changed)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process of this machine at a time."""
        from filelock import FileLock

        folder = self._vault.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"secret-{path_part(self._connector)}.lock", timeout=LOCK_SECONDS):
            yield


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = config[name]
    return config


def _with(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = value if len(path) == 1 else _with(config[path[0]], path[1:], value)
    return config | {path[0]: inner}
