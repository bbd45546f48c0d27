"""What a chunk of files tells about them."""

from __future__ import annotations

from pathlib import Path

from assets.sources.file_chunks import chunk_of, files_of
from assets.sources.file_reading import TableFile
from assets.sources.file_tables import FileTable
from assets.sources.object_store import StoredObject
from assets.sources.upload import UploadConfig, UploadStore
from assets.sync import Chunk
from assets.uploaded_files import UploadedFiles


def test_files_of_one_table_keep_their_own_sheet_format_and_version(tmp_path: Path) -> None:
    store = UploadStore(UploadConfig(), UploadedFiles(tmp_path), "src")
    march, april = (FileTable(name="sales", glob="*", sheet=sheet) for sheet in ("March", "April"))
    files = [
        TableFile(store, StoredObject("a.xlsx", "1", 10, 1.5), march, "excel", "none"),
        TableFile(store, StoredObject("b.xlsx", "2", 20, 2.5), april, "excel", "none"),
        TableFile(store, StoredObject("c.csv", "3", 30, 3.5), march, "csv", "gzip"),
        TableFile(store, StoredObject("d.xlsx", "4", 40, 4.5), march, "excel", "none"),
    ]
    chunk = Chunk.model_validate_json(chunk_of("0", files).model_dump_json())
    assert len(chunk.where["ways"]) == 3
    told = [(file.found, file.table, file.kind, file.compression) for file in files_of(chunk, store)]
    assert told == [(file.found, file.table, file.kind, file.compression) for file in files]
    assert files_of(chunk_of("1", []), store) == []
