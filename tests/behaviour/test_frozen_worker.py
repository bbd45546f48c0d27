"""A worker that is frozen while another one does its work, and then goes on, changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from assets.lakehouse.interface import TableId
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation
from tests.behaviour.worker_runs import start_worker, wait_until_frozen

TABLE = "public.t"
POINTS = (
    "before_bronze_commit",
    *(
        pytest.param(point, marks=pytest.mark.slow)
        for point in ("during_extract", "after_manifest", "before_silver_commit", "before_record")
    ),
)


@pytest.mark.parametrize("point", POINTS)
def test_a_frozen_worker_that_wakes_after_its_work_was_done_and_followed_changes_nothing(
    crashing: Installation, point: str, tmp_path: Path
) -> None:
    shop, hr = crashing, Headrace(home=crashing.settings.home_path)
    workers: list[psutil.Popen] = []
    with LocalStack(shop.settings).start(worker=False) as stack:
        try:
            frozen = start_worker(stack, tmp_path / "frozen.log", HEADRACE_FAILPOINTS=f"{point}=freeze")
            workers.append(frozen)
            hr.sync("shop", [TABLE], wait=False)
            wait_until_frozen(frozen, shop.settings.home_path)
            workers.append(start_worker(stack, tmp_path / "second.log"))
            (first,) = hr.runs()
            assert first.wait(90).status == "succeeded"
            shop.execute(
                "UPDATE t SET name = 'changed', updated_at = now() WHERE id <= 300", "DELETE FROM t WHERE id > 4900"
            )
            (second,) = hr.sync("shop", [TABLE], deletes="keys").tables
            assert (second.status, second.mode, second.equal) == ("succeeded", "incremental", True)
            before = versions(shop)

            frozen.resume()
            time.sleep(6)  # it wakes, goes on where it was, and hears that its work is not its own any more
            assert frozen.is_running()
            assert versions(shop) == before
            assert [run.status for run in shop.steps.catalog.table_runs("shop", TABLE)] == ["succeeded", "succeeded"]
            assert shop.silver(TABLE, ["id", "name", "price", "updated_at"]) == shop.source_rows("SELECT * FROM t")
            assert shop.verify(TABLE).equal is True
            (third,) = hr.sync("shop", [TABLE], deletes="keys").tables
            assert (third.status, third.equal) == ("succeeded", True)
            assert shop.staged_files() == []
        finally:
            for worker in workers:
                worker.resume()
                worker.kill()
                worker.wait(10)


def versions(shop: Installation) -> list[tuple[int, int, tuple[str, ...]]]:
    found = []
    for layer in ("bronze", "silver"):
        state = shop.steps.lakehouse.state(TableId(layer=layer, connector="shop", table=TABLE))  # type: ignore[arg-type]
        assert state is not None
        found.append((state.version, state.rows, tuple(state.tags)))
    return found
