"""Setting up and examining a local lakehouse: its folder or bucket, the space left, the tables' formats."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lakehouse.lakehouse_status import LakehouseStatus, tried

if TYPE_CHECKING:
    from assets.lakehouse.local import LocalLakehouse

FREE_BYTES = 1 << 30


def initialise(lakehouse: LocalLakehouse) -> list[str]:
    """Make the folders. Returns those that were missing; a bucket needs none."""
    made = []
    for folder in (lakehouse.root, lakehouse.staging_root):
        if "://" not in folder and not Path(folder).is_dir():
            Path(folder).mkdir(parents=True, exist_ok=True)
            made.append(f"folder {folder}")
    return made


def examine(lakehouse: LocalLakehouse) -> LakehouseStatus:
    free: int | None = None

    def place() -> tuple[str, str, str]:
        nonlocal free
        if "://" in lakehouse.root:
            found = sum(1 for _, _ in zip(lakehouse.storage.files(lakehouse.root, ""), range(1), strict=False))
            return "the bucket answers" + ("" if found else ", nothing is there yet"), "", ""
        folder = Path(lakehouse.root)
        if not folder.is_dir():
            return "", "the folder does not exist yet", "Run: headrace lakehouse init"
        if not os.access(folder, os.W_OK | os.X_OK):
            return "", "the folder cannot be written", f"Give this user the right to write {folder}"
        free = shutil.disk_usage(folder).free
        problem = f"{free >> 20} MiB are left" if free < FREE_BYTES else ""
        return f"{free >> 30} GiB are free", problem, "Free space, or set HEADRACE_LAKEHOUSE_URL to another disk."

    check = tried("place", place)
    return LakehouseStatus(engine="local", where=lakehouse.root, ok=check.ok, checks=(check,), free_bytes=free)
