"""What a person's access to a connector's source is worth, as the API and the pages show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field

from assets.sync import Model

WARN = timedelta(days=7)


class OAuthState(Model):
    """What a person's access to a connector's source is worth now; no token is in it."""

    authorized_by: str
    authorized_at: datetime
    access_expires_at: datetime
    refreshable: bool = Field(description="whether a refresh token is kept")
    refresh_expires_at: datetime | None = Field(default=None, description="its end, where the server tells it")
    problem: str | None = Field(default=None, description="why the last refresh was refused")

    @property
    def ends_at(self) -> datetime | None:
        """When somebody has to log in again; None: not known."""
        return self.refresh_expires_at if self.refreshable else self.access_expires_at

    def warning(self) -> str:
        """What to say of it before it bites, or empty."""
        if self.problem:
            return f"access has to be given again: {self.problem}"
        if self.ends_at is None or self.ends_at - datetime.now(UTC) > WARN:
            return ""
        verb = "ended" if self.ends_at <= datetime.now(UTC) else "ends"
        return f"the access that {self.authorized_by} gave {verb} {self.ends_at:%Y-%m-%d %H:%M} UTC"


def oauth_state(stored: dict[str, Any] | None) -> OAuthState | None:
    """The state as the connector's row tells it."""
    return (
        OAuthState.model_validate({k: v for k, v in stored.items() if k in OAuthState.model_fields}) if stored else None
    )
