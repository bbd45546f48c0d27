"""Connector type ``upload``: files that a user put into the installation, as tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from assets.errors import ConfigurationError, SourceAccessError
from assets.sources.file_reading import TableFile
from assets.sources.file_tables import Compression, CsvDialect, FileTable, FileTablesConfig, Format
from assets.sources.object_files import ObjectFilesConnector
from assets.sources.object_store import ObjectStore, StoredObject
from assets.uploaded_files import UploadedFiles

_HASH = re.compile(r"[0-9a-f]{64}\Z")


class UploadedFile(BaseModel):
    """One file, or one sheet of it, in one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The file's name in the dataset.", examples=["sales.csv"])
    sha256: str = Field(description="Hash of its content, which is also where it is kept.")
    size: int = Field(ge=0, description="Bytes.")
    table: str = Field(description="Table that its rows belong to.", examples=["sales"])
    format: Format = Field(description="Format.")
    compression: Compression = Field(default="none", description="Compression.")
    sheet: str | None = Field(default=None, description="Sheet of an Excel file.")

    @field_validator("sha256")
    @classmethod
    def _hash(cls, value: str) -> str:
        if not _HASH.match(value):
            raise ValueError("no SHA-256 in hexadecimal digits")
        return value


class UploadConfig(FileTablesConfig):
    """A dataset of uploaded files. `headrace datasets add` writes it."""

    files: list[UploadedFile] = Field(default_factory=list, description="The files.")
    csv: CsvDialect = Field(default_factory=CsvDialect, description="CSV dialect of the files.")
    columns: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="Declared contract types by table and column.",
        examples=[{"sales": {"code": "string"}}],
    )
    keys: dict[str, list[str]] = Field(default_factory=dict, description="Key columns by table.")


class UploadStore(ObjectStore):
    """The files of one dataset."""

    def __init__(self, config: UploadConfig, files: UploadedFiles, where: str) -> None:
        self.config, self._files, self.where = config, files, where
        self._stored = {
            f.name: StoredObject(f.name, f.sha256, f.size, float(place)) for place, f in enumerate(config.files)
        }

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        yield from (found for found in self._stored.values() if found.key.startswith(prefix))

    def stat(self, key: str) -> StoredObject | None:
        return self._stored.get(key)

    def fetch(self, found: StoredObject, start: int, length: int) -> bytes:
        try:
            with self._files.path(found.version).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise SourceAccessError(
                f"the uploaded file cannot be read ({error.strerror})",
                where=f"{self.where}/{found.key}",
                remedy="Upload it again; every worker needs the installation's home.",
            ) from None

    def checks(self) -> list[tuple[str, Callable[[], tuple[str, str]]]]:
        def read() -> tuple[str, str]:
            for found in self._stored.values():
                path = self._files.path(found.version)
                if not path.is_file() or path.stat().st_size != found.size:
                    return f"{found.key} is not there as it was uploaded", "Upload it again."
            return "", ""

        return [("read", read)]


class UploadConnector(ObjectFilesConnector):
    """Uploaded files as tables."""

    type_name: ClassVar[str] = "upload"
    Config = UploadConfig
    config: UploadConfig
    check_names: ClassVar[tuple[str, ...]] = ("read",)

    def store(self) -> UploadStore:
        if self.home is None:
            raise ConfigurationError("uploaded files belong to an installation", where=self.name)
        return UploadStore(self.config, UploadedFiles(self.home), self.name)

    def _grouped(self, store: ObjectStore) -> tuple[dict[str, FileTable], dict[str, list[TableFile]]]:
        tables: dict[str, FileTable] = {}
        files: dict[str, list[TableFile]] = {}
        for uploaded in sorted(self.config.files, key=lambda file: (file.table, file.name)):
            table = FileTable(
                name=uploaded.table,
                glob="*",
                csv=self.config.csv,
                sheet=uploaded.sheet,
                columns=self.config.columns.get(uploaded.table, {}),
                key=self.config.keys.get(uploaded.table, []),
            )
            tables.setdefault(uploaded.table, table)
            found = store.stat(uploaded.name)
            assert found is not None
            made = TableFile(store, found, table, uploaded.format, uploaded.compression)
            files.setdefault(uploaded.table, []).append(made)
        return tables, files
