"""The credential with which the stack's own processes ask its webserver: a file in the home, for its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from assets.settings import Settings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def credential_file(settings: Settings) -> Path:
    return settings.home_path / "internal.token"


def stack_credential(settings: Settings) -> str:
    """The credential: ``HEADRACE_INTERNAL_TOKEN``, else the file, which the first call makes."""
    if settings.internal_token is not None:
        return settings.internal_token.get_secret_value()
    file = credential_file(settings)
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".internal.token.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
        made.write(secrets.token_urlsafe(32) + "\n")
    try:
        os.link(temporary, file)  # whole or not at all, and never over another process's
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return file.read_text().strip()


def credential_headers(settings: Settings, url: str) -> dict[str, str]:
    """Headers for a request to the stack's webserver; none where they would cross a network unencrypted."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        return {}
    return {"Authorization": f"Bearer {stack_credential(settings)}"}
