"""Rows of runs: idempotent, and terminal in the end whatever happened."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from assets.catalog.store import Catalog
from assets.errors import NotFoundError
from assets.sync import TableResult, TableSync


def work(table: str = "public.t", run_group: str = "run1", **options: object) -> TableSync:
    return TableSync(connector="shop", table=table, run_group=run_group, **options)  # type: ignore[arg-type]


def result(table: str = "public.t", status: str = "succeeded", **fields: object) -> TableResult:
    return TableResult(connector="shop", table=table, status=status, **fields)  # type: ignore[arg-type]


def nothing_runs(workflow_id: str) -> None:
    return None


def test_steps_that_are_repeated_leave_one_row(catalog: Catalog) -> None:
    full = result(
        mode="full",
        key=("id",),
        rows_read=2**40,
        rows_bronze=3,
        rows_silver=2,
        equal=True,
        window_low="a",
        window_high="b",
        watermark_after="b",
        bytes=7,
        completed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    for _ in range(2):
        catalog.begin_run("run1", "shop", tables=["public.t"], workflow_id="dataset/1")
        catalog.begin_table_run(work(), "sync/shop/public.t")
    for _ in range(2):
        catalog.end_table_run(full, work())
    (row,) = catalog.table_runs("shop", "public.t")
    assert (row.status, row.rows_read, row.equal, row.window_high) == ("succeeded", 2**40, True, "b")
    assert (row.workflow_id, row.completed_at) == ("sync/shop/public.t", datetime(2026, 1, 1, tzinfo=UTC))
    assert row.result == full
    run = catalog.run("run1")
    assert (run.status, run.workflow_id, run.table_runs) == ("succeeded", "dataset/1", (row,))
    assert catalog.last_table_run("shop", "public.t") == row


def test_a_run_ends_with_its_last_table_and_fails_with_any(catalog: Catalog) -> None:
    catalog.begin_run("run1", "shop", "nightly", "schedule", ["public.a", "public.b", "public.c"])
    catalog.end_table_run(result("public.a"), work("public.a"))
    catalog.end_table_run(result("public.b", "failed", error="broken", error_type="X"), work("public.b"))
    assert catalog.run("run1").status == "running"
    catalog.end_table_run(result("public.c", "skipped"), work("public.c"))
    run = catalog.run("run1")
    assert (run.status, run.error, run.pipeline, run.trigger) == (
        "failed",
        "1 of 3 tables failed",
        "nightly",
        "schedule",
    )
    assert run.completed_at is not None
    assert catalog.runs(pipeline="nightly") == [run]
    assert catalog.runs(open_only=True) == []


def test_a_table_that_is_tried_again_reopens_its_run(catalog: Catalog) -> None:
    catalog.end_table_run(result(status="failed", error="broken"), work())
    assert catalog.run("run1").status == "failed"
    catalog.begin_table_run(work(), "wf")
    assert (catalog.run("run1").status, catalog.table_runs("shop")[0].error) == ("running", None)
    catalog.end_table_run(result(), work())
    assert (catalog.run("run1").status, catalog.run("run1").error) == ("succeeded", None)


def test_a_success_is_not_undone_by_a_late_failure(catalog: Catalog) -> None:
    catalog.end_table_run(result(rows_read=5), work())
    catalog.end_table_run(result(status="failed", error="late"), work())
    catalog.begin_table_run(work(), "wf")
    (row,) = catalog.table_runs("shop")
    assert (row.status, row.rows_read, row.error) == ("succeeded", 5, None)
    assert catalog.run("run1").status == "succeeded"


def test_the_next_sync_of_a_table_closes_what_an_earlier_one_left(catalog: Catalog) -> None:
    catalog.begin_table_run(work(run_group="run1"), "wf")
    catalog.begin_table_run(work("public.other", run_group="run1"), "wf2")
    catalog.begin_table_run(work(run_group="run2"), "wf")
    left, other = sorted(catalog.run("run1").table_runs, key=lambda row: row.table, reverse=True)
    assert (left.table, left.status, left.error_type) == ("public.t", "failed", "Abandoned")
    assert other.status == "running"
    assert catalog.run("run2").status == "running"


def test_reconcile_closes_rows_whose_workflow_is_gone_and_leaves_the_others(catalog: Catalog) -> None:
    catalog.begin_run("run1", "shop", tables=["public.a"], workflow_id="dataset/1")
    catalog.begin_table_run(work("public.a", "run1"), "wf-a")
    catalog.begin_run("run2", "shop", tables=["public.b"], workflow_id="dataset/2")
    catalog.begin_table_run(work("public.b", "run2"), "wf-b")
    status = {"wf-a": "running", "dataset/1": "running", "wf-b": "terminated", "dataset/2": "terminated"}
    assert catalog.reconcile(status.get) == 2
    assert (catalog.run("run1").status, catalog.run("run2").status) == ("running", "failed")
    (row,) = catalog.table_runs("shop", "public.b")
    assert (row.status, row.error_type) == ("failed", "Abandoned") and row.completed_at
    assert catalog.reconcile(status.get) == 0


def test_reconcile_closes_a_run_whose_tables_never_began(catalog: Catalog) -> None:
    catalog.begin_run("run1", "shop", tables=["public.a", "public.b"], workflow_id="dataset/1")
    assert catalog.reconcile(nothing_runs) == 0, "it may be starting just now"
    assert catalog.reconcile(nothing_runs, abandoned_after=timedelta(0)) == 1
    run = catalog.run("run1")
    assert run.status == "failed"
    assert {row.table: row.status for row in run.table_runs} == {"public.a": "failed", "public.b": "failed"}


def test_reconcile_gives_a_run_without_a_named_workflow_more_time(catalog: Catalog) -> None:
    catalog.begin_run("run1", "shop", tables=["public.a"], dagster_run_id="d1")
    assert catalog.reconcile(nothing_runs) == 0
    catalog.begin_table_run(work("public.a"), "wf")
    assert catalog.reconcile({"wf": "running"}.get) == 0
    assert catalog.reconcile(nothing_runs) == 2
    assert catalog.run("run1").status == "failed"


def test_reconcile_closes_nothing_when_temporal_cannot_be_asked(catalog: Catalog) -> None:
    catalog.begin_table_run(work(), "wf")

    def unreachable(workflow_id: str) -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        catalog.reconcile(unreachable)
    assert catalog.run("run1").status == "running"


def test_end_run_closes_what_is_left(catalog: Catalog) -> None:
    catalog.begin_run("run1", "shop", tables=["public.a", "public.b"])
    catalog.end_table_run(result("public.a"), work("public.a"))
    catalog.end_run("run1", "terminated by an operator")
    run = catalog.run("run1")
    assert (run.status, run.error) == ("failed", "terminated by an operator")
    assert {row.table: row.status for row in run.table_runs} == {"public.a": "succeeded", "public.b": "failed"}
    with pytest.raises(NotFoundError):
        catalog.end_run("run9")


def test_many_tables_that_end_at_once_close_their_run(catalog: Catalog) -> None:
    tables = [f"public.t{number}" for number in range(8)]
    catalog.begin_run("run1", "shop", tables=tables)
    errors: list[BaseException] = []

    def one_table(table: str) -> None:
        try:
            catalog.begin_table_run(work(table), table)
            catalog.end_table_run(result(table), work(table))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one_table, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert catalog.run("run1").status == "succeeded"


def test_the_latest_run_of_each_table(catalog: Catalog) -> None:
    catalog.end_table_run(result("public.a"), work("public.a", "run1"))
    catalog.end_table_run(result("public.a", "failed", error="x"), work("public.a", "run2"))
    catalog.end_table_run(result("public.b"), work("public.b", "run1"))
    latest = [(row.table, row.run_group, row.status) for row in catalog.latest_table_runs("shop")]
    assert latest == [("public.a", "run2", "failed"), ("public.b", "run1", "succeeded")]
    assert catalog.latest_table_runs("other") == []
    succeeded = catalog.last_table_run("shop", "public.a")
    assert succeeded is not None and succeeded.run_group == "run1"


def test_a_run_that_is_skipped_beside_another_one_hides_neither_it_nor_what_it_proves(catalog: Catalog) -> None:
    catalog.begin_table_run(work(run_group="run1"), "sync/shop/public.t")
    catalog.end_table_run(result(status="skipped", reason="another sync goes on"), work(run_group="run2"))
    during = catalog.table_state("shop", "public.t")
    assert during is not None and (during.status, during.run_group, during.health) == ("running", "run1", "syncing")
    catalog.end_table_run(result(rows_silver=5, equal=True), work(run_group="run1"))
    after = catalog.table_state("shop", "public.t")
    assert after is not None
    assert (after.status, after.run_group, after.rows, after.equal) == ("succeeded", "run1", 5, True)
    catalog.end_table_run(result(status="skipped", reason="too late"), work(run_group="run3"))
    later = catalog.table_state("shop", "public.t")
    assert later is not None and (later.status, later.rows, later.equal) == ("skipped", 5, True)


def test_a_run_that_ends_after_one_that_started_later_still_shows_what_it_proved(catalog: Catalog) -> None:
    catalog.begin_table_run(work(run_group="run1"), "sync/shop/public.t")
    catalog.begin_run("run2", "shop", tables=["public.t"])
    catalog.begin_table_run(work(run_group="run2"), "sync/shop/public.t")
    catalog.end_table_run(result(status="skipped", reason="another sync goes on"), work(run_group="run2"))
    catalog.end_table_run(result(rows_silver=5, equal=True), work(run_group="run1"))
    state = catalog.table_state("shop", "public.t")
    assert state is not None and (state.run_group, state.rows, state.equal) == ("run2", 5, True)
    catalog.begin_table_run(work(run_group="run3"), "sync/shop/public.t")
    catalog.end_table_run(result(rows_silver=6, equal=True), work(run_group="run3"))
    late = result(rows_silver=4, equal=False)
    catalog.end_table_run(late, work(run_group="run2"))
    state = catalog.table_state("shop", "public.t")
    assert state is not None and (state.rows, state.equal) == (6, True), "what a later run proved stays"
