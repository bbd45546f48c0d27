"""Tables made of files: their config, and which file belongs to which table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from assets.errors import ConfigurationError
from assets.sources.interface import ConnectorConfig
from assets.types import arrow_type

Format = Literal["parquet", "csv", "tsv", "jsonl", "json", "excel"]
Compression = Literal["none", "gzip", "zstd", "bz2"]
SCHEMA = "files"
FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".xlsx": "excel",
    ".xls": "excel",
    ".xlsb": "excel",
    ".ods": "excel",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")


class CsvDialect(BaseModel):
    """How CSV and TSV files are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delimiter: str | None = Field(default=None, min_length=1, max_length=1, description="Default: comma, tab for TSV.")
    quote: str | None = Field(default='"', min_length=1, max_length=1, description="Quote; null: nothing is quoted.")
    escape: str | None = Field(default=None, min_length=1, max_length=1, description="Escape; default: doubled quotes.")
    header: bool = Field(default=True, description="Whether the first row names the columns; else f0, f1, ...")
    skip_rows: int = Field(default=0, ge=0, le=10_000, description="Lines before the header.")
    encoding: str = Field(default="utf-8", description="Text encoding.", examples=["latin-1"])
    null_values: list[str] = Field(default=[""], description="Unquoted texts that mean NULL.")

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        import codecs

        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError("there is no such text encoding") from None
        return value


class FileTable(BaseModel):
    """One table: the files that a glob matches, their columns unified."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the table.", examples=["orders"])
    glob: str | list[str] = Field(
        description="Files below the prefix: `*` within a folder, `**/` over folders, `?`, `[a-z]`, `{a,b}`.",
        examples=["orders/**/*.parquet"],
    )
    format: Format | Literal["auto"] = Field(default="auto", description="Default: by each file's extension.")
    compression: Compression | Literal["auto"] = Field(default="auto", description="Default: by each file's extension.")
    csv: CsvDialect = Field(default_factory=CsvDialect, description="CSV and TSV dialect.")
    sheet: str | None = Field(default=None, description="Sheet of an Excel file; default: the first one.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Declared contract types of columns of text formats; the others are found over all values.",
        examples=[{"amount": "decimal128(12, 2)", "code": "string"}],
    )
    key: list[str] = Field(
        default_factory=list,
        description="Columns that identify a row over all files (the newest file wins); default: file and row number.",
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _NAME.match(value):
            raise ValueError("a table name has letters, digits and _ only")
        return value

    @field_validator("columns")
    @classmethod
    def _contract(cls, value: dict[str, str]) -> dict[str, str]:
        for kind in value.values():
            arrow_type(kind)
        return value

    @field_validator("glob")
    @classmethod
    def _readable(cls, value: str | list[str]) -> str | list[str]:
        for pattern in [value] if isinstance(value, str) else value:
            glob_pattern(pattern)
        return value

    def matches(self, path: str) -> bool:
        patterns = [self.glob] if isinstance(self.glob, str) else self.glob
        return any(glob_pattern(pattern).match(path) for pattern in patterns)


class FileTablesConfig(ConnectorConfig):
    """What the connector types that read files have in common."""

    prefix: str = Field(default="", description="Only objects whose name begins so.", examples=["exports/"])
    tables: list[FileTable] = Field(
        default_factory=list,
        description="Named tables; default: a table for each folder below the prefix, and for each file beside them.",
    )
    csv: CsvDialect = Field(default_factory=CsvDialect, description="CSV dialect of tables that name none.")


@lru_cache(maxsize=256)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over ``/``-separated paths.

    Raises:
        ValueError: it cannot be read.
    """
    text, at, braces = [], 0, 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at):
            text.append("(?:[^/]+/)*")
            at += 3
            continue
        if glob.startswith("**", at):
            text.append(".*")
            at += 2
            continue
        end = glob.find("]", at + 2) if char == "[" else -1
        if end > 0:
            inner = glob[at + 1 : end].replace("\\", "\\\\")
            text.append("[" + ("^/" + inner[1:] if inner.startswith("!") else inner) + "]")
            at = end + 1
            continue
        if char == "{":
            braces += 1
        elif char == "}":
            braces -= 1
        pieces = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|" if braces else ","}
        text.append(pieces.get(char, re.escape(char)))
        at += 1
    try:
        return re.compile("".join(text) + r"\Z", re.DOTALL)
    except re.error as error:
        raise ValueError(f"the glob cannot be read: {error.msg}") from None


def file_kind(path: str, table: FileTable) -> tuple[Format | None, Compression]:
    """A file's format and compression, by the table's config or its extensions; None: no known format."""
    name = PurePosixPath(path)
    suffixes = [suffix.lower() for suffix in name.suffixes[-2:]]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[:-1] if compression else suffixes
    found = FORMATS.get(inner[-1]) if inner else None
    return (
        found if table.format == "auto" else table.format,
        (compression or "none") if table.compression == "auto" else table.compression,
    )


def hidden(path: str) -> bool:
    """Markers and metadata that are no data: folders, ``_SUCCESS``, ``_delta_log/``, names that begin with a dot."""
    return path.endswith("/") or any(part.startswith(("_", ".")) for part in path.split("/"))


def tables_of(config: FileTablesConfig, paths: Iterable[str]) -> dict[str, FileTable]:
    """The connector's tables by name; without configured ones, what folders and files there are.

    Args:
        paths: object names below the prefix.

    Raises:
        ConfigurationError: two tables have one name.
    """
    if config.tables:
        names = [table.name for table in config.tables]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ConfigurationError(f"several tables are named {', '.join(twins)}.", remedy="Rename them.")
        return {table.name: table for table in config.tables}
    found: dict[str, set[str]] = {}
    probe = FileTable(name="any", glob="**")
    for path in paths:
        if hidden(path) or file_kind(path, probe)[0] is None:
            continue
        folder, slash, _ = path.partition("/")
        stem = folder if slash else folder.partition(".")[0]
        name = re.sub(r"\W", "_", stem, flags=re.ASCII)[:100] or "_"
        name = f"_{name}" if name[0].isdigit() else name
        found.setdefault(name, set()).add(f"{_literal(folder)}/**" if slash else _literal(path))
    return {name: FileTable(name=name, glob=sorted(globs), csv=config.csv) for name, globs in sorted(found.items())}


def _literal(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[{}," else c for c in text)
