"""100,000 messages with the embedded extractor: time, CPU and memory of the worker, and resuming after kill -9.

    python -m bench.knowledge_scale [--messages 5000 20000 100000] [--kill]

Each size is one extraction on the one-machine stack (Temporal and a worker), in a home of its own. The worker is
watched: CPU seconds and the peak of its resident memory. A second extraction shows what a repeat costs.
``--kill``: the worker is killed with SIGKILL when half of the batches are staged. The workflow's history then tells how
many batches had to be tried again: those that were under way; and the tables are counted against the source.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.local import LocalStack

if TYPE_CHECKING:
    from orchestration.knowledge import ExtractionReport

MESSAGES_A_SESSION = 10
SOURCE = "chats"
NAMES = ("Anna Keller", "Tom Hughes", "Priya Nair", "Jonas Weber", "Maria Lopez", "Kofi Mensah")
PLACES = ("Berlin", "Leeds", "Porto", "Osaka", "Chicago", "Nairobi")
LINES = (
    "Hi, my name is {name} and I am writing about order ORD-{number}.",
    "It should have come on {day} March, but the parcel {number} is still in {place}.",
    "I paid ${price}.99 for it and would like {percent}% back.",
    "Please reach me at customer{number}@example.com or +44 20 7946 {last:04}.",
    "I prefer deliveries after {hour}pm, I work until then.",
    "We have decided to keep the {number} series and to return the other one.",
    "Thanks {name}, the case {number} is with our team in {place} now.",
    "Could you check version 2.{hour}.{last} of the app as well?",
)


def write_chats(path: Path, messages: int) -> None:
    """A Claude export with that many messages, each different."""
    draw = random.Random(7)
    conversations = []
    for session in range(messages // MESSAGES_A_SESSION):
        chat = [
            {
                "uuid": f"{session}-{position}",
                "sender": "human" if position % 2 == 0 else "assistant",
                "created_at": "2026-03-01T10:00:00Z",
                "text": draw.choice(LINES).format(
                    name=draw.choice(NAMES),
                    place=draw.choice(PLACES),
                    number=draw.randrange(10_000, 999_999),
                    day=draw.randrange(1, 29),
                    price=draw.randrange(1, 999),
                    percent=draw.randrange(1, 99),
                    hour=draw.randrange(1, 12),
                    last=draw.randrange(10_000),
                ),
            }
            for position in range(MESSAGES_A_SESSION)
        ]
        conversations.append({"uuid": f"s{session}", "name": "", "chat_messages": chat})
    path.write_text(json.dumps(conversations))


@dataclass
class WorkerWatch:
    """CPU seconds and peak resident memory of the stack's workers, summed and maximal over all that lived."""

    stack: LocalStack
    cpu: dict[int, float] = field(default_factory=dict)
    peak_kb: int = 0

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._look()
        self._ended.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())

    def _watch(self) -> None:
        while not self._ended.wait(0.3):
            self._look()

    def _look(self) -> None:
        pid = self.stack.worker_pid
        if pid is None:
            return
        try:
            times = psutil.Process(pid).cpu_times()
            status = Path(f"/proc/{pid}/status").read_text()
        except (psutil.Error, OSError):
            return
        self.cpu[pid] = times.user + times.system
        peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM 0")
        self.peak_kb = max(self.peak_kb, int(peak.split()[1]))


def staged_batches(home: Path) -> int:
    """Batches whose findings are staged, each under its number."""
    return len({path.name.split("-a")[0] for path in (home / "staging" / "knowledge").glob("*/*/sessions-*")})


def kill_half_way(stack: LocalStack, home: Path, batches: int, ended: threading.Event) -> None:
    while not ended.wait(0.2):
        done, pid = staged_batches(home), stack.worker_pid
        if done >= batches // 2 and pid is not None:
            os.kill(pid, signal.SIGKILL)
            print(f"  kill -9 of the worker with {done} batches staged", flush=True)
            return


def batch_attempts(address: str) -> list[int]:
    """Attempts of each ``extract_knowledge`` activity of the source's workflow, from its history."""
    import asyncio

    from temporalio.client import Client

    from temporal_bridge.workflows.knowledge_extraction import lock_id

    async def read() -> list[int]:
        handle = (await Client.connect(address)).get_workflow_handle(lock_id(SOURCE))
        scheduled: set[int] = set()
        attempts = []
        async for event in handle.fetch_history_events():
            if event.activity_task_scheduled_event_attributes.activity_type.name == "extract_knowledge":
                scheduled.add(event.event_id)
            started = event.activity_task_started_event_attributes
            if started.scheduled_event_id in scheduled:
                attempts.append(started.attempt)
        return attempts

    return asyncio.run(read())


def extract(hr: Headrace, stack: LocalStack) -> tuple[ExtractionReport, float, WorkerWatch]:
    watch, started = WorkerWatch(stack), time.monotonic()
    cpu_before = dict(watch.cpu)
    report = hr.knowledge.extract(SOURCE)
    seconds = time.monotonic() - started
    watch.stop()
    for pid, cpu in cpu_before.items():
        watch.cpu[pid] -= cpu
    return report, seconds, watch


def measure(messages: int, kill: bool) -> tuple[float, float]:
    """Wall and CPU seconds of the first extraction of that many messages; prints them."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        home, export = Path(name) / "home", Path(name) / "conversations.json"
        write_chats(export, messages)
        hr = Headrace(settings=Settings(home=home, heartbeat_timeout_seconds=10))
        hr.knowledge.add(SOURCE, {"kind": "claude", "path": str(export)})
        with LocalStack(hr.settings).start(temporal=True, worker=True, dagster=False) as stack:
            ended = threading.Event()
            killer = threading.Thread(target=kill_half_way, args=(stack, home, messages // 500, ended), daemon=True)
            if kill:
                killer.start()
            report, seconds, watch = extract(hr, stack)
            ended.set()
            (result,) = report.sources
            attempts = batch_attempts(stack.temporal_address)
            print(
                f"{messages:,} messages: {result.status} {result.error or ''}, {seconds:.1f} s,"
                f" worker {watch.cpu_seconds:.1f} CPU s,"
                f" peak RSS {watch.peak_kb / 1024:.0f} MB; {result.tables.mentions:,} mentions,"
                f" {result.tables.entities:,} entities, {result.tables.observations:,} observations",
                flush=True,
            )
            again = sum(attempt > 1 for attempt in attempts)
            sessions = len(hr.knowledge.rows("sessions", messages))
            print(
                f"  {len(attempts)} batches, {again} of them tried more than once;"
                f" {result.totals.extracted:,} sessions extracted, {sessions:,} in the table,"
                f" {messages // MESSAGES_A_SESSION:,} in the source",
                flush=True,
            )
            report, repeat, _ = extract(hr, stack)
            print(f"  again: {report.sources[0].totals.extracted} sessions extracted, {repeat:.1f} s", flush=True)
    return seconds, watch.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--kill", action="store_true", help="SIGKILL the worker half-way")
    options = parser.parse_args()
    for messages in options.messages:
        seconds, cpu = measure(messages, options.kill)
        print(
            f"  a thousand messages: {seconds / messages * 1000:.2f} s, {cpu / messages * 1000:.2f} CPU s", flush=True
        )


if __name__ == "__main__":
    main()
