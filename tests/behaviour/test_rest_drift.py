"""Columns of a JSON API that change: known by reading only, and under the table's policy all the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assets.errors import ConfigurationError, SchemaDriftError
from tests.behaviour.source_installation import SourceInstallation
from tests.servers.rest_server import RestServer, stamp

START = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG: dict[str, Any] = {
    "paginator": {"type": "json_link"},
    "endpoints": [
        {
            "name": "orders",
            "path": "json/orders",
            "primary_key": ["id"],
            "incremental": {"field": "updated_at", "start_param": "since"},
        }
    ],
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[RestServer]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with RestServer() as server:
        server.tables["orders"] = [row(i, v=i) for i in range(5)]
        yield server


@pytest.fixture
def source(api: RestServer, tmp_path: Path) -> SourceInstallation:
    return SourceInstallation(tmp_path / "home", "rest_api", CONFIG | {"base_url": api.url})


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"id": number, "updated_at": stamp(START + timedelta(hours=number)), **values}


def test_evolve_adds_columns_and_reads_in_full_what_the_stored_type_cannot_take(
    api: RestServer, source: SourceInstallation
) -> None:
    source.sync("api.orders")
    api.tables["orders"].append(row(5, v=5, note="new"))
    added = source.sync("api.orders")
    assert (added.mode, added.drift, added.equal) == ("incremental", ("column note (json) was added",), None)
    for value, told in ((1.5, "column v was int64 and is now decimal128(38, 1)"), ("x", "is now string")):
        api.tables["orders"].append(row(len(api.tables["orders"]), v=value))
        changed = source.sync("api.orders")
        assert (changed.mode, changed.equal) == ("full", True)
        assert told in changed.reason
        assert told in changed.drift[0]
    assert source.verify("api.orders").equal
    quiet = source.sync("api.orders")
    assert (quiet.mode, quiet.drift) == ("incremental", ())

    for stored in api.tables["orders"]:
        stored.pop("note", None)
    dropped = source.sync("api.orders", mode="full")
    assert dropped.drift == ("column note was dropped",)
    assert {note for (note,) in source.silver("api.orders", "note")} == {None}
    api.tables["orders"].append(row(20, v="y", note="back"))
    assert source.sync("api.orders").mode == "incremental"
    assert source.silver("api.orders", "id", "note")[-1] == (7, None)
    assert (20, "back") in source.silver("api.orders", "id", "note")
    assert source.verify("api.orders").equal


def test_a_history_is_not_thrown_away_for_a_changed_type(api: RestServer, source: SourceInstallation) -> None:
    source.sync("api.orders", write="scd2")
    api.tables["orders"].append(row(5, v="x"))
    with pytest.raises(SchemaDriftError, match=r"(?s)v was int64 and is now string.*versions"):
        source.sync("api.orders")
    assert source.sync("api.orders", reset=True).equal


def test_freeze_refuses_and_says_what_changed(api: RestServer, source: SourceInstallation) -> None:
    source.sync("api.orders", drift="freeze")
    api.tables["orders"].append(row(5, v=5))
    assert source.sync("api.orders").rows_silver == 6
    api.tables["orders"].append(row(6, v=1.5, note="new"))
    for mode in ("auto", "full"):
        with pytest.raises(SchemaDriftError, match=r"v was int64 and is now decimal.*column note .* was added"):
            source.sync("api.orders", mode=mode)
    assert len(source.silver("api.orders", "id")) == 6
    assert source.sync("api.orders", drift="evolve").equal


def test_quarantine_keeps_the_type_and_sets_the_rows_aside_that_do_not_fit(
    api: RestServer, source: SourceInstallation
) -> None:
    source.sync("api.orders", drift="quarantine")
    api.tables["orders"] += [row(5, v="x"), row(6, v="7")]
    result = source.sync("api.orders")
    assert (result.mode, result.rows_quarantined, result.equal) == ("incremental", 1, False)
    assert {c.name: c.arrow_type for c in result.columns}["v"] == "int64"
    assert source.silver("api.orders", "id", "v")[-2:] == [(4, 4), (6, 7)]
    whole = source.sync("api.orders", mode="full")
    assert (whole.rows_quarantined, whole.equal) == (1, False)
    api.tables["orders"][5]["v"] = 50
    assert source.sync("api.orders", mode="full").equal
    assert source.verify("api.orders").equal


def test_a_row_filter_serves_and_one_that_no_row_can_answer_is_named(
    api: RestServer, source: SourceInstallation
) -> None:
    assert source.sync("api.orders", row_filter="v >= 2").rows_silver == 3
    api.tables["orders"] += [row(5, v=0), row(6, v=9)]
    assert source.sync("api.orders").rows_silver == 4
    assert source.verify("api.orders").equal
    api.tables["orders"].append(row(7, v="x"))
    with pytest.raises(ConfigurationError, match=r"(?s)column v is text.*number"):
        source.sync("api.orders")
