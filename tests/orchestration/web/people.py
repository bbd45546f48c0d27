"""People and tokens of a test installation, and clients that are logged in as they are."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

from starlette.applications import Starlette
from starlette.testclient import TestClient

from assets.catalog.access_records import ROLE_SCOPES, Role
from orchestration.headrace import Headrace
from orchestration.web.passwords import hash_password
from orchestration.web.sessions import Sessions, csrf_token

LOCAL = "http://127.0.0.1:3000"
PASSWORD = "a long enough password"


class People:
    """A viewer, an operator and an admin, named as their roles."""

    def __init__(self, hr: Headrace) -> None:
        self.access = hr.catalog.access
        self.sessions = Sessions(hr.settings, self.access)
        known = hash_password(PASSWORD)
        for role in get_args(Role):
            self.access.add_user(role, role, known)

    def token(self, role: Role) -> str:
        return self.access.make_token("test", role, sorted(ROLE_SCOPES[role]), timedelta(days=1))[1]

    def client(self, app: Starlette, role: Role) -> TestClient:
        """A browser that is logged in and sends what our pages send."""
        secret = self.access.open_session(role, timedelta(hours=1))
        headers = {"Origin": LOCAL, "X-CSRF-Token": csrf_token(secret)}
        cookies = {self.sessions.cookie: secret}
        return TestClient(app, base_url=LOCAL, headers=headers, cookies=cookies, raise_server_exceptions=False)


def anonymous(app: Starlette, **headers: str) -> TestClient:
    return TestClient(app, base_url=LOCAL, headers=headers, raise_server_exceptions=False, follow_redirects=False)


def bearer(app: Starlette, token: str) -> TestClient:
    return anonymous(app, Authorization=f"Bearer {token}")
