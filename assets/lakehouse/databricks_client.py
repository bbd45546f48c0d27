"""The connection to a Databricks workspace: one SDK client with short time limits, its errors in Headrace's words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets.errors import ConfigurationError, LakehouseError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

    from assets.settings import Settings

HTTP_TIMEOUT_SECONDS = 60
CONNECTIONS = 32


class MissingError(LakehouseError):
    """What was named does not exist in the workspace."""


class DatabricksConnection:
    """Opens the client on first use: making one asks the host how it authenticates."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client: WorkspaceClient | None = None

    @property
    def host(self) -> str:
        return (self._settings.databricks_host or "").rstrip("/")

    @property
    def client(self) -> WorkspaceClient:
        """The client.

        Raises:
            ConfigurationError: the settings name no workspace, or no way to authenticate.
            LakehouseError: the workspace does not answer, or refuses the credentials.
        """
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> WorkspaceClient:
        try:
            from databricks.sdk import WorkspaceClient
            from databricks.sdk.core import Config
        except ImportError as error:
            raise ConfigurationError(
                "the package databricks-sdk is missing", remedy="Install it: pip install 'headrace[databricks]'"
            ) from error
        with databricks_errors(self.host):
            try:
                return WorkspaceClient(config=Config(**self._options()))
            except ValueError as error:
                raise ConfigurationError(
                    f"no way to authenticate at the workspace: {_first_line(error)}",
                    where=self.host,
                    remedy="Set HEADRACE_DATABRICKS_TOKEN, or _CLIENT_ID and _CLIENT_SECRET, or _PROFILE.",
                ) from error

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "retry_timeout_seconds": round(settings.databricks_retry_seconds),
            "http_timeout_seconds": HTTP_TIMEOUT_SECONDS,
            "max_connection_pools": CONNECTIONS,
            "max_connections_per_pool": CONNECTIONS,
            "product": "headrace",
            "product_version": "0.1.0",
        }
        if settings.databricks_profile:
            return options | {"profile": settings.databricks_profile}
        if not settings.databricks_host:
            raise ConfigurationError(
                "no Databricks workspace is set", remedy="Set HEADRACE_DATABRICKS_HOST, or HEADRACE_DATABRICKS_PROFILE."
            )
        options["host"] = settings.databricks_host
        if settings.databricks_token:
            return options | {"token": settings.databricks_token.get_secret_value(), "auth_type": "pat"}
        if settings.databricks_client_id and settings.databricks_client_secret:
            secret = settings.databricks_client_secret.get_secret_value()
            client = {"client_id": settings.databricks_client_id, "client_secret": secret, "auth_type": "oauth-m2m"}
            return options | client
        return options  # the SDK's own chain: environment, profiles, cloud identities


@contextmanager
def databricks_errors(where: str) -> Iterator[None]:
    """Turn the SDK's errors into Headrace's.

    Raises:
        MissingError: it does not exist.
        LakehouseError: what the workspace refused; retryable where it only did not answer.
    """
    import requests
    from databricks.sdk import errors
    from databricks.sdk.errors.base import DatabricksError

    try:
        yield
    except (requests.ConnectionError, requests.Timeout, TimeoutError) as error:
        raise LakehouseError(
            f"Databricks does not answer: {_first_line(error)}",
            where=where,
            remedy="Check HEADRACE_DATABRICKS_HOST and the network.",
            retryable=True,
        ) from error
    except errors.Unauthenticated as error:
        raise LakehouseError(
            f"Databricks refuses the credentials: {_first_line(error)}",
            where=where,
            remedy="Renew HEADRACE_DATABRICKS_TOKEN or the service principal's secret.",
        ) from error
    except errors.PermissionDenied as error:
        raise LakehouseError(
            f"Databricks denies it: {_first_line(error)}", where=where, remedy="See: headrace lakehouse status"
        ) from error
    except errors.NotFound as error:
        raise MissingError(f"Databricks has no such thing: {_first_line(error)}", where=where) from error
    except (errors.TooManyRequests, errors.InternalError, errors.TemporarilyUnavailable, errors.Aborted) as error:
        raise LakehouseError(
            f"Databricks is busy or failing: {_first_line(error)}", where=where, retryable=True
        ) from error
    except DatabricksError as error:
        raise LakehouseError(f"Databricks refuses the call: {_first_line(error)}", where=where) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
