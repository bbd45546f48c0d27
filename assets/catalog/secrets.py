"""Secrets of connector configs: encrypted at rest, or references that are resolved when a connector is built.

In a stored config a secret is ``{"$secret": "fernet:<key id>:<token>"}`` or ``{"$secret": "<reference>"}`` (see
``assets/secret_references.py``). Everything else is stored as it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretBytes, SecretStr

from assets.catalog.secret_keys import SecretKeys
from assets.errors import ConfigurationError
from assets.secret_references import is_reference, resolve_reference
from assets.settings import Settings

MASK = "********"
_TAG = "$secret"
_CIPHER = "fernet:"


class UnknownKeyError(ConfigurationError):
    """A stored secret was encrypted with a key that is not at hand."""


class SecretVault:
    """Encrypts and resolves the secrets of one installation, with the keys of `SecretKeys`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keys = SecretKeys(settings)

    @property
    def home(self) -> Path:
        return self._settings.home_path

    def store(self, config: dict[str, Any], stored: dict[str, Any] | None = None) -> dict[str, Any]:
        """Turn a dumped config with ``SecretStr`` values into its stored form.

        Args:
            config: ``Config.model_dump(exclude_unset=True)``.
            stored: the stored form that this replaces; where ``config`` says ``********``, its secret is kept.

        Raises:
            ConfigurationError: the mask was given and there is no earlier secret, or the key is wrong.
        """
        return self._store(config, stored, "")

    def _store(self, value: Any, earlier: Any, path: str) -> Any:
        from pydantic_core import to_jsonable_python

        if isinstance(value, SecretStr | SecretBytes):
            plain = value.get_secret_value()
            return self._store_secret(plain.decode() if isinstance(plain, bytes) else plain, earlier, path)
        if isinstance(value, dict):
            if _TAG in value:
                raise ConfigurationError(f"{path or 'the config'}: {_TAG} is a reserved name.")
            before = earlier if isinstance(earlier, dict) else {}
            return {str(k): self._store(v, before.get(str(k)), f"{path}.{k}".lstrip(".")) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            before = earlier if isinstance(earlier, list) else []
            return [self._store(v, before[i] if i < len(before) else None, f"{path}[{i}]") for i, v in enumerate(value)]
        return to_jsonable_python(value)

    def _store_secret(self, plain: str, earlier: Any, path: str) -> dict[str, str]:
        if plain == MASK:
            if isinstance(earlier, dict) and _TAG in earlier:
                return earlier
            raise ConfigurationError(f"{path}: the mask {MASK} stands for a stored secret, and there is none.")
        if is_reference(plain):
            return {_TAG: plain}
        return self.encrypted(plain)

    def encrypted(self, plain: str) -> dict[str, str]:
        """The stored form of one secret."""
        key_id, cipher = next(iter(self.keys.read(create=True).items()))
        return {_TAG: f"{_CIPHER}{key_id}:{cipher.encrypt(plain.encode()).decode()}"}

    def encrypted_anew(self, stored: Any, where: str) -> Any:
        """The same stored config, each of its secrets encrypted with the first key.

        Raises:
            ConfigurationError: a secret cannot be decrypted.
        """

        def anew(text: str) -> Any:
            return self.encrypted(self._resolve_secret(text, where)) if text.startswith(_CIPHER) else {_TAG: text}

        return _map_secrets(stored, anew)

    def in_the_clear(self, config: Any, where: str) -> Any:
        """A dumped config that is tried and not kept: references resolved, nothing encrypted, no key made.

        Raises:
            ConfigurationError: a reference leads nowhere.
        """
        if isinstance(config, SecretStr | SecretBytes):
            plain = config.get_secret_value()
            text = plain.decode() if isinstance(plain, bytes) else plain
            return resolve_reference(text, self._settings, where) if is_reference(text) else text
        if isinstance(config, dict):
            return {name: self.in_the_clear(value, where) for name, value in config.items()}
        if isinstance(config, list | tuple | set | frozenset):
            return [self.in_the_clear(value, where) for value in config]
        return config

    def resolve(self, stored: Any, where: str) -> Any:
        """The config with its secrets in the clear. The caller keeps it no longer than it needs it.

        Raises:
            ConfigurationError: the key is missing or another, or a reference leads nowhere.
        """
        return _map_secrets(stored, lambda text: self._resolve_secret(text, where))

    def reference(self, text: str, where: str) -> str:
        """The secret that a reference leads to.

        Raises:
            SecretReferenceError: it leads nowhere, or the text is no reference.
        """
        return resolve_reference(text, self._settings, where)

    def _resolve_secret(self, text: str, where: str) -> str:
        if not text.startswith(_CIPHER):
            return resolve_reference(text, self._settings, where)
        from cryptography.fernet import InvalidToken

        key_id, token = _key_and_token(text)
        ciphers = self.keys.read(create=False, where=where)
        for cipher in ciphers.values() if key_id is None else filter(None, [ciphers.get(key_id)]):
            try:
                return cipher.decrypt(token).decode()
            except InvalidToken:
                continue
        raise UnknownKeyError(
            f"a stored secret was encrypted with another key{f' ({key_id})' if key_id else ''}.",
            where=where,
            remedy="Add that key to HEADRACE_SECRET_KEY, or add the connector again with --replace.",
        )


def _key_and_token(text: str) -> tuple[str | None, bytes]:
    """Key id and token of an encrypted secret; those of the first release name no key."""
    head, colon, token = text.removeprefix(_CIPHER).partition(":")
    return (head, token.encode()) if colon else (None, head.encode())


def kinds_of_secrets(stored: Any) -> Iterator[str]:
    """For each secret of a stored config: ``key <id>`` of an encrypted one, else the reference's scheme."""
    found: list[str] = []

    def note(text: str) -> str:
        if text.startswith(_CIPHER):
            found.append(f"key {_key_and_token(text)[0] or 'without id'}")
        else:
            found.append(text.partition(":")[0])
        return text

    _map_secrets(stored, note)
    yield from found


def masked(stored: dict[str, Any]) -> dict[str, Any]:
    """The config for people: a reference as it is, any other secret as ``********``."""
    return _map_secrets(stored, lambda text: text if is_reference(text) else MASK)


def with_kept_secrets(config: Mapping[str, Any], stored: Any) -> dict[str, Any]:
    """The config with the mask in place of each stored secret that it leaves out."""
    filled = dict(config)
    for name, earlier in stored.items() if isinstance(stored, dict) else ():
        if not isinstance(earlier, dict):
            continue
        if set(earlier) == {_TAG}:
            filled.setdefault(name, MASK)
        elif isinstance(filled.get(name), Mapping):
            filled[name] = with_kept_secrets(filled[name], earlier)
    return filled


def _map_secrets(value: Any, convert: Callable[[str], Any]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TAG}:
            return convert(value[_TAG])
        return {name: _map_secrets(item, convert) for name, item in value.items()}
    if isinstance(value, list):
        return [_map_secrets(item, convert) for item in value]
    return value
