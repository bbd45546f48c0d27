"""The source's columns change: followed, refused or set aside, by the table's policy, and said in the result."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from assets.errors import SchemaDriftError
from assets.lakehouse.databricks_sql import STATE
from assets.sync import Layer
from tests.behaviour.installation import Installation

CREATE = (
    'CREATE TABLE t (id int PRIMARY KEY, "fullName" text, n int, f real, d numeric(6, 2), v varchar(5), '
    "updated_at timestamptz)"
)
ROWS = "INSERT INTO t SELECT i, 'name ' || i, i, i / 4.0, i / 7.0, 'v' || i, now() - i * interval '1 hour' "


@pytest.fixture
def synced(shop: Installation) -> Installation:
    shop.execute(CREATE, f"{ROWS} FROM generate_series(1, 5) i")
    shop.sync("public.t")
    return shop


def stored_types(shop: Installation, layer: Layer) -> dict[str, pa.DataType]:
    """As a plain Delta reader sees them."""
    schema = DeltaTable(shop.location(layer, "public.t")).schema()
    return {field.name: field.type for field in pa.schema(schema.to_arrow())}


def files(shop: Installation, layer: Layer) -> dict[str, pa.DataType]:
    """The types in the data files themselves."""
    schema = DeltaTable(shop.location(layer, "public.t")).to_pyarrow_table().schema
    return {field.name: field.type for field in schema}


def test_an_added_column_is_stored_and_filled_where_asked(synced: Installation) -> None:
    synced.execute("ALTER TABLE t ADD COLUMN note text DEFAULT 'none'", "UPDATE t SET updated_at = now() WHERE id = 1")
    result = synced.sync("public.t")
    assert (result.mode, result.rows_read) == ("incremental", 1)
    assert result.drift == ("column note (text) was added",)
    assert synced.silver("public.t", ["id", "note"]) == [(1, "none"), *((i, None) for i in range(2, 6))]
    synced.execute("ALTER TABLE t ADD COLUMN size int DEFAULT 7")
    result = synced.sync("public.t", fill_added=True)
    assert (result.mode, result.rows_read) == ("incremental", 0)
    assert synced.silver("public.t", ["id", "size"]) == [(i, 7) for i in range(1, 6)]
    assert synced.sync("public.t").equal is True


def test_a_fill_of_a_run_that_died_before_silver_is_made_up_for(synced: Installation) -> None:
    synced.execute("ALTER TABLE t ADD COLUMN size int DEFAULT 7", "UPDATE t SET n = 0, updated_at = now() WHERE id = 1")
    work = synced.work("public.t", fill_added=True)
    synced.steps.commit_bronze(work, synced.steps.extract(work, synced.steps.open_window(work), 1))
    assert synced.sync("public.t").rows_read == 0
    assert synced.silver("public.t", ["id", "n", "size"]) == [(1, 0, 7), *((i, i, 7) for i in range(2, 6))]
    assert synced.verify("public.t").equal is True


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_a_dropped_column_stays_with_nulls(synced: Installation, mode: str) -> None:
    synced.execute("ALTER TABLE t DROP COLUMN v", "UPDATE t SET n = 100, updated_at = now() WHERE id = 1")
    result = synced.sync("public.t", mode=mode)
    assert result.drift == ("column v was dropped",)
    expected = {i: (f"v{i}" if mode == "incremental" and i > 1 else None) for i in range(1, 6)}
    assert synced.silver("public.t", ["id", "v"]) == sorted(expected.items())
    found = synced.verify("public.t")
    assert (found.equal, found.detail) == (True, "columns kept in Silver that the source no longer has: v")
    assert synced.sync("public.t").drift == ()


def test_a_renamed_column_takes_its_data_along(synced: Installation) -> None:
    synced.execute('ALTER TABLE t RENAME "fullName" TO "displayName"', "ALTER TABLE t RENAME updated_at TO modified_at")
    result = synced.sync("public.t")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 0, True)
    assert "column fullName is now called displayName" in result.drift
    assert synced.silver("public.t", ["id", "display_name"]) == [(i, f"name {i}") for i in range(1, 6)]
    assert "full_name" not in stored_types(synced, "silver")
    assert "displayName" in stored_types(synced, "bronze")
    assert synced.verify("public.t").equal is True
    synced.execute("UPDATE t SET modified_at = now() WHERE id = 2")
    assert synced.sync("public.t").rows_read == 1


def test_two_columns_that_change_places_change_places(synced: Installation) -> None:
    synced.execute("ALTER TABLE t ADD COLUMN a text DEFAULT 'was a'", "ALTER TABLE t ADD COLUMN b text DEFAULT 'was b'")
    synced.sync("public.t", mode="full")
    synced.execute("ALTER TABLE t RENAME a TO c", "ALTER TABLE t RENAME b TO a", "ALTER TABLE t RENAME c TO b")
    work = synced.work("public.t")
    synced.steps.open_window(work)  # the process dies here
    assert synced.reopened().sync("public.t").equal is True
    assert synced.silver("public.t", ["a", "b"])[0] == ("was b", "was a")
    assert synced.verify("public.t").equal is True


@pytest.mark.parametrize("write", ["merge", "scd2"])
def test_types_widen_without_a_reload(shop: Installation, write: str) -> None:
    shop.execute(CREATE, f"{ROWS} FROM generate_series(1, 5) i")
    shop.sync("public.t", write=write)
    shop.execute(
        "ALTER TABLE t ALTER n TYPE bigint, ALTER f TYPE float8, ALTER d TYPE numeric(12, 3), ALTER v TYPE varchar(50)"
    )
    before = shop.silver("public.t", ["id", "n", "f", "d", "v"])
    result = shop.sync("public.t")
    # PostgreSQL writes every row anew, and the window takes the one at its bound
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 1, True)
    assert len(result.drift) == 4
    for layer in ("bronze", "silver"):
        kinds = files(shop, layer)
        assert (kinds["n"], kinds["f"], kinds["d"]) == (pa.int64(), pa.float64(), pa.decimal128(12, 3))
    assert shop.silver("public.t", ["id", "n", "f", "d", "v"]) == before
    shop.execute("UPDATE t SET n = 1::bigint << 40, v = repeat('x', 40), updated_at = now() WHERE id = 3")
    assert shop.sync("public.t").rows_read == 1
    assert shop.verify("public.t").equal is True


def test_a_type_that_does_not_widen_reads_the_table_in_full_and_says_why(synced: Installation) -> None:
    synced.execute("ALTER TABLE t ALTER n TYPE text USING 'n' || n")
    result = synced.sync("public.t")
    assert (result.mode, result.equal) == ("full", True)
    assert "column n was integer and is now text" in result.reason
    assert synced.verify("public.t").equal is True
    assert synced.sync("public.t").mode == "incremental"


def test_a_column_dropped_and_added_again_is_another_one(synced: Installation) -> None:
    synced.execute("ALTER TABLE t DROP COLUMN v", "ALTER TABLE t ADD COLUMN v varchar(5)")
    result = synced.sync("public.t")
    assert (result.mode, result.equal) == ("full", True)
    assert "was dropped and added again" in result.reason
    assert synced.verify("public.t").equal is True


def test_a_history_is_not_thrown_away_for_a_changed_type(shop: Installation) -> None:
    shop.execute(CREATE, f"{ROWS} FROM generate_series(1, 5) i")
    shop.sync("public.t", write="scd2")
    shop.execute("ALTER TABLE t ALTER n TYPE text")
    with pytest.raises(SchemaDriftError, match="--reset"):
        shop.sync("public.t")
    assert shop.sync("public.t", reset=True).equal is True
    assert shop.verify("public.t").equal is True


def test_freeze_refuses_and_says_what_changed(synced: Installation) -> None:
    synced.execute("ALTER TABLE t ADD COLUMN note text", "ALTER TABLE t ALTER v TYPE varchar(9)")
    with pytest.raises(SchemaDriftError) as refused:
        synced.sync("public.t", drift="freeze")
    assert "column note (text) was added" in str(refused.value)
    assert "character varying(5) and is now character varying(9)" in str(refused.value)
    assert "note" not in stored_types(synced, "silver")
    assert synced.sync("public.t", drift="evolve").equal is True


def test_quarantine_keeps_the_type_and_sets_the_rows_aside_that_do_not_fit(synced: Installation) -> None:
    synced.sync("public.t", drift="quarantine")
    synced.execute(
        "ALTER TABLE t ALTER n TYPE text",
        "UPDATE t SET n = 'many', updated_at = now() WHERE id = 2",
        "UPDATE t SET n = '30', updated_at = now() WHERE id = 3",
    )
    result = synced.sync("public.t")
    assert (result.mode, result.rows_quarantined, result.equal) == ("incremental", 1, False)
    assert "quarantine table" in result.reason
    assert synced.silver("public.t", ["id", "n"]) == [(1, 1), (2, 2), (3, 30), (4, 4), (5, 5)]
    assert result.quarantine_uri is not None
    stored = DeltaTable(synced.location("quarantine", "public.t")).to_pyarrow_table().to_pylist()
    (row,) = [row for row in stored if row.get(STATE) is None]
    assert (row["table_name"], json.loads(row["key"]), row["column_name"], row["value"]) == (
        "public.t",
        ["2"],
        "n",
        "many",
    )
    synced.execute("UPDATE t SET n = '20', updated_at = now() WHERE id = 2")
    assert synced.sync("public.t").rows_quarantined == 0
    assert synced.verify("public.t").equal is True
    result = synced.sync("public.t", drift="evolve")  # take the source's type after all
    assert (result.mode, result.equal) == ("full", True)
    assert synced.verify("public.t").equal is True
