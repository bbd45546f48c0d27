"""Chunks of a large table on several workers, and a worker that is told to end while it reads one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation
from tests.behaviour.test_chunked_reads import COLUMNS, ROWS, TABLE, assert_equal, filled
from tests.behaviour.worker_runs import activity_tries, start_worker, wait_until_frozen

Start = Callable[..., psutil.Popen]


@pytest.fixture
def big(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Installation:
    for name, value in {
        "HEADRACE_HOME": str(tmp_path / "home"),
        "HEADRACE_FAILPOINTS_FIRED": str(tmp_path / "fired"),
        "HEADRACE_CHUNK_MB": "1",
        "HEADRACE_SYNC_CONCURRENCY": "1",  # one chunk at a time a worker
    }.items():
        monkeypatch.setenv(name, value)
    return filled(Installation(tmp_path / "home", postgres, database(), chunk_mb=1))


@pytest.fixture
def stack(big: Installation) -> Iterator[LocalStack]:
    with LocalStack(big.settings).start(worker=False) as stack:
        yield stack


@pytest.fixture
def start(stack: LocalStack, tmp_path: Path) -> Iterator[Start]:
    workers: list[psutil.Popen] = []

    def start(**environment: str) -> psutil.Popen:
        log = tmp_path / f"worker-{len(workers)}.log"
        workers.append(start_worker(stack, log, grace_seconds=30, **environment))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.is_running():
            worker.kill()
            worker.wait(10)


def slot(worker: psutil.Popen) -> str:
    return f"{worker.pid}@"


def test_several_workers_read_the_chunks_of_one_table_in_one_snapshot(
    big: Installation, stack: LocalStack, start: Start
) -> None:
    workers = [start(), start()]
    hr = Headrace(home=big.settings.home_path)
    (result,) = hr.sync("shop", [TABLE]).tables
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ROWS)
    chunks = activity_tries(stack.temporal_address, str(result.workflow_id))["extract_chunk"]
    assert len(chunks) >= 4
    for worker in workers:
        assert [attempt for identity, attempt in chunks if identity.startswith(slot(worker))], "each read its share"
    assert {attempt for _, attempt in chunks} == {1}
    assert_equal(big)


def test_a_worker_that_is_told_to_end_finishes_its_chunk_and_another_one_goes_on_with_nothing_redone(
    big: Installation, stack: LocalStack, start: Start
) -> None:
    first = start(HEADRACE_FAILPOINTS="during_chunk=freeze")
    hr = Headrace(home=big.settings.home_path)
    hr.sync("shop", [TABLE], wait=False)
    wait_until_frozen(first, big.settings.home_path)
    first.terminate()  # it hears of it in the middle of a chunk
    second = start()
    first.resume()
    assert first.wait(60) == 0
    (running,) = hr.runs()
    assert running.wait(90).status == "succeeded"
    (record,) = big.steps.catalog.table_runs("shop", TABLE)
    assert record.result is not None
    assert (record.result.equal, record.result.rows_read) == (True, ROWS)
    activities = activity_tries(stack.temporal_address, str(record.workflow_id))
    assert {attempt for tries in activities.values() for _, attempt in tries} == {1}
    readers = {identity.split("@")[0] for identity, _ in activities["extract_chunk"]}
    assert readers == {str(first.pid), str(second.pid)}
    assert big.silver(TABLE, COLUMNS) == big.source_rows("SELECT * FROM big")
    assert big.staged_files() == []
