"""Step 2 of a large table: chunks of one snapshot, each staged by an activity of its own, then one manifest.

Each finished chunk leaves a note beside its parts. A note outlives the worker: what stands in one is read again only if
the source changed it since, so that the manifest always holds one consistent snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.bronze import BronzeRows
from assets.errors import LakehouseError, SourceUnreachableError
from assets.failpoints import failpoint
from assets.lakehouse.data_files import fit
from assets.part_staging import PartStaging, Progress
from assets.shaped_read import ShapedRead
from assets.snapshot_keeper import SnapshotKeeper
from assets.sources.interface import UNFIT_COLUMN, CarefulReadNeeded, ChangedRows, Remaining, TableRead, count_unfit
from assets.sync import Chunk, ChunkedRead, ChunkRead, Model, TableSync, WindowPlan

if TYPE_CHECKING:
    from assets.steps import SyncSteps

IDLE_SECONDS = 900


class ChunkPlan(Model):
    """The note of ``begin_chunks``: what is read, and the snapshot to join."""

    plan: WindowPlan
    chunks: tuple[Chunk, ...]
    snapshot: str | None
    attempt: int


class ChunkedExtraction:
    """The three activities of one chunked read. Each may be repeated."""

    def __init__(self, steps: SyncSteps, work: TableSync) -> None:
        self._steps = steps
        self._lakehouse = steps.lakehouse
        self._work = work

    def begin(self, plan: WindowPlan, attempt: int, progress: Progress) -> ChunkedRead:
        """Open the snapshot, keep it open in this process, and write the chunks down."""
        connector = self._steps.catalog.connector(self._work.connector)
        chunks = connector.chunks(plan, self._steps.settings.chunk_mb << 20)
        if not chunks:
            raise SourceUnreachableError(
                "the table cannot be read in chunks any more: it became smaller since the sync began",
                where=f"{self._work.connector}/{self._work.table}",
                remedy="Sync the table again.",
            )
        keeper = SnapshotKeeper(connector.open_read(plan), lambda: progress(0, 0))
        try:
            noted = ChunkPlan(plan=plan, chunks=tuple(chunks), snapshot=keeper.read.share(), attempt=attempt)
            uri = self._note(f"chunks-a{attempt}", noted)
        except BaseException:
            keeper.close()
            raise
        if noted.snapshot is None:
            keeper.close()
        else:
            keeper.keep_while(self._wanted(uri, attempt, len(chunks)))
        failpoint("after_begin_chunks")
        return ChunkedRead(uri=uri, chunks=len(chunks), parallel=connector.parallel_chunks)

    def _wanted(self, uri: str, attempt: int, chunks: int) -> Callable[[], bool]:
        """Whether the read goes on: its note is there, no later try began, and chunks still come in."""
        last = time.monotonic()
        found = 0

        def wanted() -> bool:
            nonlocal last, found
            while found < chunks and self._lakehouse.read_note(self._address(uri, found)) is not None:
                found += 1
                last = time.monotonic()
            later = uri.replace(f"chunks-a{attempt}.json", f"chunks-a{attempt + 1}.json")
            over = (self._finished(uri), later)
            return (
                time.monotonic() - last < IDLE_SECONDS
                and self._lakehouse.read_note(uri) is not None
                and all(self._lakehouse.read_note(note) is None for note in over)
            )

        return wanted

    @staticmethod
    def _finished(uri: str) -> str:
        return f"{uri.removesuffix('.json')}-finished.json"

    @staticmethod
    def _address(uri: str, number: int) -> str:
        return f"{uri.removesuffix('.json')}-{number}.json"

    def _note(self, name: str, content: Model) -> str:
        work = self._work
        return self._lakehouse.write_note(work.connector, work.table, work.run_group, name, content.model_dump_json())

    def _noted(self, uri: str) -> ChunkPlan:
        text = self._lakehouse.read_note(uri)
        if text is None:
            raise LakehouseError("the notes of this run are gone", where=uri, remedy="Sync the table again.")
        return ChunkPlan.model_validate_json(text)

    def _chunk_read(self, uri: str, number: int) -> ChunkRead | None:
        text = self._lakehouse.read_note(self._address(uri, number))
        return ChunkRead.model_validate_json(text) if text else None

    def extract(self, uri: str, number: int, attempt: int, progress: Progress) -> int:
        """Stage one chunk; returns its rows. A chunk whose note is there is not read again."""
        if done := self._chunk_read(uri, number):
            return done.rows
        noted = self._noted(uri)
        with self._open(noted) as read:
            done = self._stage(noted, read, noted.chunks[number], f"{number}", attempt, progress)
        self._note(f"chunks-a{noted.attempt}-{number}", done)
        failpoint("after_chunk_note")
        return done.rows

    def _open(self, noted: ChunkPlan) -> AbstractContextManager[TableRead]:
        connector = self._steps.catalog.connector(self._work.connector)
        if noted.snapshot is None:
            return connector.open_read(noted.plan)
        return connector.join_read(noted.plan, noted.snapshot)

    def _shaped(self, noted: ChunkPlan, read: TableRead) -> ShapedRead:
        return self._steps.shaped(self._work.connector, noted.plan.shape).of(read, noted.plan)

    def _stage(
        self, noted: ChunkPlan, read: TableRead, chunk: Chunk, stream: str, attempt: int, progress: Progress
    ) -> ChunkRead:
        state = dict(read.state)
        part = read.of_chunk(chunk)
        shaped = self._shaped(noted, part)
        rows = BronzeRows(shaped.schema, noted.plan.tag, self._steps.position_of(noted.plan, part))
        staging = PartStaging(self._lakehouse, self._work, attempt, progress)
        try:
            found = shaped.encoded_batches() if self._lakehouse.stores_encoded_rows else shaped.batches()
            parts, size = staging.stage(rows, found, f"chunk-{stream}")
        except CarefulReadNeeded:
            parts, size = staging.stage(rows, shaped.careful_batches(), f"chunk-{stream}")
        failpoint("before_chunk_note")
        return ChunkRead(
            chunk=chunk,
            state=state,
            found=dict(part.found),
            parts=parts,
            rows=sum(p.rows for p in parts),
            bytes=size,
            high=part.high,
            future_rows=part.future_rows,
            unfit_values=part.unfit_values,
            reader=part.reader,
            unforeseen=part.unforeseen,
        )

    def _mend(
        self,
        noted: ChunkPlan,
        read: TableRead,
        done: ChunkRead,
        changed: ChangedRows,
        stream: str,
        attempt: int,
        progress: Progress,
    ) -> ChunkRead:
        """The chunk as ``read`` has it: what did not change from its parts, the rest from the source."""
        part = read.of_rows(changed)
        shaped = self._shaped(noted, part)
        rows = BronzeRows(shaped.schema, noted.plan.tag, self._steps.position_of(noted.plan, part))
        staging = PartStaging(self._lakehouse, self._work, attempt, progress)
        pc = arrow_compute()
        column, unfit = rows.names[changed.column], rows.names[UNFIT_COLUMN]
        kept_unfit = 0
        with staging.writer(f"chunk-{stream}", rows.schema) as writer:
            for batch in staging.watched(self._lakehouse.read_parts(done.parts)):
                kept = batch.filter(pc.invert(pc.is_in(batch.column(column), changed.values)))
                kept_unfit += count_unfit(kept.column(unfit))
                writer.write(fit(kept, rows.schema))
            for batch in staging.watched(shaped.careful_batches()):
                writer.write(rows.upserts(batch))
        return done.model_copy(
            update={
                "state": dict(read.state),
                "parts": writer.parts,
                "rows": sum(p.rows for p in writer.parts),
                "unfit_values": kept_unfit + part.unfit_values,
            }
        )

    def finish(self, uri: str, attempt: int, progress: Progress) -> str:
        """Read again what is not as one snapshot has it, and write the manifest. Returns its URI."""
        noted = self._noted(uri)
        by_id: dict[str, ChunkRead] = {}
        for number, chunk in enumerate(noted.chunks):
            if done := self._chunk_read(uri, number):
                by_id[chunk.id] = done
            progress(0, 0)
        with self._open(noted) as read:
            numbers = {chunk.id: number for number, chunk in enumerate(noted.chunks)}

            def again(remaining: Sequence[Remaining]) -> None:
                for one in remaining:
                    chunk, number = one.chunk, numbers.setdefault(one.chunk.id, len(numbers))
                    stream = f"{number}-again"
                    if one.rows is None:
                        by_id[chunk.id] = self._stage(noted, read, chunk, stream, attempt, progress)
                    else:
                        by_id[chunk.id] = self._mend(noted, read, by_id[chunk.id], one.rows, stream, attempt, progress)
                    if number < len(noted.chunks):
                        self._note(f"chunks-a{noted.attempt}-{number}", by_id[chunk.id])
                    failpoint("during_finish_chunks")

            def unforeseen() -> bool:
                return any(done.unforeseen for done in by_id.values())

            again([Remaining(chunk) for chunk in noted.chunks if chunk.id not in by_id])
            changed = [] if unforeseen() else read.remaining(list(by_id.values()))
            again(changed)
            done = list(by_id.values())
            if unforeseen():
                exact = self._steps.planned_exactly(self._work, noted.plan, progress)
                return self._steps.extract(self._work, exact, attempt, progress)
            read.take_over(done)
            plan = noted.plan
            if changed:
                told = f"{len(changed)} of {len(done)} chunks changed or were lost before the last was read: read again"
                mended = sum(1 for one in changed if one.rows)
                told += f", {mended} of them only where they changed" if mended else ""
                plan = plan.model_copy(update={"reason": "; ".join(filter(None, [plan.reason, told]))})
            found = self._summed(self._shaped(noted, read), done)
            manifest = self._steps.write_manifest(self._work, plan, read, attempt, found)
        self._note(f"chunks-a{noted.attempt}-finished", done[0])  # the snapshot is let go
        return manifest

    @staticmethod
    def _summed(shaped: ShapedRead, done: Sequence[ChunkRead]) -> dict[str, Any]:
        readers = dict.fromkeys(chunk.reader for chunk in done)
        parts = tuple(part for chunk in done for part in chunk.parts)
        return {
            "parts": parts,
            "rows_read": sum(part.rows for part in parts),
            "future_rows": shaped.read.future_rows + sum(chunk.future_rows for chunk in done),
            "unfit_values": sum(chunk.unfit_values for chunk in done),
            "bytes_read": sum(chunk.bytes for chunk in done),
            "reader": ", ".join(readers),
            "source_rows": shaped.source_rows(),
        }
