"""The webserver in this process: the real app with an empty Dagster workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.applications import Starlette

from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.web.webserver import HeadraceWebserver
from tests.orchestration.web.people import People


@pytest.fixture
def hr(settings: Settings) -> Headrace:
    return Headrace(settings=settings)


@pytest.fixture(scope="session")
def workspace() -> Iterator[WorkspaceProcessContext]:
    with (
        dg.instance_for_test() as instance,
        WorkspaceProcessContext(
            instance, version=dg.__version__, workspace_load_target=EmptyWorkspaceTarget()
        ) as context,
    ):
        yield context


@pytest.fixture
def web_app(hr: Headrace, workspace: WorkspaceProcessContext) -> Callable[..., Starlette]:
    """Build the app; ``prefix`` is the path a proxy shows it under."""
    return lambda prefix="", login=True: HeadraceWebserver(workspace, hr, prefix, login=login).create_asgi_app()


@pytest.fixture
def people(hr: Headrace) -> People:
    return People(hr)
