"""A small real component with the six steps' interface: keeps its effects in files, so that a killed process leaves
what it did. Tables are named for how they behave."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assets.errors import SourceAccessError, SourceUnreachableError
from assets.sync import ChunkedRead, CommitInfo, SourceTable, TableResult, TableSync, Together, WindowPlan

BATCHES = 20
ROWS_A_BATCH = 100
CHUNKS = 5


class RecordedSteps:
    """``log.jsonl`` holds every call as it began; ``rows/<table>`` the run rows; ``release`` lets waiting steps go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "rows").mkdir(parents=True, exist_ok=True)

    # what a test reads

    def calls(self, step: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if step is None or call["step"] == step]

    def steps(self) -> list[str]:
        return [call["step"] for call in self.calls()]

    def run_row(self, table: str, seconds: float = 30) -> TableResult:
        path = self.folder / "rows" / table
        self._wait(path.exists, f"{table} has no run row", seconds)  # a call is logged before it has an effect
        return TableResult.model_validate_json(path.read_text())

    def wait_for(self, step: str, times: int = 1, seconds: float = 30) -> None:
        self._wait(lambda: len(self.calls(step)) >= times, f"{step} was not called {times} times", seconds)

    def _wait(self, condition: Callable[[], bool], missing: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{missing}: {self.steps()}"
            time.sleep(0.02)

    def release(self) -> None:
        (self.folder / "release").touch()

    # the steps

    def open_window(self, work: TableSync, workflow_id: str | None = None) -> WindowPlan:
        self._log("open_window", work, workflow_id=workflow_id)
        if work.table == "public.forbidden":
            raise SourceAccessError("permission denied for table forbidden.", where="shop/public.forbidden")
        if work.table == "public.leaky":
            raise ValueError("cannot open postgresql://me:canary-secret@db/shop with password=canary-secret")
        table = SourceTable(name=work.table, schema_name="public", table_name=work.table.partition(".")[2])
        skip = "nothing changed" if work.table == "public.unchanged" else None
        return WindowPlan(table=table, mode="full", skip=skip, chunked=work.table.startswith("public.large"))

    def extract(self, work: TableSync, plan: WindowPlan, attempt: int, progress: Callable[[int, int], None]) -> str:
        self._log("extract", work, attempt=attempt, pid=os.getpid())
        if work.table == "public.flaky" and attempt == 1:
            raise SourceUnreachableError("the connection was reset.", where="shop/public.flaky")
        for batch in range(1, BATCHES + 1):
            progress(batch * ROWS_A_BATCH, batch * ROWS_A_BATCH * 10)
            while work.table.startswith("public.waiting") and not (self.folder / "release").exists():
                time.sleep(0.02)
                progress(batch * ROWS_A_BATCH, batch * ROWS_A_BATCH * 10)
        if work.table == "public.stuck" and attempt == 1:
            while not (self.folder / "release").exists():
                time.sleep(0.02)
        return f"staging/{work.table}/{work.run_group}/a{attempt}/manifest.json" + (
            "x" * 1_700_000 if work.table == "public.enormous" else ""
        )

    def begin_chunks(
        self, work: TableSync, plan: WindowPlan, attempt: int, progress: Callable[[int, int], None]
    ) -> ChunkedRead:
        self._log("begin_chunks", work, attempt=attempt)
        return ChunkedRead(uri=f"staging/{work.table}/chunks-a{attempt}.json", chunks=CHUNKS, parallel=2)

    def extract_chunk(
        self, work: TableSync, uri: str, number: int, attempt: int, progress: Callable[[int, int], None]
    ) -> int:
        self._log("extract_chunk", work, attempt=attempt, number=number, pid=os.getpid())
        if work.table == "public.large_forbidden" and number == 2:
            raise SourceAccessError("permission denied for table large.", where="shop/public.large_forbidden")
        while work.table == "public.large_waiting" and number == 3 and not (self.folder / "release").exists():
            time.sleep(0.02)
            progress(number, number)
        self._log("chunk_done", work, number=number)
        return ROWS_A_BATCH

    def finish_chunks(self, work: TableSync, uri: str, attempt: int, progress: Callable[[int, int], None]) -> str:
        self._log("finish_chunks", work, attempt=attempt)
        return uri

    def commit_bronze(self, work: TableSync, manifest_uri: str) -> CommitInfo:
        self._log("commit_bronze", work, manifest_uri=manifest_uri)
        return CommitInfo(version=1, rows_added=BATCHES * ROWS_A_BATCH)

    def merge_silver(
        self, work: TableSync, manifest_uri: str, progress: Callable[[int, int], None] | None = None
    ) -> CommitInfo:
        self._log("merge_silver", work)
        return CommitInfo(version=1, rows_added=BATCHES * ROWS_A_BATCH)

    def verify(
        self,
        work: TableSync,
        manifest_uri: str,
        bronze: CommitInfo,
        silver: CommitInfo,
        progress: Callable[[int, int], None] | None = None,
    ) -> TableResult:
        self._log("verify", work)
        return self._result(work, status="succeeded", rows_read=bronze.rows_added, equal=True)

    def record(self, work: TableSync, result: TableResult) -> TableResult:
        self._log("record", work)
        path = self.folder / "rows" / work.table
        new = path.with_name(f"{path.name}-{uuid.uuid4().hex}.new")  # two tables may be recorded at once
        new.write_text(result.model_dump_json())
        new.replace(path)
        return result

    def fail(self, work: TableSync, error_type: str, error: str) -> TableResult:
        self._log("fail", work)
        if work.table.startswith("public.waiting_long"):
            time.sleep(2)
        return self.record(work, self._result(work, status="failed", error=error, error_type=error_type))

    def skip(self, work: TableSync, plan: WindowPlan) -> TableResult:
        self._log("skip", work)
        return self.record(work, self._result(work, status="skipped", reason=plan.skip))

    def close_row(self, work: TableSync, result: TableResult) -> None:
        self._log("close_row", work, status=result.status, reason=result.reason)

    def prove_unchanged(
        self, works: Sequence[TableSync], holder: str, progress: Callable[[int, int], None]
    ) -> Together:
        for work in works:
            self._log("prove_unchanged", work, workflow_id=holder)
        unchanged = [work for work in works if work.table.startswith("public.unchanged")]
        results = [self.record(work, self._result(work, status="succeeded", equal=True)) for work in unchanged]
        small = [work.table for work in works if work.table.startswith("public.small")]
        ended = {result.table for result in results} | set(small)
        left = tuple(work.table for work in works if work.table not in ended)
        return Together(results=tuple(results), small=tuple(small), left=left)

    def sync_together(
        self,
        works: Sequence[TableSync],
        holder: str,
        attempt: int,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> Together:
        results, left = [], []
        for work in works:
            self._log("sync_together", work, workflow_id=holder, attempt=attempt, pid=os.getpid())
            if work.table.startswith("public.small_odd"):
                left.append(work.table)
                continue
            while work.table.startswith("public.small_waiting") and not (self.folder / "release").exists():
                time.sleep(0.02)
                progress(1, 1)
                if cancelled():
                    break
            if cancelled():
                results.append(self.fail(work, "Cancelled", "cancelled"))
            else:
                results.append(self.record(work, self._result(work, status="succeeded", rows_read=10, equal=True)))
        return Together(results=tuple(results), left=tuple(left))

    def _result(self, work: TableSync, **fields: Any) -> TableResult:
        return TableResult(connector=work.connector, table=work.table, run_group=work.run_group, **fields)

    def _log(self, step: str, work: TableSync, **facts: Any) -> None:
        with (self.folder / "log.jsonl").open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.write(json.dumps({"step": step, "table": work.table, "time": time.time(), **facts}) + "\n")
