"""Rotation of the keys of stored secrets.

1. A new key is put before the others: from then on it encrypts, and the others still read.
2. All stored secrets are encrypted anew in one transaction. Whoever writes a secret holds a shared lock from before the
   key is read, so when the transaction commits nothing is stored, or about to be stored, under an old key.
3. The old keys are dropped.

A death in between leaves every secret readable, and the next rotation finishes what was begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from assets.catalog.models import ConnectorRow, OAuthFlowRow, SecretRow
from assets.catalog.secrets import SecretVault, kinds_of_secrets
from assets.errors import ConfigurationError
from assets.failpoints import failpoint
from assets.sync import Model

Opens = Callable[[], AbstractContextManager[Session]]
PLACES: tuple[tuple[InstrumentedAttribute[str], InstrumentedAttribute[Any]], ...] = (
    (ConnectorRow.name, ConnectorRow.config),
    (ConnectorRow.name, ConnectorRow.oauth),
    (OAuthFlowRow.connector, OAuthFlowRow.verifier),
    (SecretRow.name, SecretRow.value),
)
"""Every column that holds encrypted secrets, with what names its row."""
LOCK_SECONDS = 120
_POSTGRES_LOCK = 0x48524143_53454352  # an arbitrary constant of its own


class Rotation(Model):
    """A finished rotation: the key that encrypts now, how many secrets it encrypted, the keys that were dropped."""

    key: str
    secrets: int
    dropped: tuple[str, ...]


class SecretInventory(Model):
    """Which keys there are, and how many stored secrets need which: ``key <id>``, or the scheme of a reference."""

    keys: tuple[str, ...]
    secrets: dict[str, int]


def share_keys(session: Session) -> None:
    """Hold off a rotation until this transaction, which stores a secret, has ended."""
    _lock(session, "pg_advisory_xact_lock_shared")


def _lock(session: Session, function: str) -> None:
    """On SQLite a writing transaction is alone from its first statement on."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT {function}(:lock)"), {"lock": _POSTGRES_LOCK})


class KeyRotation:
    """Rotates the keys of one installation."""

    def __init__(self, reading: Opens, writing: Opens, vault: SecretVault) -> None:
        self._reading, self._writing, self._vault = reading, writing, vault

    def inventory(self) -> SecretInventory:
        """Keys and stored secrets. Decrypts nothing.

        Raises:
            ConfigurationError: the keys cannot be read.
        """
        keys = self._vault.keys
        found = Counter(kind for stored in self._stored() for kind in kinds_of_secrets(stored))
        there = keys.given or keys.file.exists()
        return SecretInventory(keys=tuple(keys.read(create=False)) if there else (), secrets=dict(found))

    def rotate(self) -> Rotation:
        """Make a new key (or take the first of ``HEADRACE_SECRET_KEY``) and encrypt every stored secret with it.

        Raises:
            ConfigurationError: the environment holds one key only, or a secret cannot be decrypted.
        """
        with self._one_at_a_time():
            keys = self._vault.keys
            before = self.inventory()
            current = f"key {before.keys[0]}" if before.keys else ""
            others = sum(n for kind, n in before.secrets.items() if kind.startswith("key ") and kind != current)
            unfinished = len(before.keys) > 1 and others > 0
            if keys.given and len(before.keys) < 2:
                raise ConfigurationError(
                    "HEADRACE_SECRET_KEY holds one key.",
                    remedy="Set it to NEW,OLD for every process, start them anew, and rotate again.",
                )
            if not keys.given and not unfinished:
                keys.add()
            failpoint("rotate_after_new_key")
            count = self._encrypt_anew()
            failpoint("rotate_after_commit")
            first, *old = keys.read(create=False)
            if not keys.given:
                keys.keep_first()
            return Rotation(key=first, secrets=count, dropped=tuple(old))

    def _encrypt_anew(self) -> int:
        count = 0
        with self._writing() as session:
            _lock(session, "pg_advisory_xact_lock")
            for name, column in PLACES:
                for row in session.scalars(select(name.class_).with_for_update()):
                    stored = getattr(row, column.key)
                    encrypted = [kind for kind in kinds_of_secrets(stored) if kind.startswith("key ")]
                    if encrypted:
                        setattr(row, column.key, self._vault.encrypted_anew(stored, getattr(row, name.key)))
                        count += len(encrypted)
            session.flush()
            failpoint("rotate_before_commit")
        return count

    def _stored(self) -> Iterator[Any]:
        with self._reading() as session:
            for _, column in PLACES:
                yield from session.scalars(select(column))

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        from filelock import FileLock

        folder = self._vault.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "secret-keys.lock", timeout=LOCK_SECONDS):
            yield
