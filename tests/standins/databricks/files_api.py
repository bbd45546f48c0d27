"""The Files API on volumes: whole files by PUT, directories made with their files."""

from __future__ import annotations

import email.utils
import os
import shutil
import uuid
from typing import Any

from tests.standins.databricks.errors import ApiError
from tests.standins.databricks.unity_catalog import UnityCatalog


class FilesApi:
    """Files of the volumes, each appearing whole."""

    def __init__(self, catalog: UnityCatalog) -> None:
        self._catalog = catalog

    def put(self, path: str, content: bytes, overwrite: bool) -> None:
        file = self._catalog.volume_path(path)
        if file.exists() and not overwrite:
            raise ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._catalog.folder / f".upload-{uuid.uuid4().hex}"
        draft.write_bytes(content)
        os.replace(draft, file)

    def get(self, path: str) -> tuple[bytes, dict[str, str]]:
        file = self._catalog.volume_path(path)
        if not file.is_file():
            raise ApiError(404, "NOT_FOUND", f"The file being accessed is not found: {path}")
        changed = email.utils.formatdate(file.stat().st_mtime, usegmt=True)
        return file.read_bytes(), {"Last-Modified": changed, "Content-Type": "application/octet-stream"}

    def delete(self, path: str) -> None:
        file = self._catalog.volume_path(path)
        if not file.is_file():
            raise ApiError(404, "NOT_FOUND", f"The file being accessed is not found: {path}")
        file.unlink()

    def make_directory(self, path: str) -> None:
        self._catalog.volume_path(path).mkdir(parents=True, exist_ok=True)

    def require_directory(self, path: str) -> None:
        if not self._catalog.volume_path(path).is_dir():
            raise ApiError(404, "NOT_FOUND", f"The directory being accessed is not found: {path}")

    def list(self, path: str, page_size: int, page_token: str) -> dict[str, Any]:
        self.require_directory(path)
        folder = self._catalog.volume_path(path)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        start = int(page_token or 0)
        page: dict[str, Any] = {"contents": []}
        for entry in entries[start : start + page_size]:
            status = entry.stat()
            facts = {"path": f"{path.rstrip('/')}/{entry.name}", "name": entry.name, "is_directory": entry.is_dir()}
            if entry.is_file():
                facts |= {"file_size": status.st_size, "last_modified": int(status.st_mtime * 1000)}
            page["contents"].append(facts)
        if start + page_size < len(entries):
            page["next_page_token"] = str(start + page_size)
        return page

    def delete_directory(self, path: str) -> None:
        self.require_directory(path)
        folder = self._catalog.volume_path(path)
        if any(folder.iterdir()):
            raise ApiError(400, "DIRECTORY_NOT_EMPTY", f"The directory being deleted is not empty: {path}")
        shutil.rmtree(folder)
