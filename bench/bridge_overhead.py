"""What the bridge adds: a trivial asset through Dagster and Temporal beside each of them alone, in one run.

python -m bench.bridge_overhead [--rounds 20]
"""

# No postponed annotations: Dagster reads those of an asset function as they stand.
import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from temporalio import workflow

from assets.settings import Settings
from orchestration.local import LocalStack
from temporal_bridge import PipesTemporalClient, TemporalResource
from temporal_bridge.client import TemporalClient

QUEUE = "overhead"


@workflow.defn(sandboxed=False)  # the sandbox would import Dagster
class EchoWorkflow:
    @workflow.run
    async def run(self, text: str) -> str:
        return text


async def worker(address: str) -> None:
    from temporalio.worker import Worker

    client = await TemporalClient(address).connect()
    await Worker(client, task_queue=QUEUE, workflows=[EchoWorkflow]).run()


def materialize(asset: dg.AssetsDefinition, instance: dg.DagsterInstance) -> None:
    assert dg.materialize([asset], instance=instance).success


def measure(address: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, taken in turn."""
    pipes = PipesTemporalClient(TemporalResource(address=address))

    @dg.asset
    def plain() -> str:
        return "done"

    @dg.asset
    def bridged(context: dg.AssetExecutionContext) -> Any:
        invocation = pipes.run(context=context, workflow=EchoWorkflow, input="done", task_queue=QUEUE)
        return invocation.get_materialize_result()

    with dg.instance_for_test() as instance, TemporalClient(address) as client:

        def temporal_alone() -> None:
            run = client.start_workflow(EchoWorkflow, "done", id=f"echo/{time.monotonic_ns()}", task_queue=QUEUE)
            assert client.wait(run) == "done"

        ways: dict[str, Callable[[], None]] = {
            "a plain Dagster asset": lambda: materialize(plain, instance),
            "Temporal client alone": temporal_alone,
            "Dagster asset + bridge": lambda: materialize(bridged, instance),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 2):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                if number >= 2:  # the first rounds import and connect
                    taken[name].append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(worker(options.worker))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(Settings(home=Path(folder))).start(worker=False) as stack,
    ):
        polling = subprocess.Popen([sys.executable, "-m", "bench.bridge_overhead", "--worker", stack.temporal_address])
        try:
            taken = measure(stack.temporal_address, options.rounds)
        finally:
            polling.kill()
            polling.wait()
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in medians.items():
        print(f"{name:26} {seconds * 1000:7.0f} ms (worst {max(taken[name]) * 1000:.0f})")
    plain, alone, bridged = medians.values()
    print(f"{'above the sum of both':26} {(bridged - plain - alone) * 1000:7.0f} ms")


if __name__ == "__main__":
    main()
