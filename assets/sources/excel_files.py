"""Excel files (xlsx, xls, xlsb, ods): a sheet as rows of JSON-like values."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from assets.errors import ConfigurationError, SourceAccessError
from assets.sources.text_files import unique_names
from assets.text_columns import Written

MAX_UNPACKED_BYTES = 2 << 30
MAX_RATIO = 200
MAX_ENTRIES = 10_000


def refuse_bomb(content: io.BytesIO, where: str) -> None:
    """Refuse a zip container that unpacks to more than a workbook would.

    Raises:
        SourceAccessError.
    """
    if not zipfile.is_zipfile(content):
        content.seek(0)
        return
    try:
        with zipfile.ZipFile(content) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise SourceAccessError("no readable workbook", where=where) from None
    finally:
        content.seek(0)
    unpacked, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if len(entries) > MAX_ENTRIES or unpacked > MAX_UNPACKED_BYTES or unpacked > MAX_RATIO * max(packed, 1 << 16):
        raise SourceAccessError(
            "the workbook unpacks to far more than its size, as a zip bomb does",
            where=where,
            remedy="Export the sheet as CSV.",
        )


def _workbook(content: io.BytesIO, where: str) -> Any:
    try:
        from python_calamine import CalamineWorkbook
    except ImportError:
        raise ConfigurationError(
            "the package that reads Excel files is missing", remedy="Run: pip install 'headrace[upload]'"
        ) from None
    refuse_bomb(content, where)
    try:
        return CalamineWorkbook.from_filelike(content)
    except Exception as error:  # calamine's own errors have no common base
        raise SourceAccessError(f"no readable workbook ({type(error).__name__})", where=where) from None


def sheet_names(content: io.BytesIO, where: str) -> list[str]:
    """Names of the sheets that hold rows."""
    book = _workbook(content, where)
    return [name for name in book.sheet_names if book.get_sheet_by_name(name).height]


def sheet_rows(content: io.BytesIO, sheet: str | None, where: str) -> Iterator[dict[str, Any]]:
    """A sheet's rows; its first row that is not empty names the columns. Cells come as JSON values.

    Raises:
        SourceAccessError: there is no such sheet, or no workbook.
    """
    book = _workbook(content, where)
    names = book.sheet_names
    if sheet is not None and sheet not in names:
        raise SourceAccessError(f"there is no sheet {sheet!r}", where=where, remedy=f"Sheets: {', '.join(names)}.")
    if not names:
        return
    rows = iter(book.get_sheet_by_name(sheet or names[0]).to_python(skip_empty_area=True))
    header = next(rows, None)
    if header is None:
        return
    titles = unique_names(["" if cell is None else str(_cell(cell) or "") for cell in header])
    for row in rows:
        values = [_cell(cell) for cell in row]
        if any(value is not None for value in values):
            yield dict(zip(titles, values, strict=False))


def _cell(value: Any) -> Any:
    """Excel keeps every number as a double: a whole one is an integer; dates and times are text of their own form."""
    if value is None or value == "":
        return None
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return Written(value)
    if isinstance(value, float):
        return Written(int(value)) if value.is_integer() and abs(value) < 2**53 else Written(repr(value))
    if isinstance(value, datetime):
        return Written(value.isoformat(sep=" "))
    if isinstance(value, date | time):
        return Written(value.isoformat())
    return str(value.total_seconds()) if isinstance(value, timedelta) else str(value)
