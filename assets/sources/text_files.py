"""CSV, TSV, JSON and JSON lines: every cell is read as text, then typed by `assets.text_columns`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import SourceAccessError
from assets.sources.file_tables import CsvDialect
from assets.text_columns import ColumnFacts, Written, json_column, no_constant, observe_json, typed_column
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sync import Column

BLOCK_BYTES = 4 << 20
JSON_ROWS = 5_000
MAX_LINE_BYTES = 64 << 20
"""One JSON row may be so long."""

Unfit = dict[int, str]


def unique_names(names: Sequence[str]) -> list[str]:
    """Column names of a header, the second ``a`` as ``a_2``; an empty one is ``column_N``."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        wanted = name or f"column_{number}"
        candidate, count = wanted, 1
        while candidate in found or (candidate != wanted and candidate in names):
            count += 1
            candidate = f"{wanted}_{count}"
        found.append(candidate)
    return found


def csv_batches(open_stream: Callable[[], Any], dialect: CsvDialect, tab: bool, where: str) -> Iterator[pa.RecordBatch]:
    """A CSV file as batches of text columns in bounded memory.

    Raises:
        SourceAccessError: a row has more or fewer cells than the header; the text is not in the stated encoding.
    """
    import pyarrow as pa
    from pyarrow import csv

    options: dict[str, Any] = {
        "parse_options": csv.ParseOptions(
            delimiter=dialect.delimiter or ("\t" if tab else ","),
            quote_char=dialect.quote or False,
            double_quote=dialect.escape is None,
            escape_char=dialect.escape or False,
            newlines_in_values=dialect.quote is not None,
        ),
        "read_options": csv.ReadOptions(
            block_size=BLOCK_BYTES,
            skip_rows=dialect.skip_rows,
            encoding=dialect.encoding,
            autogenerate_column_names=not dialect.header,
        ),
    }
    row = 0
    try:
        with open_stream() as stream:
            try:
                names = csv.open_csv(stream, **options).schema.names
            except pa.ArrowInvalid as error:
                if "Empty CSV file" in str(error):
                    return
                raise
        convert = csv.ConvertOptions(
            check_utf8=True,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=dialect.null_values,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        unique = unique_names(names)
        with open_stream() as stream, csv.open_csv(stream, convert_options=convert, **options) as reader:
            for batch in reader:
                row += batch.num_rows
                yield batch.rename_columns(unique)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        # Arrow repeats the row's text: it is left out
        text = str(error).split(": ")
        reason = next((part for part in text if part.startswith(("Expected", "invalid UTF8"))), "it cannot be parsed")
        raise SourceAccessError(
            f"no readable CSV after row {row}: {reason.split(',')[0]}",
            where=where,
            remedy="Correct the file, or its CSV options (delimiter, quote, escape, header, encoding).",
        ) from None


def text_lines(stream: Any, where: str) -> Iterator[bytes]:
    """Lines of a binary stream without their end; a byte order mark is dropped."""
    rest, first = b"", True
    while chunk := stream.read(1 << 20):
        chunk = bytes(chunk)
        if first:
            chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            raise SourceAccessError(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB", where=where)
    if rest:
        yield rest


def json_lines(open_stream: Callable[[], Any], where: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file, numbers as they were written.

    Raises:
        SourceAccessError: a line is no JSON object; its number is named, its text is not.
    """
    from assets.text_columns import json_value

    with open_stream() as stream:
        for number, line in enumerate(text_lines(stream, where), 1):
            if not line.strip():
                continue
            try:
                row = json_value(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise SourceAccessError(f"line {number} is no JSON object", where=where, remedy="Correct the file.")
            yield row


def json_rows(open_stream: Callable[[], Any], where: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file: one array of objects, one object, or objects one after the other.

    Raises:
        SourceAccessError: it is none of these.
    """
    decoder = json.JSONDecoder(parse_int=Written, parse_float=Written, parse_constant=no_constant)
    number = 0
    with open_stream() as stream:
        text, ended, in_array, separated = "", False, None, True
        utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        at, needed = 0, 1
        try:
            while True:
                if not ended and len(text) - at < needed:
                    more = bytes(stream.read(max(1 << 16, needed)))
                    ended = not more
                    text, at = text[at:] + utf8.decode(more, ended), 0
                    if len(text) > MAX_LINE_BYTES:
                        raise SourceAccessError(f"row {number + 1} is longer than 64 MiB", where=where)
                    continue
                while at < len(text) and text[at] in " \t\r\n":
                    at += 1
                if at == len(text):
                    if not ended:
                        needed = 1
                        continue
                    if in_array:
                        raise ValueError
                    return
                if in_array is None and text[at] == "[":
                    in_array, at = True, at + 1
                    continue
                in_array = bool(in_array)
                if in_array and text[at] == "]":
                    if text[at + 1 :].strip() or bytes(stream.read(1 << 16)).strip():
                        raise ValueError
                    return
                if in_array and text[at] == "," and not separated:
                    separated, at = True, at + 1
                    continue
                if in_array and not separated:
                    raise ValueError
                try:
                    row, end = decoder.raw_decode(text, at)
                    complete = ended or end < len(text)  # a number at the very end may go on
                except ValueError:
                    complete = False
                    if ended:
                        raise
                if not complete:
                    needed = 2 * max(len(text) - at, 1 << 15)  # ask for twice as much: linear over a long row
                    continue
                at, needed, separated = end, 1, False
                number += 1
                if not isinstance(row, dict):
                    raise ValueError
                yield row
        except (ValueError, RecursionError):
            raise SourceAccessError(
                f"row {number + 1} is no JSON object", where=where, remedy="Correct the file: an array of objects."
            ) from None


def chunked(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == JSON_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def csv_facts(batches: Iterator[pa.RecordBatch]) -> tuple[int, dict[str, ColumnFacts]]:
    """Rows, and what each column has shown."""
    rows, facts = 0, {}
    for batch in batches:
        rows += batch.num_rows
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            facts.setdefault(name, ColumnFacts()).observe(values)
    return rows, facts


def json_facts(rows: Iterator[dict[str, Any]]) -> tuple[int, dict[str, ColumnFacts]]:
    count, facts = 0, {}
    for chunk in chunked(rows):
        count += len(chunk)
        for name in dict.fromkeys(key for row in chunk for key in row):
            observe_json(facts.setdefault(name, ColumnFacts()), [row.get(name) for row in chunk])
    return count, facts


def typed_batch(
    columns: Sequence[Column], rows: int, column: Callable[[Column, pa.DataType], tuple[pa.Array, Unfit] | None]
) -> tuple[list[pa.Array], list[dict[str, str]] | None]:
    """The arrays of ``columns``, NULL where ``column`` gives none, and the misfits of each row if there are any."""
    import pyarrow as pa

    arrays, misfits = [], None
    for wanted in columns:
        kind = arrow_type(wanted.arrow_type)
        found = column(wanted, kind)
        if found is None:
            arrays.append(pa.nulls(rows, kind))
            continue
        arrays.append(found[0])
        for row, text in found[1].items():
            misfits = misfits or [{} for _ in range(rows)]
            misfits[row][wanted.name] = text
    return arrays, misfits


def csv_columns(batch: pa.RecordBatch, columns: Sequence[Column]) -> tuple[list[pa.Array], list[dict[str, str]] | None]:
    """A text batch under the plan's columns."""
    present = {name: i for i, name in enumerate(batch.schema.names)}

    def column(wanted: Column, kind: pa.DataType) -> tuple[pa.Array, Unfit] | None:
        if wanted.name not in present:
            return None
        return typed_column(batch.column(present[wanted.name]), kind, wanted.rule == "declared")

    return typed_batch(columns, batch.num_rows, column)


def json_columns(
    rows: list[dict[str, Any]], columns: Sequence[Column]
) -> tuple[list[pa.Array], list[dict[str, str]] | None]:
    """JSON objects under the plan's columns."""
    return typed_batch(
        columns,
        len(rows),
        lambda wanted, kind: json_column([row.get(wanted.name) for row in rows], kind, wanted.rule == "declared"),
    )
