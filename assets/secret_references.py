"""References to secrets that are kept elsewhere, behind one interface.

| reference | leads to | by |
|---|---|---|
| ``env:NAME`` | a variable of the process that connects | |
| ``file:PATH`` | a file of its machine, at most 1 MiB | |
| ``vault:MOUNT/PATH#FIELD`` | a field in HashiCorp Vault's KV version 2 | hvac |
| ``aws:NAME[#FIELD]`` | AWS Secrets Manager: name or ARN, and a field of its JSON | boto3 |
| ``gcp:PROJECT/SECRET[/VERSION][#FIELD]`` | Google Secret Manager | google-cloud-secret-manager |
| ``azure:VAULT/SECRET[/VERSION][#FIELD]`` | Azure Key Vault | azure-keyvault-secrets |

A reference is resolved in the process that connects, each time a connector is built, and kept nowhere. Errors name the
reference and the kind of failure, never what a server answered.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import ConfigurationError

if TYPE_CHECKING:
    from assets.settings import Settings

MAX_SECRET_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 10
KUBERNETES_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
FORMS: dict[str, re.Pattern[str]] = {
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z"),
    "file": re.compile(r"[^\n]+\Z"),
    "vault": re.compile(r"[A-Za-z0-9._\-]+/[A-Za-z0-9._/\-]+#[^#\s]+\Z"),
    "aws": re.compile(r"[A-Za-z0-9/_+=.@:\-]+(#[^#\s]+)?\Z"),
    "gcp": re.compile(r"[A-Za-z0-9:.\-]+/[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)?(#[^#\s]+)?\Z"),
    "azure": re.compile(r"[A-Za-z0-9\-]{1,127}/[A-Za-z0-9\-]{1,127}(/[A-Za-z0-9]+)?(#[^#\s]+)?\Z"),
}
"""What follows each scheme and its colon. Text that fits none is a secret itself."""
HELP = "`env:NAME`, `file:PATH`, or a reference to a secret manager (`vault:`, `aws:`, `gcp:`, `azure:`)"
SCHEMES = tuple(f"{scheme}:" for scheme in FORMS)


class SecretReferenceError(ConfigurationError):
    """A reference leads nowhere, may not be read, or the library that reads it is not installed."""


class SecretManager(ABC):
    """Somewhere that secrets are kept."""

    @abstractmethod
    def read(self, name: str) -> str:
        """The secret of that name: what stands between the scheme and the ``#``.

        Raises:
            SecretReferenceError: without ``where``; `resolve_reference` adds it.
        """


def is_reference(text: str) -> bool:
    """Whether the text is a reference, rather than a secret."""
    scheme, colon, rest = text.partition(":")
    return bool(colon) and scheme in FORMS and bool(FORMS[scheme].match(rest))


def resolve_reference(text: str, settings: Settings, where: str = "") -> str:
    """The secret that a reference leads to.

    Args:
        where: connector or tool that needs it, for the error.

    Raises:
        SecretReferenceError: it leads nowhere; ``retryable`` where the secret manager did not answer.
    """
    if not is_reference(text):
        raise SecretReferenceError("a secret is given as a reference.", where=where, remedy=f"Such as {HELP}.")
    scheme, _, rest = text.partition(":")
    name, field = (rest, "") if scheme in ("env", "file") else (rest.partition("#")[0], rest.partition("#")[2])
    try:
        secret = manager(scheme, settings).read(name if scheme != "vault" else rest)
        return secret if scheme == "vault" or not field else _field(secret, field)
    except SecretReferenceError as error:
        shown = where if scheme in ("env", "file") else f"{where}: {scheme}:{rest}".removeprefix(": ")
        raise SecretReferenceError(error.what, where=shown, remedy=error.remedy, retryable=error.retryable) from None


def manager(scheme: str, settings: Settings) -> SecretManager:
    """The secret manager of a scheme, with the login of this process. Opens no connection."""
    if scheme == "vault":
        return HashicorpVault(settings)
    if scheme == "azure":
        return AzureKeyVault(settings.azure_vault_url)
    kinds: dict[str, Callable[[], SecretManager]] = {
        "env": Environment,
        "file": Files,
        "aws": AwsSecretsManager,
        "gcp": GoogleSecretManager,
    }
    return kinds[scheme]()


class Environment(SecretManager):
    def read(self, name: str) -> str:
        value = os.environ.get(name)
        if value is None:
            raise SecretReferenceError(
                f"the environment variable {name} is not set.", remedy="Set it for the worker and for this command."
            )
        return value


class Files(SecretManager):
    def read(self, name: str) -> str:
        path = Path(name).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_BYTES + 1)
            if len(content) > MAX_SECRET_BYTES:
                raise SecretReferenceError(f"the secret file {path} cannot be read (larger than 1 MiB).")
            return content.decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise SecretReferenceError(f"the secret file {path} cannot be read ({why}).") from None


class HashicorpVault(SecretManager):
    """KV version 2, found and entered by Vault's own variables (``VAULT_ADDR``, ``VAULT_TOKEN``, ``VAULT_NAMESPACE``,
    ``VAULT_CACERT``), or by ``HEADRACE_VAULT_KUBERNETES_ROLE``, or by an AppRole."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(self, name: str) -> str:
        address = os.environ.get("VAULT_ADDR")
        if not address:
            raise SecretReferenceError("VAULT_ADDR is not set.", remedy="Set it to the address of Vault.")
        with _library("hvac", "vault"):
            import hvac
            from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultDown, VaultError
        from requests import RequestException

        place, _, field = name.partition("#")
        mount, _, path = place.partition("/")
        try:
            client = hvac.Client(timeout=TIMEOUT_SECONDS, namespace=os.environ.get("VAULT_NAMESPACE"))
            self._log_in(client)
            answer = client.secrets.kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
            values = answer["data"]["data"]
        except InvalidPath:
            raise SecretReferenceError("there is no such secret in Vault.") from None
        except (Forbidden, InvalidRequest):
            raise SecretReferenceError(
                "Vault refuses.", remedy=f"Allow `read` on {mount}/data/{path} by its policy, or renew the login."
            ) from None
        except VaultDown:
            raise SecretReferenceError("Vault is sealed.", retryable=True) from None
        except (RequestException, VaultError) as error:
            raise SecretReferenceError(f"Vault does not answer ({type(error).__name__}).", retryable=True) from None
        if field not in values:
            raise SecretReferenceError(f"the secret has no field {field!r}.")
        return str(values[field])

    def _log_in(self, client: Any) -> None:
        settings = self._settings
        if settings.vault_kubernetes_role:
            client.auth.kubernetes.login(settings.vault_kubernetes_role, Files().read(str(KUBERNETES_TOKEN)))
        elif settings.vault_role_id:
            secret = settings.vault_secret_id
            client.auth.approle.login(settings.vault_role_id, secret.get_secret_value() if secret else None)


class AwsSecretsManager(SecretManager):
    """Entered and found as boto3 does it: ``AWS_*`` variables, profile or role."""

    def read(self, name: str) -> str:
        with _library("boto3", "aws"):
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
        limits = Config(connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"max_attempts": 2})
        region = name.split(":")[3] if name.startswith("arn:") and name.count(":") >= 6 else None
        try:
            answer = boto3.client("secretsmanager", config=limits, region_name=region).get_secret_value(SecretId=name)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "ResourceNotFoundException":
                raise SecretReferenceError("there is no such secret in AWS Secrets Manager.") from None
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            raise SecretReferenceError(
                f"AWS Secrets Manager refuses ({code[:60]}).",
                remedy="Allow secretsmanager:GetSecretValue on it.",
                retryable=status >= 500 or "Throttl" in code,
            ) from None
        except (NoCredentialsError, NoRegionError) as error:
            raise SecretReferenceError(
                f"AWS cannot be asked ({type(error).__name__}).", remedy="Set AWS_REGION and the credentials."
            ) from None
        except BotoCoreError as error:
            raise SecretReferenceError(
                f"AWS Secrets Manager does not answer ({type(error).__name__}).", retryable=True
            ) from None
        text = answer.get("SecretString")
        return text if text is not None else _decoded(answer["SecretBinary"])


class GoogleSecretManager(SecretManager):
    """Entered by Google's application default credentials. ``options``: those of the library's client."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def read(self, name: str) -> str:
        with _library("google-cloud-secret-manager", "gcp-secrets"):
            from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, RetryError, Unauthenticated
            from google.auth.exceptions import GoogleAuthError
            from google.cloud.secretmanager import SecretManagerServiceClient
        project, secret, *version = name.split("/")
        path = f"projects/{project}/secrets/{secret}/versions/{version[0] if version else 'latest'}"
        try:
            # REST: the channel of gRPC does not survive the forks of worker processes.
            options: dict[str, Any] = {"transport": "rest"} | self._options
            client = SecretManagerServiceClient(**options)
            answer = client.access_secret_version(name=path, timeout=TIMEOUT_SECONDS, retry=None)
        except NotFound:
            raise SecretReferenceError("there is no such secret in Google Secret Manager.") from None
        except (Forbidden, Unauthenticated, GoogleAuthError) as error:
            raise SecretReferenceError(
                f"Google Secret Manager refuses ({type(error).__name__}).",
                remedy="Give the worker's account roles/secretmanager.secretAccessor.",
            ) from None
        except (GoogleAPICallError, RetryError, OSError) as error:
            raise SecretReferenceError(
                f"Google Secret Manager does not answer ({type(error).__name__}).", retryable=True
            ) from None
        return _decoded(answer.payload.data)


class AzureKeyVault(SecretManager):
    """Entered by Azure's default credential (environment, workload identity, managed identity).

    Args:
        address: of a vault, with ``{vault}`` for its name.
        options: further ones of the library's client; ``credential`` replaces the default one.
    """

    def __init__(self, address: str, **options: Any) -> None:
        self._address, self._options = address, options

    def read(self, name: str) -> str:
        with _library("azure-keyvault-secrets", "azure"):
            from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
            from azure.core.exceptions import ResourceNotFoundError as NotFound
            from azure.identity import CredentialUnavailableError, DefaultAzureCredential
            from azure.keyvault.secrets import SecretClient
        vault, secret, *version = name.split("/")
        limits = {"connection_timeout": TIMEOUT_SECONDS, "read_timeout": TIMEOUT_SECONDS, "retry_total": 2}
        options: dict[str, Any] = limits | self._options
        try:
            options.setdefault("credential", DefaultAzureCredential())
            with SecretClient(self._address.format(vault=vault), **options) as client:
                value = client.get_secret(secret, version[0] if version else None).value
        except NotFound:
            raise SecretReferenceError("there is no such secret in Azure Key Vault.") from None
        except (ClientAuthenticationError, CredentialUnavailableError) as error:
            raise SecretReferenceError(
                f"Azure refuses the login ({type(error).__name__}).", remedy="Give the worker a managed identity."
            ) from None
        except HttpResponseError as error:
            status = error.status_code or 0
            raise SecretReferenceError(
                f"Azure Key Vault refuses ({status}).",
                remedy="Give the worker the role Key Vault Secrets User.",
                retryable=status >= 500 or status == 429,
            ) from None
        except AzureError as error:
            raise SecretReferenceError(
                f"Azure Key Vault does not answer ({type(error).__name__}).", retryable=True
            ) from None
        return value or ""


@contextmanager
def _library(name: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise SecretReferenceError(
            f"the library {name} is not installed.", remedy=f"Run: pip install 'headrace[{extra}]'"
        ) from None


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretReferenceError("the secret is no text.") from None


def _field(secret: str, field: str) -> str:
    try:
        values = json.loads(secret)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise SecretReferenceError("the secret is no JSON object, so it has no fields.")
    if field not in values:
        raise SecretReferenceError(f"the secret has no field {field!r}.")
    return str(values[field])
