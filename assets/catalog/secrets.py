"""Secrets of connector configs: encrypted at rest, or references that are resolved when a connector is built.

In a stored config a secret is ``{"$secret": "fernet:<token>"}``, ``{"$secret": "env:NAME"}`` or
``{"$secret": "file:PATH"}``. Everything else is stored as it was given.
"""

from __future__ import annotations

import os
import re
import secrets as random_names
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretBytes, SecretStr

from assets.errors import ConfigurationError
from assets.settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

MASK = "********"
_TAG = "$secret"
_CIPHER = "fernet:"
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z")
_MAX_SECRET_FILE = 1024 * 1024


class SecretVault:
    """Encrypts and resolves the secrets of one installation.

    The Fernet key is ``settings.secret_key``, else the file ``secret.key`` in the home, which the first encryption
    creates, readable by its owner only.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def home(self) -> Path:
        return self._settings.home_path

    @property
    def key_file(self) -> Path:
        return self._settings.home_path / "secret.key"

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
        if _is_reference(plain):
            return {_TAG: plain}
        return self.encrypted(plain)

    def encrypted(self, plain: str) -> dict[str, str]:
        """The stored form of one secret."""
        return {_TAG: _CIPHER + self._fernet(create=True).encrypt(plain.encode()).decode()}

    def in_the_clear(self, config: Any, where: str) -> Any:
        """A dumped config that is tried and not kept: references resolved, nothing encrypted, no key made.

        Raises:
            ConfigurationError: a reference leads nowhere.
        """
        if isinstance(config, SecretStr | SecretBytes):
            plain = config.get_secret_value()
            text = plain.decode() if isinstance(plain, bytes) else plain
            return self._resolve_secret(text, where) if _is_reference(text) else text
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
        """The secret that ``env:NAME`` or ``file:PATH`` leads to.

        Raises:
            ConfigurationError: it leads nowhere, or the text is no reference.
        """
        if not _is_reference(text):
            raise ConfigurationError("a secret is given as a reference, env:NAME or file:PATH", where=where)
        return self._resolve_secret(text, where)

    def _resolve_secret(self, text: str, where: str) -> str:
        if text.startswith(_CIPHER):
            from cryptography.fernet import InvalidToken

            try:
                return self._fernet(create=False, where=where).decrypt(text.removeprefix(_CIPHER)).decode()
            except InvalidToken:
                raise ConfigurationError(
                    "a stored secret was encrypted with another key.",
                    where=where,
                    remedy="Set HEADRACE_SECRET_KEY to that key, or add the connector again with --replace.",
                ) from None
        kind, _, name = text.partition(":")
        if kind == "env":
            value = os.environ.get(name)
            if value is None:
                raise ConfigurationError(
                    f"the environment variable {name} is not set.",
                    where=where,
                    remedy="Set it for the worker and for this command.",
                )
            return value
        path = Path(name).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_SECRET_FILE + 1)
            if len(content) > _MAX_SECRET_FILE:
                raise OSError("larger than 1 MiB")
            return content.decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise ConfigurationError(f"the secret file {path} cannot be read ({why}).", where=where) from None

    def _fernet(self, *, create: bool, where: str = "") -> Fernet:
        from cryptography.fernet import Fernet

        given = self._settings.secret_key
        try:
            return Fernet(given.get_secret_value() if given else self._key_from_file(create, where))
        except ValueError:
            source = "HEADRACE_SECRET_KEY" if given else str(self.key_file)
            raise ConfigurationError(
                f"{source} holds no Fernet key.",
                remedy="Make one: python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'",
            ) from None

    def _key_from_file(self, create: bool, where: str) -> bytes:
        try:
            return self.key_file.read_bytes().strip()
        except FileNotFoundError:
            if not create:
                raise ConfigurationError(
                    f"the key of the stored secrets is gone: {self.key_file}.",
                    where=where,
                    remedy="Bring the file back, set HEADRACE_SECRET_KEY, or add the connector again with --replace.",
                ) from None
        self._create_key_file()
        return self.key_file.read_bytes().strip()

    def _create_key_file(self) -> None:
        from cryptography.fernet import Fernet

        self.key_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.key_file.with_name(f".secret.key.{os.getpid()}.{random_names.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(Fernet.generate_key() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, self.key_file)  # whole or not at all, and never over another process's key
        except FileExistsError:
            return
        finally:
            temporary.unlink(missing_ok=True)


def masked(stored: dict[str, Any]) -> dict[str, Any]:
    """The config for people: a reference as it is, any other secret as ``********``."""
    return _map_secrets(stored, lambda text: text if _is_reference(text) else MASK)


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


def _is_reference(text: str) -> bool:
    return bool(_ENV.match(text)) or (text.startswith("file:") and len(text) > len("file:") and "\n" not in text)


def _map_secrets(value: Any, convert: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TAG}:
            return convert(value[_TAG])
        return {name: _map_secrets(item, convert) for name, item in value.items()}
    if isinstance(value, list):
        return [_map_secrets(item, convert) for item in value]
    return value
