"""Write the histories of agent kits: ``python -m tests.temporal_bridge.record_kit_histories``."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from assets.kits.kit_file import read_kit
from assets.kits.model import Decision, KitRun
from assets.settings import Settings
from assets.steps import SyncSteps
from temporal_bridge.client import TemporalClient
from temporal_bridge.worker import workers_of
from temporal_bridge.workflow_run import WorkflowRun
from temporal_bridge.workflows.agent_kit import AgentKitExecutionWorkflow
from tests.polling import wait_until
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.record_histories import FOLDER, QUEUE, without_machine

KIT = """name: approved
objective: Write two texts, ask, publish.
tools:
  say: {kind: text}
playbook:
  - together:
      - {step: first, tool: say, with: {text: one}}
      - {step: second, tool: say, with: {text: two}}
  - {step: never, tool: say, when: "run.trigger == 'other'"}
  - step: each
    tool: say
    for_each: "[steps.first.text, steps.second.text]"
    with: {text: "{{ item }}"}
  - step: publish
    tool: say
    approval: {question: "Publish?"}
    with: {text: done}
"""


def record(client: TemporalClient, steps: SyncSteps) -> None:
    """One run that a person approves, and one that is refused."""
    for run_id, approve in (("approved", True), ("refused", False)):
        run = KitRun(kit=read_kit(KIT), run_id=run_id)
        id = f"kit/approved/{run_id}"
        started = client.start_workflow(AgentKitExecutionWorkflow, run, id=id, task_queue=QUEUE)
        wait_until(lambda: any(row.waiting for row in steps.catalog.kit_runs(open_only=True)), 60)
        client.update(id, "decide", Decision(step="publish", by="ada", approve=approve))
        print(client.wait(started).status)
        history = client.history_json(WorkflowRun(id, "", "", QUEUE, client.namespace))
        target = FOLDER / f"AgentKitExecutionWorkflow-{run_id}.json"
        target.write_text(json.dumps(without_machine(json.loads(history)), indent=1) + "\n")


async def main() -> None:
    with tempfile.TemporaryDirectory() as name, TemporalServer(Path(name)) as server:
        settings = Settings(home=Path(name) / "home", task_queue=QUEUE)
        steps = SyncSteps.from_settings(settings)
        with TemporalClient(server.address) as client:
            async with workers_of(await client.connect(), settings, steps, task_queue=QUEUE):
                await asyncio.to_thread(record, client, steps)


if __name__ == "__main__":
    asyncio.run(main())
