"""The seven measured failures of stock tools: each loses or doubles rows there, and must not here."""

from __future__ import annotations

import json

import pytest

from assets.lakehouse.interface import TableId
from tests.behaviour.installation import Installation

CREATE = "CREATE TABLE t (id int PRIMARY KEY, name text, updated_at timestamptz)"


def assert_equal_to_source(shop: Installation) -> None:
    assert shop.silver("public.t", ["id", "name", "updated_at"]) == shop.source_rows("SELECT * FROM t")
    assert shop.verify("public.t").equal is True


def test_m1_a_transaction_that_commits_late_with_an_older_cursor_is_loaded_once(shop: Installation) -> None:
    shop.execute(
        CREATE, "INSERT INTO t VALUES (1, 'a', now() - interval '1 hour'), (2, 'b', now() - interval '1 hour')"
    )
    shop.sync("public.t")
    with shop.connect() as late:
        late.autocommit = False
        late.execute("INSERT INTO t VALUES (4, 'late', now() - interval '10 minutes')")
        shop.execute("INSERT INTO t VALUES (3, 'c', now())")
        assert shop.sync("public.t").rows_read == 1
        late.commit()
    result = shop.sync("public.t")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 1, True)
    assert [row[0] for row in shop.bronze("public.t", ["id"])] == [1, 2, 3, 4]
    assert_equal_to_source(shop)
    assert shop.sync("public.t").rows_read == 0


def test_m1_a_late_commit_from_a_savepoint_is_loaded_once(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now() - interval '1 hour')")
    shop.sync("public.t")
    with shop.connect() as late:
        late.autocommit = False
        late.execute("SELECT 1 FROM t")
        late.execute("SAVEPOINT s")
        late.execute("INSERT INTO t VALUES (2, 'in a savepoint', now() - interval '10 minutes')")
        late.execute("RELEASE SAVEPOINT s")
        shop.execute("INSERT INTO t VALUES (3, 'c', now())")
        shop.sync("public.t")
        late.execute("SAVEPOINT s2")
        late.execute("INSERT INTO t VALUES (4, 'a later savepoint', now() - interval '9 minutes')")
        late.commit()
    assert shop.sync("public.t").rows_read == 2
    assert len(shop.bronze("public.t", ["id"])) == 4
    assert_equal_to_source(shop)


def test_m1_a_transaction_that_had_written_nothing_yet_is_loaded_once(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now() - interval '1 hour')")
    shop.sync("public.t")
    with shop.connect() as late:
        late.autocommit = False
        late.execute("SELECT now()")
        shop.execute("INSERT INTO t VALUES (2, 'b', now())")
        shop.sync("public.t")
        late.execute("INSERT INTO t VALUES (3, 'its now() is older', now())")
        late.commit()
    assert shop.sync("public.t").rows_read == 1
    assert_equal_to_source(shop)


def test_m2_rows_with_a_null_cursor_are_loaded_once(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now()), (2, 'null', NULL)")
    shop.sync("public.t")
    shop.execute("INSERT INTO t VALUES (3, 'c', now()), (4, 'null too', NULL)")
    result = shop.sync("public.t")
    assert (result.mode, result.rows_read) == ("incremental", 2)
    shop.execute("UPDATE t SET name = 'changed' WHERE id = 2")
    assert shop.sync("public.t").rows_read == 1
    assert len(shop.bronze("public.t", ["id"])) == 5
    assert_equal_to_source(shop)


def test_m3_deletes_are_found_by_keys_and_applied_softly(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'row ' || i, now() FROM generate_series(1, 10) i")
    shop.sync("public.t")
    shop.execute("DELETE FROM t WHERE id > 5")
    without = shop.sync("public.t", mode="incremental")
    assert without.equal is False
    assert "--deletes keys" in without.reason
    found = shop.verify("public.t", "keys")
    assert (found.equal, found.extra) == (False, 5)
    assert [json.loads(key) for key in found.extra_keys] == [["10"], ["6"], ["7"], ["8"], ["9"]]
    result = shop.sync("public.t", mode="incremental", deletes="keys")
    assert (result.rows_deleted, result.rows_silver, result.equal) == (5, 5, True)
    assert_equal_to_source(shop)
    assert (10, "row 10") in shop.silver("public.t", ["id", "name"], live=False)
    assert shop.verify("public.t", "keys").equal is True


def test_m4_a_changed_primary_key_leaves_no_ghost(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now())")
    shop.sync("public.t")
    shop.execute("UPDATE t SET id = 100, updated_at = now()")
    assert shop.sync("public.t", mode="incremental", deletes="keys").equal is True
    assert shop.silver("public.t", ["id"]) == [(100,)]
    assert_equal_to_source(shop)


def test_m5_a_cursor_far_in_the_future_does_not_hide_later_rows(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'future', now() + interval '10 years')")
    first = shop.sync("public.t")
    assert first.future_rows == 1
    assert first.watermark_after is None
    shop.execute("INSERT INTO t SELECT i, 'later', now() FROM generate_series(2, 5) i")
    result = shop.sync("public.t")
    assert (result.mode, result.rows_read) == ("incremental", 4)
    assert_equal_to_source(shop)
    shop.execute("INSERT INTO t VALUES (6, 'latest', now())")
    assert shop.sync("public.t").rows_read == 1
    assert len(shop.bronze("public.t", ["id"])) == 6


@pytest.mark.parametrize("mode", ["append to Bronze", "merge into Silver"])
def test_m6_a_death_after_the_commit_loads_nothing_twice(shop: Installation, mode: str) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'row', now() FROM generate_series(1, 1000) i")
    work = shop.work("public.t")
    plan = shop.steps.open_window(work)
    manifest = shop.steps.extract(work, plan, 1)
    shop.steps.commit_bronze(work, manifest)
    if mode == "merge into Silver":
        shop.steps.merge_silver(work, manifest)
    # the process dies here and the activities run again, in a process that knows nothing of the first
    again = shop.reopened()
    bronze = again.steps.commit_bronze(work, manifest)
    assert bronze.repeated
    silver = again.steps.merge_silver(work, manifest)
    result = again.steps.record(work, again.steps.verify(work, manifest, bronze, silver))
    assert (result.rows_bronze, result.rows_silver, result.equal) == (1000, 1000, True)
    shop.execute("INSERT INTO t VALUES (1001, 'new', now())")
    shop.sync("public.t")
    assert len(shop.bronze("public.t", ["id"])) == 1001
    assert_equal_to_source(shop)


def test_m6_a_run_that_died_for_good_between_bronze_and_silver_is_merged_by_the_next(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'row', now() FROM generate_series(1, 100) i")
    shop.sync("public.t")
    shop.execute("UPDATE t SET name = 'changed', updated_at = now() WHERE id <= 10", "DELETE FROM t WHERE id = 100")
    work = shop.work("public.t", deletes="keys")
    shop.steps.commit_bronze(work, shop.steps.extract(work, shop.steps.open_window(work), 1))
    shop.execute("INSERT INTO t VALUES (101, 'new', now())")
    result = shop.sync("public.t")
    assert (result.rows_read, result.equal) == (1, True)
    assert_equal_to_source(shop)


def test_m6_a_full_load_that_died_for_good_between_bronze_and_silver_is_merged_by_the_next(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'row', now() FROM generate_series(1, 100) i")
    work = shop.work("public.t")
    shop.steps.commit_bronze(work, shop.steps.extract(work, shop.steps.open_window(work), 1))
    result = shop.sync("public.t")
    assert (result.mode, result.rows_read, result.rows_silver, result.equal) == ("incremental", 0, 100, True)
    assert_equal_to_source(shop)


def test_m7_100_000_ties_on_one_cursor_value_leave_a_small_state(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'tie', '2026-01-01' FROM generate_series(1, 100000) i")
    shop.sync("public.t")
    shop.execute("INSERT INTO t SELECT i, 'tie', '2026-01-01' FROM generate_series(100001, 100010) i")
    shop.execute("INSERT INTO t VALUES (200000, 'after', '2026-01-02')")
    shop.sync("public.t")
    state = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table="public.t"))
    assert state is not None
    assert state.watermark is not None
    assert len(state.watermark.model_dump_json()) < 1000
    assert shop.sync("public.t").rows_read == 0


def test_a_sync_that_finds_nothing_new_commits_nothing(shop: Installation) -> None:
    shop.execute(CREATE, "INSERT INTO t VALUES (1, 'a', now())")
    shop.sync("public.t")
    bronze = TableId(layer="bronze", connector="shop", table="public.t")
    before = shop.steps.lakehouse.state(bronze)
    result = shop.sync("public.t")
    assert (result.rows_read, result.equal, result.watermark_after) == (0, True, result.watermark_before)
    assert shop.steps.lakehouse.state(bronze) == before
