"""Which scope each of Dagster's mutations and permissions needs. What is not listed here is refused to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    parse,
)

if TYPE_CHECKING:
    from assets.catalog.access_records import Scope
    from orchestration.web.principal import Principal

MAX_TOKENS = 20_000
MUTATIONS: dict[str, Scope] = {
    "addDynamicPartition": "operate",
    "cancelPartitionBackfill": "operate",
    "deleteConcurrencyLimit": "admin",
    "deleteDynamicPartitions": "admin",
    "deletePipelineRun": "admin",
    "deleteRun": "admin",
    "freeConcurrencySlots": "admin",
    "freeConcurrencySlotsForRun": "admin",
    "launchMultipleRuns": "operate",
    "launchPartitionBackfill": "operate",
    "launchPipelineExecution": "operate",
    "launchPipelineReexecution": "operate",
    "launchRun": "operate",
    "launchRunReexecution": "operate",
    "logTelemetry": "read",
    "reexecutePartitionBackfill": "operate",
    "refreshComponentState": "refresh",
    "reloadRepositoryLocation": "refresh",
    "reloadWorkspace": "refresh",
    "reportAssetCheckEvaluations": "admin",
    "reportRunlessAssetEvents": "admin",
    "resetSchedule": "operate",
    "resetSensor": "operate",
    "resumePartitionBackfill": "operate",
    "scheduleDryRun": "operate",
    "sensorDryRun": "operate",
    "setAutoMaterializePaused": "operate",
    "setConcurrencyLimit": "admin",
    "setNuxSeen": "read",
    "setSensorCursor": "admin",
    "startSchedule": "operate",
    "startSensor": "operate",
    "stopRunningSchedule": "operate",
    "stopSensor": "operate",
    "terminatePipelineExecution": "operate",
    "terminateRun": "operate",
    "terminateRuns": "operate",
    "wipeAssets": "admin",
}
"""``shutdownRepositoryLocation``, ``setAppManagedComponent`` and ``deleteAppManagedComponent`` are left out on purpose:
the first would stop the code location of the whole stack, the others belong to Dagster's hosted product."""
REFUSED = frozenset({"shutdownRepositoryLocation", "setAppManagedComponent", "deleteAppManagedComponent"})

PERMISSIONS: dict[str, Scope] = {
    "launch_pipeline_execution": "operate",
    "launch_pipeline_reexecution": "operate",
    "start_schedule": "operate",
    "stop_running_schedule": "operate",
    "schedule_dry_run": "operate",
    "edit_sensor": "operate",
    "sensor_dry_run": "operate",
    "update_sensor_cursor": "admin",
    "terminate_pipeline_execution": "operate",
    "delete_pipeline_run": "admin",
    "reload_repository_location": "refresh",
    "reload_workspace": "refresh",
    "wipe_assets": "admin",
    "report_runless_asset_events": "admin",
    "launch_partition_backfill": "operate",
    "cancel_partition_backfill": "operate",
    "edit_dynamic_partitions": "operate",
    "toggle_auto_materialize": "operate",
    "edit_concurrency_limit": "admin",
    "refresh_component_state": "refresh",
}
"""What Dagster's own resolvers ask, and its UI shows as enabled. A permission that is not here is nobody's."""


class Operations:
    """The operations of one GraphQL document, as far as they concern rights."""

    def __init__(self, mutations: tuple[str, ...], subscriptions: tuple[str, ...]) -> None:
        self.mutations = mutations
        self.subscriptions = subscriptions

    def refusal(self, principal: Principal) -> str | None:
        """Why the principal may not run this document; None: they may."""
        for name in self.mutations:
            scope = MUTATIONS.get(name)
            if scope is None:
                return f"The mutation {name[:80]} is not allowed here."
            if not principal.may(scope):
                return f"The mutation {name[:80]} needs the scope {scope}."
        return None if principal.may("read") else "This needs the scope read."


def operations_of(query: object) -> Operations:
    """Read a document. One that cannot be parsed has no operations: Dagster's own answer tells what is wrong with it.

    Every operation of the document counts, whichever the client asks to be run.
    """
    if not isinstance(query, str):
        return Operations((), ())
    try:
        document = parse(query, max_tokens=MAX_TOKENS)
    except GraphQLError:
        return Operations((), ())
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}

    def fields(kind: OperationType) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                name
                for operation in _of_kind(document, kind)
                for name in _root_fields(operation.selection_set, fragments, set())
            )
        )

    return Operations(fields(OperationType.MUTATION), fields(OperationType.SUBSCRIPTION))


def _of_kind(document: DocumentNode, kind: OperationType) -> Iterator[OperationDefinitionNode]:
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode) and node.operation == kind:
            yield node


def _root_fields(
    selection: SelectionSetNode, fragments: dict[str, FragmentDefinitionNode], entered: set[str]
) -> Iterator[str]:
    for node in selection.selections:
        if isinstance(node, FieldNode):
            yield node.name.value
        elif isinstance(node, InlineFragmentNode):
            yield from _root_fields(node.selection_set, fragments, entered)
        elif isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name in fragments and name not in entered:
                entered.add(name)
                yield from _root_fields(fragments[name].selection_set, fragments, entered)
