"""100,000 messages with the embedded extractor: time, memory, and resuming. ``python -m bench.knowledge_scale``.

Runs the steps of one extraction in a process of its own at two sizes, and says how time and peak memory grow. A third
run over the same tables shows what a repeat costs: sessions that are done are not read again.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from assets.knowledge.steps import KnowledgeSteps
from assets.knowledge.work import BatchInput, FoldInput, SourceExtraction
from assets.settings import Settings

MESSAGES_A_SESSION = 10
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


def extract(home: Path) -> dict[str, float]:
    """One extraction, step by step, in this process."""
    from assets.knowledge.embedded import shared

    shared()
    steps = KnowledgeSteps.from_settings(Settings(home=home))
    work = SourceExtraction(source="chats", run_group=f"run-{time.time_ns()}")
    started = time.monotonic()
    extracted = generation = 0
    while True:
        plan = steps.plan(work, generation, 1)
        done = [
            steps.extract_batch(BatchInput(work=work, batch=batch, number=number), 1)
            for number, batch in enumerate(plan.batches)
        ]
        folding = time.monotonic()
        steps.fold(FoldInput(work=work, generation=generation, batches=tuple(done), gone_part=plan.gone_part))
        extracted += plan.changed_messages
        generation += 1
        if not plan.more:
            break
    ended = time.monotonic()
    return {
        "messages": extracted,
        "seconds": round(ended - started, 2),
        "last_fold_seconds": round(ended - folding, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def in_a_process(home: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.knowledge_scale", "--extract", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--extract", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.extract:
        print(json.dumps(extract(options.extract)))
        return
    results = []
    for messages in (options.messages // 2, options.messages):
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
            home, export = Path(name) / "home", Path(name) / "conversations.json"
            write_chats(export, messages)
            catalog = KnowledgeSteps.from_settings(Settings(home=home)).knowledge
            catalog.add_source("chats", {"kind": "claude", "path": str(export)})
            results.append(in_a_process(home))
            print(f"{messages:,} messages: {results[-1]}")
            print(f"  again, nothing new: {in_a_process(home)}")
    small, large = results
    print(
        f"twice the messages: {large['seconds'] / small['seconds']:.2f} times the time,"
        f" {large['peak_mb'] / small['peak_mb']:.2f} times the peak memory"
    )


if __name__ == "__main__":
    main()
