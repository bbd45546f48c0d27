"""Committed histories replay on today's workflows: a change that would wedge running ones fails here.

After a change that is meant (guarded by ``workflow.patched``): ``python -m tests.temporal_bridge.record_histories``.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from assets.settings import Settings
from temporal_bridge.client import TemporalClient
from temporal_bridge.codec import data_converter
from temporal_bridge.worker import build_worker, workflow_types
from tests.temporal_bridge.recorded_steps import RecordedSteps

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))
COMMANDS = Path(__file__).parent / "commands.json"
EXPECTED = {
    "DataSourceSyncWorkflow-succeeded",
    "DataSourceSyncWorkflow-failed",
    "DataSourceSyncWorkflow-cancelled",
    "DataSourceSyncWorkflow-chunked",
    "DataSourceSyncWorkflow-chunk-failed",
    "DatasetSyncWorkflow-partial",
    "DatasetSyncWorkflow-together",
    "DatasetSyncWorkflow-cancelled",
    "DatasetSyncWorkflow-cancelled-with-the-first",
    "KnowledgeExtractionWorkflow-partial",
    "KnowledgeSourceWorkflow-free",
    "KnowledgeSourceWorkflow-paid",
    "KnowledgeSourceWorkflow-stopped",
    "KnowledgeSourceWorkflow-failed",
    "DatabricksJobWorkflow-succeeded",
    "DatabricksJobWorkflow-failed",
    "DatabricksJobWorkflow-cancelled",
    "AgentKitExecutionWorkflow-approved",
    "AgentKitExecutionWorkflow-refused",
}


def test_every_workflow_has_a_committed_history() -> None:
    assert {path.stem for path in HISTORIES} == EXPECTED
    assert {path.stem.split("-")[0] for path in HISTORIES} == {workflow.__name__ for workflow in workflow_types()}


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_committed_history_replays(path: Path) -> None:
    replayer = Replayer(workflows=workflow_types(), data_converter=data_converter())
    history = WorkflowHistory.from_json(path.stem, path.read_text())
    asyncio.run(replayer.replay_workflow(history))


def test_a_worker_with_every_workflow_can_be_constructed_in_the_sandbox(temporal_address: str, tmp_path: Path) -> None:
    async def construct() -> str:
        with TemporalClient(temporal_address) as client:
            worker = build_worker(await client.connect(), Settings(task_queue="any"), RecordedSteps(tmp_path))
            return worker.task_queue

    assert asyncio.run(construct()) == "any"


def commands(path: Path) -> list[str]:
    """What the workflow's code asked for, in order: what a replay has to ask for again."""
    asked = []
    for event in json.loads(path.read_text())["events"]:
        kind = event["eventType"].removeprefix("EVENT_TYPE_")
        details = next((v for k, v in event.items() if k.endswith("EventAttributes")), {})
        if kind == "ACTIVITY_TASK_SCHEDULED":
            asked.append(f"activity {details['activityType']['name']}")
        elif kind == "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
            asked.append(f"child {details['workflowType']['name']}")
        elif kind in ("TIMER_STARTED", "MARKER_RECORDED", "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"):
            asked.append(kind.lower().replace("_", " "))
    return asked


def test_the_commands_of_every_recorded_history_are_the_ones_that_running_workflows_were_started_with() -> None:
    """Recording anew must not hide a change that breaks running workflows: docs/bridge.md, "Changing a workflow"."""
    assert {path.stem: commands(path) for path in HISTORIES} == json.loads(COMMANDS.read_text())
