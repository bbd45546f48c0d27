"""Where a run's parts and manifests lie until they are committed: ``<root>/<connector>/<table>/<run group>/``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assets.errors import LakehouseError
from assets.lakehouse.parquet_parts import BackgroundPartWriter
from assets.lakehouse.storage import StagingStorage
from assets.naming import path_part, table_slug
from assets.sync import Manifest

if TYPE_CHECKING:
    import pyarrow as pa


class Staging:
    """One installation's staging area."""

    def __init__(self, storage: StagingStorage, root: str) -> None:
        self.storage = storage
        self.root = root

    def folder(self, connector: str, table: str, run_group: str | None = None) -> str:
        folder = f"{self.root}/{path_part(connector)}/{table_slug(table)}"
        return f"{folder}/{path_part(run_group)}" if run_group else folder

    def writer(self, folder: str, schema: pa.Schema) -> BackgroundPartWriter:
        self.storage.delete_folder(folder)  # an abandoned try under the same attempt number
        return BackgroundPartWriter(self.storage, folder, schema)

    def write_manifest(self, manifest: Manifest) -> str:
        name, text = f"manifest-a{manifest.attempt}", manifest.model_dump_json()
        return self.write_note(manifest.connector, manifest.table, manifest.run_group, name, text)

    def write_note(self, connector: str, table: str, run_group: str, name: str, text: str) -> str:
        address = f"{self.folder(connector, table, run_group)}/{path_part(name)}.json"
        with self.storage.open_output(address) as file:
            file.write(text.encode())
        return address

    def latest_manifest(self, connector: str, table: str, run_group: str) -> str | None:
        """The address of the manifest of the latest attempt that wrote one."""
        folder = self.folder(connector, table, run_group)
        found = [
            int(match[1])
            for file in self.storage.files(folder, "manifest-a")
            if (match := re.fullmatch(r"manifest-a(\d+)\.json", file.name))
        ]
        return f"{folder}/manifest-a{max(found)}.json" if found else None

    def read_manifest(self, address: str) -> Manifest:
        try:
            return Manifest.model_validate_json(self.storage.read_text(address))
        except FileNotFoundError as error:
            raise LakehouseError(
                "the manifest of this run is gone", where=address, remedy="Sync the table again."
            ) from error

    def clear(self, connector: str, table: str, run_group: str | None = None) -> None:
        self.storage.delete_folder(self.folder(connector, table, run_group))
