"""One read of an endpoint's table: rows are spooled to a local file, then typed over all values."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from assets.errors import ConfigurationError
from assets.sources.interface import UNFIT_COLUMN, TableRead, count_unfit
from assets.sources.newest_rows import NewestRows
from assets.sources.rest_api import RestConnector, columns_of
from assets.sources.rest_config import Endpoint
from assets.sources.rest_filter import filtered_endpoint
from assets.sources.rest_pages import Row, normalised
from assets.sources.text_files import JSON_ROWS, json_columns
from assets.sync import Column, Watermark, WindowPlan
from assets.text_columns import ColumnFacts, json_text, json_value, observe_json
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

Place = tuple[str, int | datetime]


def table_rows(endpoint: Endpoint, page: list[Row], number: int) -> dict[str, list[Row]]:
    """A page's rows by table; nested values stay, or become tables, as the endpoint says."""
    if endpoint.nested == "json":
        return {endpoint.name: page}
    found: dict[str, list[Row]] = {}
    for offset, row in enumerate(page):
        for table, flat in normalised(endpoint.name, row, endpoint.primary_key, number + offset):
            found.setdefault(table, []).append(flat)
    return found


def place_of(value: Any) -> Place | None:
    """A cursor's value as something that has an order; None where it has none."""
    if value is None:
        return None
    text = str(value)
    try:
        return "int", int(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return "time", moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def lowered(value: str, overlap: int) -> str:
    """The value to ask from: ``overlap`` seconds or integers before the watermark, in the watermark's own form."""
    place = place_of(value)
    if place is None or not overlap:
        return value
    if isinstance(place[1], int):
        return str(place[1] - overlap)
    moment = datetime.fromisoformat(value) - timedelta(seconds=overlap)
    text = moment.isoformat(sep=" " if " " in value else "T")
    return text.replace("+00:00", "Z") if value.endswith("Z") else text


class RestRead(TableRead):
    """A full read, or the rows since a watermark. Entering it reads the API."""

    def __init__(
        self,
        connector: RestConnector,
        endpoint: Endpoint,
        table: str,
        key: Sequence[str],
        *,
        plan: WindowPlan | None = None,
        only: Sequence[str] | None = None,
        row_filter: str = "",
    ) -> None:
        self._connector, self._table = connector, table
        self._endpoint = filtered_endpoint(endpoint, row_filter) if table == endpoint.name else endpoint
        self._key, self._only = tuple(key), only
        self._previous = plan.previous if plan and plan.mode == "incremental" else None
        self._cursor = plan.cursor if plan else None
        self.low = plan.low if plan else None
        self.high: str | None = None
        self.reader = "rest"
        self.position = time.time_ns() // 1000
        self._facts: dict[str, ColumnFacts] = {}
        self._rows = self._unfit = self._future = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            folder = self._connector.home / "scratch" if self._connector.home else None
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._spool = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._newest = self._stack.enter_context(NewestRows(["k"], folder)) if self._key else None
            self._fill()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _pages(self, since: str | None) -> Iterator[list[Row]]:
        number = 0
        self._session = (reader := self._connector.reader()).session
        for page in reader.rows(self._endpoint, since):
            yield table_rows(self._endpoint, page, number).get(self._table, [])
            number += len(page)

    def _since(self) -> str | None:
        described = self._endpoint.incremental
        if described is None:
            return None
        if self._previous and self._previous.value is not None:
            return lowered(self._previous.value, described.overlap)
        return described.initial_value

    def _fill(self) -> None:
        import pyarrow as pa

        shown = self._previous.position.get("columns", {}) if self._previous else {}
        self._facts = {name: ColumnFacts.load(stored) for name, stored in shown.items()}
        places: dict[str, int] = {}
        highest: tuple[Place, str] | None = None
        for rows in self._pages(self._since()):
            for column in dict.fromkeys(name for row in rows for name in row):
                observe_json(self._facts.setdefault(column, ColumnFacts()), [row.get(column) for row in rows])
            self._spool.writelines(json_text(row).encode() + b"\n" for row in rows)
            self._rows += len(rows)
            if self._newest and rows:
                keys = [json_text([row.get(name) for name in self._key]) for row in rows]
                self._newest.add(pa.record_batch({"k": pa.array(keys, pa.string())}))
            if self._cursor:
                highest = self._look(rows, highest, places)
            if self._connector.progress:
                self._connector.progress(self._rows, self._spool.tell())
        for name in self._key:
            self._facts.setdefault(name, ColumnFacts())
        self.columns = columns_of(self._facts, self._endpoint.columns if self._table == self._endpoint.name else {})
        if self._only is not None:
            self.columns = tuple(column for column in self.columns if column.name in self._only)
        self.schema = _schema(self.columns)
        self._advance(highest)

    def _look(
        self, rows: list[Row], highest: tuple[Place, str] | None, kinds: dict[str, int]
    ) -> tuple[Place, str] | None:
        now = self._session.server_time
        for row in rows:
            value = row.get(self._cursor or "")
            place = place_of(value)
            if value is not None and place is None:
                raise ConfigurationError(
                    f"values of {self._cursor} are neither times nor integers",
                    where=f"{self._connector.name}/{self._table}",
                    remedy="Name another `incremental.field`.",
                )
            if place is None:
                continue
            kinds[place[0]] = kinds.get(place[0], 0) + 1
            if len(kinds) > 1:
                raise ConfigurationError(
                    f"values of {self._cursor} are times and integers", where=f"{self._connector.name}/{self._table}"
                )
            if isinstance(place[1], datetime) and place[1].timestamp() > (now or time.time()) + 1:
                self._future += 1
            elif highest is None or place[1] > highest[0][1]:  # type: ignore[operator]
                highest = place, str(value)
        return highest

    def _advance(self, highest: tuple[Place, str] | None) -> None:
        """The watermark never moves back, and not at all where nothing was read."""
        before = self._previous
        if before and not self._rows:
            self.watermark, self.high = before, before.value
            return
        value = highest[1] if highest else None
        old = place_of(before.value) if before else None
        if before and old and (not highest or old[1] >= highest[0][1]):  # type: ignore[operator]
            value = before.value
        self.high = value
        kind = place_of(value)
        self.watermark = Watermark(
            cursor=self._cursor,
            cursor_type=kind[0] if kind else None,
            value=value,
            position={"columns": {name: facts.dump() for name, facts in self._facts.items()}},
        )

    def _spooled(self) -> Iterator[list[Row]]:
        self._spool.seek(0)
        chunk: list[Row] = []
        for line in self._spool:
            chunk.append(json_value(line))
            if len(chunk) == JSON_ROWS:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def batches(self) -> Iterator[pa.RecordBatch]:
        rows = (_batch(chunk, self.columns, self.schema) for chunk in self._spooled())
        for batch in self._newest.filtered(rows) if self._newest else rows:
            self._unfit += count_unfit(batch.column(batch.num_columns - 1))
            yield batch

    def keys(self) -> Iterator[pa.RecordBatch]:
        by_name = {column.name: column for column in self.columns}
        columns = [by_name[name] for name in self._key]
        if self._endpoint.incremental and self._endpoint.incremental.initial_value:
            first: str | None = self._endpoint.incremental.initial_value
        else:
            first = None
        for rows in self._pages(first):
            yield _batch(rows, columns, _schema(columns)).select(list(self._key))

    def source_rows(self) -> int | None:
        if self._previous:
            return None
        return self._newest.winners() if self._newest else self._rows

    @property
    def future_rows(self) -> int:
        return self._future

    @property
    def unfit_values(self) -> int:
        return self._unfit


def _schema(columns: Sequence[Column]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*((c.name, arrow_type(c.arrow_type)) for c in columns), (UNFIT_COLUMN, pa.string())])


def _batch(rows: list[Row], columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    arrays, misfits = json_columns(rows, columns)
    texts = [json.dumps(m, ensure_ascii=False) if m else None for m in misfits] if misfits else None
    arrays.append(pa.array(texts, pa.string()) if texts else pa.nulls(len(rows), pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
