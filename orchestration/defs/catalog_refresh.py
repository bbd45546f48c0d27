"""Connectors that change in the catalog appear as assets without a restart."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import dagster as dg

from assets.settings import Settings
from orchestration.code_locations import CodeLocation
from orchestration.stack_credential import credential_headers

_REFRESH = """
mutation ($location: String!, $key: String!) {
  refreshComponentState(locationName: $location, defsStateKey: $key) {
    __typename ... on PythonError { message } ... on UnauthorizedError { message } } }
"""


def refresh_component_state(url: str, location: CodeLocation, timeout: float = 60) -> str:
    """Ask a Dagster webserver to read the catalog again and to reload. Returns the answer's type name."""
    asked = {"location": location.name, "key": location.state_key}
    body = json.dumps({"query": _REFRESH, "variables": asked}).encode()
    headers = {"Content-Type": "application/json", **credential_headers(Settings(), url)}
    request = urllib.request.Request(f"{url}/graphql", body, headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        document: dict[str, Any] = json.load(answer)
    if document.get("errors"):
        raise dg.DagsterInvariantViolationError(str(document["errors"][0].get("message"))[:1000])
    return str(document["data"]["refreshComponentState"]["__typename"])


@dg.sensor(minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def catalog_refresh(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Reload the assets when the catalog's version has changed."""
    from assets.catalog.store import Catalog
    from orchestration.components.connector_registry import is_loaded
    from orchestration.stack_record import running_stack

    settings = Settings()
    location = CodeLocation.of_process(settings)
    version = location.version(Catalog.from_settings(settings))
    if context.cursor == version or is_loaded(version):
        return dg.SkipReason("the catalog has not changed")
    stack = running_stack(settings)
    url = settings.dagster_url or (stack.dagster_url if stack else None)
    if not url:
        return dg.SkipReason("no webserver is known: set HEADRACE_DAGSTER_URL, or reload the code location yourself")
    answer = refresh_component_state(url.rstrip("/"), location)
    context.log.info(f"The catalog changed: {answer}")
    return dg.SensorResult(cursor=version)
