"""Many small tables in one step: proven unchanged or synced together, and as exact as with a workflow each."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import psutil
import pytest

from assets.errors import TableHeldError
from assets.lakehouse.interface import TableId
from assets.sync import Together
from assets.tables_together import TablesTogether
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from orchestration.reports import SyncReport
from tests.behaviour.installation import Installation
from tests.behaviour.worker_runs import start_worker, wait_until_frozen

TABLES = tuple(f"public.s{number}" for number in range(10))


def create(shop: Installation, tables: tuple[str, ...] = TABLES) -> None:
    for table in tables:
        shop.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, name text, updated_at timestamptz)",
            f"INSERT INTO {table} SELECT i, 'row ' || i, now() - interval '1 day' FROM generate_series(1, 50) i",
        )


@pytest.fixture
def many_in_one_step(shop: Installation) -> None:
    if not shop.steps.lakehouse.keeps_small_tables:
        pytest.skip("tables of this engine have a workflow each")


def together(shop: Installation, tables: tuple[str, ...], run_group: str = "") -> TablesTogether:
    group = run_group or uuid.uuid4().hex
    works = [shop.work(table, run_group=group) for table in tables]
    return TablesTogether(shop.steps, works, f"dataset/shop/{group}", lambda rows, size: None)


def synced(shop: Installation, tables: tuple[str, ...]) -> Together:
    done = together(shop, tables).sync(1)
    assert [(r.table, r.status, r.equal) for r in done.results] == [(table, "succeeded", True) for table in tables]
    return done


def versions(shop: Installation, table: str) -> tuple[int, int]:
    found = [shop.steps.lakehouse.state(TableId(layer=layer, connector="shop", table=table)) for layer in LAYERS]
    assert found[0] is not None and found[1] is not None
    return found[0].version, found[1].version


LAYERS = ("bronze", "silver")


def assert_equal(shop: Installation, tables: tuple[str, ...]) -> None:
    for table in tables:
        assert shop.silver(table, ["id", "name", "updated_at"]) == shop.source_rows(f"SELECT * FROM {table}")
        assert shop.verify(table).equal is True
    assert shop.staged_files() == []


@pytest.mark.usefixtures("many_in_one_step")
def test_tables_without_news_are_proven_by_their_counts_and_the_others_told_apart(shop: Installation) -> None:
    tables = TABLES[:6]
    create(shop, tables)
    synced(shop, tables[:4] + tables[5:])
    late = shop.connect()
    late.execute("BEGIN")
    late.execute("INSERT INTO s4 VALUES (60, 'commits late', now() - interval '3 days')")
    synced(shop, tables[4:5])  # its watermark is taken while that transaction is open
    late.execute("COMMIT")
    late.close()
    shop.execute(
        "UPDATE s1 SET name = 'changed', updated_at = now() WHERE id = 1",
        "DELETE FROM s2 WHERE id = 1",
        "INSERT INTO s3 VALUES (61, 'of long ago', now() - interval '9 years')",
    )
    before = {table: versions(shop, table) for table in tables}
    look = together(shop, tables).prove_unchanged()
    assert [(r.table, r.status, r.equal, r.rows_read, r.rows_silver) for r in look.results] == [
        ("public.s0", "succeeded", True, 0, 50),
        # a cursor of long ago is what only a comparison of all keys finds, as in a table's own workflow
        ("public.s5", "succeeded", True, 0, 50),
    ]
    assert set(look.small) == {"public.s1", "public.s2", "public.s3", "public.s4"} and look.left == ()
    assert {table: versions(shop, table) for table in tables} == before
    runs = {run.table: run for run in shop.steps.catalog.latest_table_runs("shop")}
    assert (runs["public.s0"].mode, runs["public.s0"].equal, runs["public.s0"].rows_read) == ("incremental", True, 0)

    done = {result.table: result for result in together(shop, look.small).sync(1).results}
    assert {table: (r.rows_read, r.equal) for table, r in done.items()} == {
        "public.s1": (1, True),
        "public.s2": (0, False),
        "public.s3": (0, False),
        "public.s4": (1, True),
    }
    assert_equal(shop, ("public.s0", "public.s1", "public.s4", "public.s5"))


@pytest.mark.usefixtures("many_in_one_step")
def test_a_table_that_fails_is_left_to_its_own_workflow_and_the_others_go_on(shop: Installation) -> None:
    tables = TABLES[:4]
    create(shop, tables)
    shop.execute("ALTER TABLE s1 ADD COLUMN fails int", "DROP TABLE s2")
    shop.execute("CREATE VIEW fails AS SELECT 1 / (random() * 0)::int AS one")
    done = together(shop, (*tables, "public.fails")).sync(1)
    assert [result.table for result in done.results] == ["public.s0", "public.s1", "public.s3"]
    assert set(done.left) == {"public.s2", "public.fails"}
    shop.steps.catalog.begin_table_run(shop.work("public.s2", run_group=runs_of(shop, "public.s2")), "sync/shop/s2")


def runs_of(shop: Installation, table: str) -> str:
    return shop.steps.catalog.table_runs("shop", table)[0].run_group


@pytest.mark.usefixtures("many_in_one_step")
def test_a_claimed_table_is_nobody_elses_and_a_table_that_is_held_is_not_claimed(shop: Installation) -> None:
    create(shop, TABLES[:2])
    first = [shop.work(table, run_group="first") for table in TABLES[:2]]
    assert shop.steps.catalog.claim_tables(first, "dataset/shop/first") == (set(TABLES[:2]), [])
    with pytest.raises(TableHeldError):
        shop.steps.open_window(shop.work(TABLES[0], run_group="second"), f"sync/shop/{TABLES[0]}")
    done = together(shop, TABLES[:2], "third").sync(1)
    assert (done.results, set(done.left)) == ((), set(TABLES[:2]))
    assert [run.status for run in shop.steps.catalog.table_runs("shop", TABLES[0])] == ["running"]
    assert shop.steps.catalog.reconcile(lambda workflow_id: None) >= 2  # the holder is gone
    synced(shop, TABLES[:2])
    assert_equal(shop, TABLES[:2])


@pytest.mark.usefixtures("many_in_one_step")
@pytest.mark.parametrize("followed", [False, True], ids=["done by another", "done and followed by another run"])
@pytest.mark.parametrize("kind", ["first", "later", "full"])
def test_an_attempt_that_was_taken_for_dead_and_goes_on_changes_nothing(
    shop: Installation, kind: str, followed: bool
) -> None:
    tables = TABLES[:3]
    options = {"mode": "full"} if kind == "full" else {"deletes": "keys"}
    create(shop, tables)
    if kind != "first":
        synced(shop, tables)
    news = [f"UPDATE {table} SET name = 'new', updated_at = now() WHERE id <= 20" for table in tables]
    shop.execute(*news, "INSERT INTO s2 VALUES (60, 'new', now())")
    work = [shop.work(table, run_group="taken-over", **options) for table in tables]
    found: list[object] = []

    def stored() -> list[object]:
        return [(versions(shop, table), shop.bronze(table, ["id", "name", "_headrace_run"])) for table in tables]

    def meanwhile(rows: int, size: int) -> None:
        if found:
            return
        other = shop.reopened()
        second = TablesTogether(other.steps, work, "dataset/shop/taken-over", lambda rows, size: None).sync(2)
        assert [result.status for result in second.results] == ["succeeded"] * 3
        if followed:
            shop.execute(*(f"UPDATE {table} SET name = 'newest', updated_at = now()" for table in tables))
            shop.execute("DELETE FROM s2 WHERE id > 40")
            later = [shop.work(table, run_group="later", **options) for table in tables]
            third = TablesTogether(other.steps, later, "dataset/shop/later", lambda rows, size: None).sync(1)
            assert [result.equal for result in third.results] == [True] * 3
        found.append(stored())

    TablesTogether(shop.steps, work, "dataset/shop/taken-over", meanwhile).sync(1)
    assert stored() == found[0]
    statuses = {run.status for run in shop.steps.catalog.table_runs("shop")}
    assert statuses == {"succeeded"}
    shop.execute(*(f"INSERT INTO {table} VALUES (70, 'last', now())" for table in tables))
    synced(shop, tables)
    assert_equal(shop, tables)


KILLS = ("during_extract", "after_bronze_commit", "before_record", "after_record_before_cleanup")


def test_a_worker_that_dies_among_small_tables_leaves_each_committed_once_and_equal(
    crashing: Installation, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine != "local":
        pytest.skip("tables of this engine have a workflow each")
    create(crashing)
    monkeypatch.setenv("HEADRACE_FAILPOINTS", ",".join(f"{name}=kill" for name in KILLS))
    with LocalStack(crashing.settings).start(temporal=True, worker=True, dagster=False):
        hr = Headrace(home=crashing.settings.home_path)
        report = hr.sync("shop", TABLES)
        assert_done(report, "full")
        assert {path.name for path in (tmp_path / "fired").iterdir()} == set(KILLS)
        for table in TABLES:
            assert versions(crashing, table) == (0, 0)
        assert_equal(crashing, TABLES)
        assert_done(hr.sync("shop", TABLES), "incremental")
        assert {versions(crashing, table) for table in TABLES} == {(0, 0)}
    rows = crashing.steps.catalog.table_runs("shop")
    assert [row.status for row in rows] == ["succeeded"] * 2 * len(TABLES)


def assert_done(report: SyncReport, mode: str) -> None:
    found = [(t.table, t.status, t.mode, t.equal) for t in report.tables]
    assert found == [(table, "succeeded", mode, True) for table in TABLES]


FREEZES = (
    "during_extract",
    *(
        pytest.param(point, marks=pytest.mark.slow)
        for point in ("after_open_window", "before_bronze_commit", "before_silver_commit", "before_record")
    ),
)


@pytest.mark.parametrize("point", FREEZES)
def test_a_frozen_worker_that_wakes_after_its_small_tables_were_synced_and_followed_changes_nothing(
    crashing: Installation, engine: str, point: str, tmp_path: Path
) -> None:
    if engine != "local":
        pytest.skip("tables of this engine have a workflow each")
    create(crashing)
    hr = Headrace(home=crashing.settings.home_path)
    workers: list[psutil.Popen] = []
    with LocalStack(crashing.settings).start(worker=False) as stack:
        try:
            frozen = start_worker(stack, tmp_path / "frozen.log", HEADRACE_FAILPOINTS=f"{point}=freeze")
            workers.append(frozen)
            hr.sync("shop", TABLES, wait=False)
            wait_until_frozen(frozen, crashing.settings.home_path)
            workers.append(start_worker(stack, tmp_path / "second.log"))
            (first,) = hr.runs()
            assert first.wait(90).status == "succeeded"
            for table in TABLES:
                crashing.execute(
                    f"UPDATE {table} SET name = 'changed', updated_at = now() WHERE id <= 30",
                    f"DELETE FROM {table} WHERE id > 45",
                )
            assert_done(hr.sync("shop", TABLES, deletes="keys"), "incremental")
            before = {table: versions(crashing, table) for table in TABLES}
            bronze = {table: crashing.bronze(table, ["id", "name", "_headrace_run"]) for table in TABLES}

            frozen.resume()
            time.sleep(6)  # it wakes, and goes on with the tables that were its own
            assert frozen.is_running()
            assert {table: versions(crashing, table) for table in TABLES} == before
            assert {t: crashing.bronze(t, ["id", "name", "_headrace_run"]) for t in TABLES} == bronze
            runs = crashing.steps.catalog.table_runs("shop")
            assert [run.status for run in runs] == ["succeeded"] * 2 * len(TABLES)
            for table in TABLES:
                crashing.execute(f"INSERT INTO {table} VALUES (70, 'last', now())")
            assert_done(hr.sync("shop", TABLES, deletes="keys"), "incremental")
            assert_equal(crashing, TABLES)
        finally:
            for worker in workers:
                worker.resume()
                worker.kill()
                worker.wait(10)
