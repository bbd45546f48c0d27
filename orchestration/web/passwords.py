"""Passwords: Argon2id, at most two computed at once (each takes 64 MiB)."""

from __future__ import annotations

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from assets.errors import ConfigurationError

MIN_LENGTH, MAX_LENGTH = 10, 1024
_slots = threading.BoundedSemaphore(2)
_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """The Argon2id hash to store.

    Raises:
        ConfigurationError: too short or too long.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigurationError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters.")
    with _slots:
        return _hasher.hash(password)


@cache
def _nobody() -> str:
    return _hasher.hash("the password of nobody")


def verify_password(stored: str | None, password: str) -> bool:
    """Whether the password is right. Takes as long for a user that does not exist."""
    if len(password) > MAX_LENGTH:
        return False
    with _slots:
        try:
            return _hasher.verify(stored or _nobody(), password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False
