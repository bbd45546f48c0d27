"""The API in this process, as an administrator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from assets.settings import Settings
from orchestration.api.app import build_api
from orchestration.headrace import Headrace
from orchestration.web.principal import EVERYONE, set_principal


@pytest.fixture
def hr(settings: Settings) -> Headrace:
    return Headrace(settings=settings)


class AsAdministrator:
    """Stands where the login stands."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        set_principal(scope, EVERYONE)
        await self.app(scope, receive, send)


@pytest.fixture
def api(hr: Headrace) -> FastAPI:
    return build_api(hr)


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(AsAdministrator(api), raise_server_exceptions=False) as client:
        yield client
