"""Write the histories of the knowledge workflows: ``python -m tests.temporal_bridge.record_knowledge_histories``."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path

from assets.knowledge.steps import KnowledgeSteps
from assets.knowledge.work import KnowledgeExtraction, SourceExtraction
from assets.settings import Settings
from temporal_bridge.client import TemporalClient
from temporal_bridge.worker import workers_of
from temporal_bridge.workflows.knowledge_extraction import KnowledgeExtractionWorkflow
from tests.servers.openai_server import OpenAIServer
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.record_histories import FOLDER, QUEUE, without_machine
from tests.temporal_bridge.recorded_steps import RecordedSteps

KEY = "HEADRACE_RECORDER_KEY"


def prepare(folder: Path, settings: Settings, endpoint: OpenAIServer) -> None:
    """A free source, one behind an endpoint whose first answer does not fit, and one whose files are missing."""
    documents = folder / "documents"
    documents.mkdir()
    for number in range(3):
        (documents / f"{number}.txt").write_text(f"My name is Anna Keller. Order ORD-2093{number} is late.")
    catalog = KnowledgeSteps.from_settings(settings).knowledge
    config = {"kind": "text", "path": str(documents)}
    paid = {"kind": "endpoint", "base_url": endpoint.base_url, "model": "test-model", "api_key": f"env:{KEY}"}
    catalog.add_source("free", config)
    catalog.add_source("paid", config, paid | {"calls_per_minute": 600})
    catalog.add_source("budgeted", config, paid | {"model": "other-model", "token_budget": 10})
    catalog.add_source("missing", {"kind": "text", "path": str(folder / "nothing")})


def record(client: TemporalClient) -> None:
    def save(workflow_id: str, name: str) -> None:
        from temporal_bridge.workflow_run import WorkflowRun

        run = WorkflowRun(workflow_id, "", "", QUEUE, client.namespace)
        history = without_machine(json.loads(client.history_json(run)))
        (FOLDER / f"{name}.json").write_text(json.dumps(history, indent=1) + "\n")

    names = ("free", "paid", "budgeted", "missing")
    sources = tuple(SourceExtraction(source=name, run_group="run-1") for name in names)
    extraction = KnowledgeExtraction(sources=sources, run_group="run-1", max_parallel=1)
    run = client.start_workflow(KnowledgeExtractionWorkflow, extraction, id="knowledge-run/1", task_queue=QUEUE)
    print([(result.source, result.status, result.reason or result.error) for result in client.wait(run).results])
    save("knowledge-run/1", "KnowledgeExtractionWorkflow-partial")
    for name, outcome in zip(names, ("free", "paid", "stopped", "failed"), strict=True):
        save(f"knowledge/{name}", f"KnowledgeSourceWorkflow-{outcome}")


async def main() -> None:
    os.environ |= {KEY: OpenAIServer.api_key, "HEADRACE_URL_ALLOW": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as name, OpenAIServer() as endpoint:
        folder = Path(name)
        settings = Settings(
            home=folder / "home", task_queue=QUEUE, heartbeat_timeout_seconds=20, heartbeat_throttle_seconds=1
        )
        endpoint.fail("malformed_json")
        prepare(folder, settings, endpoint)
        with TemporalServer(folder) as server, TemporalClient(server.address) as client:
            steps = RecordedSteps(folder / "steps")
            async with workers_of(await client.connect(), settings, steps, grace_seconds=1, identity="recorder"):
                await asyncio.to_thread(record, client)


if __name__ == "__main__":
    asyncio.run(main())
