"""Launches assets in a running Dagster webserver and waits for the run, over GraphQL."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from assets.settings import Settings
from orchestration.child_process import ServerProcessError
from orchestration.stack_credential import credential_headers

_WHERE = "Dagster"
_ASSETS = """
query { assetNodes { assetKey { path } groupName isExecutable jobNames
  repository { name location { name } } } }
"""
_LAUNCH = """
mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } ... on InvalidSubsetError { message } } }
"""
_LOAD_ERROR = """
query { workspaceOrError { ... on Workspace { locationEntries {
  locationOrLoadError { ... on PythonError { message } } } } } }
"""
_STATUS = "query ($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status } } }"


def ask(url: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one GraphQL document; returns its data.

    Raises:
        ServerProcessError: the document was refused.
    """
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    headers = {"Content-Type": "application/json", **credential_headers(Settings(), url)}
    request = urllib.request.Request(f"{url}/graphql", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        document: dict[str, Any] = json.load(answer)
    if document.get("errors"):
        raise ServerProcessError(str(document["errors"][0].get("message"))[:2000], where=_WHERE)
    return document["data"]


def _load_error(url: str) -> str:
    entries = ask(url, _LOAD_ERROR)["workspaceOrError"].get("locationEntries", [])
    return " ".join(str((entry["locationOrLoadError"] or {}).get("message") or "") for entry in entries)[-2000:]


def launch_assets(url: str, connector: str, deadline_seconds: float, tags: dict[str, str] | None = None) -> str:
    """Start one run of a connector's Bronze and Silver assets, and of the Gold ones; returns the run id.

    Raises:
        ServerProcessError: no such asset appeared in time, or Dagster refused the run.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        nodes = [
            node
            for node in ask(url, _ASSETS)["assetNodes"]
            if node["isExecutable"] and node["groupName"] in (connector, "" if tags else "gold")
        ]
        if any(node["groupName"] == connector for node in nodes):
            break
        if time.monotonic() > deadline:
            raise ServerProcessError(f"shows no asset of connector {connector}. {_load_error(url)}", where=_WHERE)
        time.sleep(0.5)
    repository = nodes[0]["repository"]
    params = {
        "selector": {
            "repositoryLocationName": repository["location"]["name"],
            "repositoryName": repository["name"],
            "jobName": "__ASSET_JOB",
            "assetSelection": [node["assetKey"] for node in nodes],
        },
        "mode": "default",
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
    }
    answer = ask(url, _LAUNCH, {"params": params})["launchPipelineExecution"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise ServerProcessError(f"refused the run: {answer}"[:2000], where=_WHERE)
    return str(answer["run"]["runId"])


def wait_for_run(url: str, run_id: str, deadline_seconds: float) -> None:
    """Wait until a run has succeeded.

    Raises:
        ServerProcessError: it failed, was cancelled, or did not end in time.
    """
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        status = ask(url, _STATUS, {"id": run_id})["runOrError"].get("status")
        if status == "SUCCESS":
            return
        if status in ("FAILURE", "CANCELED"):
            raise ServerProcessError(f"run {run_id} ended as {status}: {url}/runs/{run_id}", where=_WHERE)
        time.sleep(0.3)
    raise ServerProcessError(f"run {run_id} did not end within {deadline_seconds:.0f} s.", where=_WHERE)
