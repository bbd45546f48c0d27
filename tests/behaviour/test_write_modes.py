"""The four ways to keep Silver: incremental, repeated, after a death between Bronze and Silver, and verified."""

from __future__ import annotations

import pytest

from tests.behaviour.installation import Installation

CREATE = "CREATE TABLE t (id int PRIMARY KEY, name text, updated_at timestamptz)"
VERSIONS = ["id", "name", "_headrace_is_current"]


@pytest.fixture
def three_rows(shop: Installation) -> Installation:
    shop.execute(CREATE, "INSERT INTO t SELECT i, 'a' || i, now() - interval '1 hour' FROM generate_series(1, 3) i")
    return shop


def change(shop: Installation) -> None:
    shop.execute(
        "UPDATE t SET name = 'b1', updated_at = now() WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (4, 'a4', now())",
    )


def dies_after_bronze(shop: Installation, **options: object) -> None:
    work = shop.work("public.t", **options)
    shop.steps.commit_bronze(work, shop.steps.extract(work, shop.steps.open_window(work), 1))


AFTER_CHANGE = [(1, "a1", False), (1, "b1", True), (2, "a2", False), (3, "a3", True), (4, "a4", True)]


def assert_one_unbroken_history(shop: Installation) -> None:
    """One current version a key at most; versions of a key neither overlap nor end before they began."""
    rows = shop.silver(
        "public.t", ["id", "_headrace_valid_from", "_headrace_valid_to", "_headrace_is_current"], live=False
    )
    for key in {row[0] for row in rows}:
        versions = sorted(row[1:] for row in rows if row[0] == key)
        assert sum(current for *_, current in versions) <= 1
        for (start, end, current), later in zip(versions, [*versions[1:], None], strict=True):
            assert (end is None) == current
            assert end is None or end > start
            assert later is None or (end is not None and end <= later[0])


def test_scd2_keeps_every_version_and_closes_those_that_ended(three_rows: Installation) -> None:
    assert three_rows.sync("public.t", write="scd2").equal is True
    change(three_rows)
    result = three_rows.sync("public.t", deletes="keys")  # the table says itself how it is kept
    assert (result.mode, result.write, result.rows_silver, result.equal) == ("incremental", "scd2", 3, True)
    assert three_rows.silver("public.t", VERSIONS, live=False) == AFTER_CHANGE
    for level in ("counts", "keys", "values"):
        assert three_rows.verify("public.t", level).equal is True  # type: ignore[arg-type]
    again = three_rows.sync("public.t", mode="full")  # nothing changed: no version begins
    assert again.equal is True
    assert three_rows.silver("public.t", VERSIONS, live=False) == AFTER_CHANGE
    three_rows.execute("DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (2, 'back', now())")
    assert three_rows.sync("public.t", mode="full").equal is True  # a full read tells deletes by itself
    closed = [(3, "a3", False)]
    expected = [row for row in AFTER_CHANGE if row[0] != 3] + closed + [(2, "back", True)]
    assert three_rows.silver("public.t", VERSIONS, live=False) == sorted(expected, key=repr)
    assert_one_unbroken_history(three_rows)


@pytest.mark.parametrize("when", ["first load", "change"])
def test_scd2_of_a_run_that_died_before_silver_is_the_same(three_rows: Installation, when: str) -> None:
    if when == "first load":
        dies_after_bronze(three_rows, write="scd2")
    else:
        three_rows.sync("public.t", write="scd2")
        change(three_rows)
        dies_after_bronze(three_rows, deletes="keys")
    assert three_rows.sync("public.t").equal is True
    expected = AFTER_CHANGE if when == "change" else [(i, f"a{i}", True) for i in (1, 2, 3)]
    assert three_rows.silver("public.t", VERSIONS, live=False) == expected
    assert_one_unbroken_history(three_rows)
    assert three_rows.verify("public.t").equal is True


def test_scd2_repeats_its_merge_without_a_second_version(three_rows: Installation) -> None:
    three_rows.sync("public.t", write="scd2")
    change(three_rows)
    work = three_rows.work("public.t", deletes="keys")
    manifest = three_rows.steps.extract(work, three_rows.steps.open_window(work), 1)
    three_rows.steps.commit_bronze(work, manifest)
    three_rows.steps.merge_silver(work, manifest)
    assert three_rows.reopened().steps.merge_silver(work, manifest).repeated
    assert three_rows.silver("public.t", VERSIONS, live=False) == AFTER_CHANGE


def test_append_keeps_every_change_and_needs_no_key(shop: Installation) -> None:
    shop.execute("CREATE TABLE t (id int, name text)", "INSERT INTO t SELECT i, 'a' || i FROM generate_series(1, 3) i")
    assert shop.sync("public.t", write="append").equal is True
    shop.execute("INSERT INTO t VALUES (1, 'a1'), (4, 'a4')", "UPDATE t SET name = 'b2' WHERE id = 2")
    result = shop.sync("public.t")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 3, True)
    kept = [(1, "a1"), (1, "a1"), (2, "a2"), (2, "b2"), (3, "a3"), (4, "a4")]
    assert shop.silver("public.t", ["id", "name"]) == kept
    assert shop.verify("public.t").equal is True
    assert shop.sync("public.t", mode="full").equal is True  # what is there is not added again
    assert shop.silver("public.t", ["id", "name"]) == kept
    shop.execute("INSERT INTO t VALUES (5, 'unseen')")
    assert shop.verify("public.t").equal is False


def test_append_with_a_key_compares_the_newest_version_and_notes_deletes_once(three_rows: Installation) -> None:
    three_rows.sync("public.t", write="append")
    change(three_rows)
    dies_after_bronze(three_rows, deletes="keys")
    for _ in range(2):
        assert three_rows.sync("public.t", deletes="keys").rows_deleted == 0
    rows = three_rows.silver("public.t", ["id", "name"], live=False)
    assert rows == [(1, "a1"), (1, "b1"), (2, "a2"), (2, None), (3, "a3"), (4, "a4")]
    for level in ("counts", "keys", "values"):
        assert three_rows.verify("public.t", level).equal is True  # type: ignore[arg-type]
    assert three_rows.sync("public.t", mode="full").equal is True
    assert three_rows.silver("public.t", ["id", "name"], live=False) == rows


def test_replace_is_exactly_the_last_full_read(three_rows: Installation) -> None:
    three_rows.sync("public.t", write="replace")
    change(three_rows)
    result = three_rows.sync("public.t")
    assert (result.mode, result.rows_read, result.equal) == ("full", 3, True)
    assert three_rows.silver("public.t", ["id", "name"], live=False) == [(1, "b1"), (3, "a3"), (4, "a4")]


def test_another_way_to_keep_silver_reads_the_table_in_full_and_says_so(three_rows: Installation) -> None:
    three_rows.sync("public.t")
    result = three_rows.sync("public.t", write="scd2")
    assert (result.mode, result.reason) == ("full", "Silver is kept as scd2 now, it was merge")
    assert three_rows.silver("public.t", VERSIONS) == [(i, f"a{i}", True) for i in (1, 2, 3)]
    assert three_rows.sync("public.t").mode == "incremental"
