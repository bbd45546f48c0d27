"""The only place of the webserver for private Dagster imports; ``tests/orchestration/web`` holds their shape."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.context import WorkspaceRequestContext as _RequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._core.workspace.permissions import LOCATION_SCOPED_PERMISSIONS, PermissionResult, Permissions
from dagster_shared.serdes import serialize_value

from orchestration.web.graphql_guard import PERMISSIONS
from orchestration.web.principal import Principal

__all__ = [
    "Permissions",
    "RequestContext",
    "WorkspaceProcessContext",
    "open_workspace",
    "reload_with_new_state",
    "request_context",
]


def open_workspace(instance: dg.DagsterInstance, workspace_file: str) -> WorkspaceProcessContext:
    """The code locations that a ``workspace.yaml`` names, as a context manager."""
    return WorkspaceProcessContext(
        instance, version=dg.__version__, workspace_load_target=WorkspaceFileTarget([workspace_file])
    )


def reload_with_new_state(process: WorkspaceProcessContext, location: str, state_key: str) -> None:
    """What the mutation ``refreshComponentState`` does, without a new process for the code location.

    The component writes its state; then the location's server builds what depends on it anew, where it runs.
    """
    entry = process.get_current_workspace().code_location_entries[location]
    process.refresh_component_state(location, [state_key])
    assert isinstance(entry.code_location, GrpcServerCodeLocation)  # the refresh refuses any other
    storage = process.instance.defs_state_storage
    states = storage.get_latest_defs_state_info() if storage else None
    reply = entry.code_location.client.reload_code_with_state(serialize_value(states))
    if reply.serialized_error:
        process.reload_code_location(location)  # a new process, and its error is shown
    elif not isinstance(entry.origin, GrpcServerCodeLocationOrigin):
        process.refresh_code_location(location)  # else the process watches the server, and sees its new id


class RequestContext(_RequestContext):
    """Dagster's context of one request, with what this principal may do."""

    principal: Principal

    @property
    def permissions(self) -> Mapping[str, PermissionResult]:
        return {permission.value: self._permission(permission) for permission in Permissions}

    def permissions_for_location(self, *, location_name: str) -> Mapping[str, PermissionResult]:
        return {permission.value: self._permission(permission) for permission in LOCATION_SCOPED_PERMISSIONS}

    def _permission(self, permission: Permissions) -> PermissionResult:
        scope = PERMISSIONS.get(permission.value)
        enabled = scope is not None and self.principal.may(scope)
        return PermissionResult(enabled, None if enabled else "Your role does not allow it")

    @property
    def show_instance_config(self) -> bool:
        return self.principal.may("admin")  # it may name databases and passwords

    def get_viewer_tags(self) -> dict[str, str]:
        return {"headrace/user": self.principal.name}

    def get_reporting_user_tags(self) -> dict[str, str]:
        return self.get_viewer_tags()


def request_context(process: WorkspaceProcessContext, source: object, principal: Principal) -> RequestContext:
    """The context of one request to Dagster's part of the server."""
    context = RequestContext(
        instance=process.instance,
        current_workspace=process.get_current_workspace(),
        process_context=process,
        version=process.version,
        source=source,
        read_only=False,
    )
    context.principal = principal
    return context
