"""References to secret managers: each read by its vendor's own library from a server that speaks its protocol."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from google.auth.credentials import AnonymousCredentials

from assets import secret_references
from assets.secret_references import (
    AzureKeyVault,
    GoogleSecretManager,
    SecretReferenceError,
    is_reference,
    resolve_reference,
)
from assets.settings import Settings
from tests.servers.secret_managers import TOKEN, SecretManagers

SECRET = "canary-s3cret:with/%signs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretManagers]:
    with SecretManagers() as running:
        monkeypatch.setenv("VAULT_ADDR", running.url)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", running.url)
        for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "eu-central-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        yield running


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env:SHOP_PASSWORD", True),
        ("file:/run/secrets/shop", True),
        ("vault:secret/shop/db#password", True),
        ("aws:prod/shop#password", True),
        ("aws:arn:aws:secretsmanager:eu-central-1:1:secret:shop-AbCdEf", True),
        ("gcp:my-project/shop", True),
        ("gcp:my-project/shop/3#password", True),
        ("azure:shop-vault/password", True),
        ("hunter2", False),
        ("vault:no-field", False),
        ("env:not a name", False),
        ("aws:", False),
        ("azure:evil.example/x", False),
        ("azure:a/b@evil.example", False),
        ("file:", False),
        ("http://example.com/x", False),
    ],
)
def test_only_the_documented_forms_are_references(text: str, expected: bool) -> None:
    assert is_reference(text) is expected


def test_vault_gives_a_field_by_token_and_by_approle(
    server: SecretManagers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.secrets["vault/secret/shop"] = {"password": SECRET}
    assert resolve_reference("vault:secret/shop#password", settings) == SECRET
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(SecretReferenceError, match=r"shop: vault:secret/shop#password: Vault refuses") as caught:
        resolve_reference("vault:secret/shop#password", settings, "shop")
    assert not caught.value.retryable
    role = settings.model_copy(update={"vault_role_id": "role-1", "vault_secret_id": _secret("id-1")})
    assert resolve_reference("vault:secret/shop#password", role) == SECRET
    wrong = settings.model_copy(update={"vault_role_id": "role-1", "vault_secret_id": _secret("canary-id")})
    with pytest.raises(SecretReferenceError, match="Vault refuses") as caught:
        resolve_reference("vault:secret/shop#password", wrong)
    assert "canary" not in str(caught.value)


def test_vault_is_entered_by_the_pods_own_account(
    server: SecretManagers, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("jwt-1")
    monkeypatch.setattr(secret_references, "KUBERNETES_TOKEN", token)
    monkeypatch.delenv("VAULT_TOKEN")
    server.secrets["vault/secret/shop"] = {"password": SECRET}
    pod = settings.model_copy(update={"vault_kubernetes_role": "headrace"})
    assert resolve_reference("vault:secret/shop#password", pod) == SECRET


def test_aws_gives_a_secret_and_a_field_of_its_json(server: SecretManagers, settings: Settings) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf"
    server.secrets |= {"aws/plain": SECRET, "aws/prod/shop": f'{{"password": "{SECRET}"}}', f"aws/{arn}": SECRET}
    assert resolve_reference("aws:plain", settings) == SECRET
    assert resolve_reference("aws:prod/shop#password", settings) == SECRET
    assert resolve_reference(f"aws:{arn}", settings) == SECRET
    for reference, what in {
        "aws:none": "no such secret",
        "aws:prod/shop#user": "no field 'user'",
        "aws:plain#x": "no JSON object",
    }.items():
        with pytest.raises(SecretReferenceError, match=what) as caught:
            resolve_reference(reference, settings)
        assert SECRET not in str(caught.value)


def test_google_gives_the_latest_or_a_named_version(server: SecretManagers) -> None:
    server.secrets |= {"gcp/p/shop/latest": SECRET, "gcp/p/shop/2": "older"}
    google = GoogleSecretManager(credentials=AnonymousCredentials(), client_options={"api_endpoint": server.url})
    assert google.read("p/shop") == SECRET
    assert google.read("p/shop/2") == "older"
    with pytest.raises(SecretReferenceError, match="no such secret"):
        google.read("p/other")
    server.status = 503
    with pytest.raises(SecretReferenceError, match="does not answer") as caught:
        google.read("p/shop")
    assert caught.value.retryable and "canary" not in str(caught.value)


class _Credential:
    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("azure-token", int(time.time()) + 3600)


def test_azure_gives_a_secret(tmp_path: Path) -> None:
    with SecretManagers(tls_folder=tmp_path) as server:
        server.secrets["azure/password"] = SECRET
        options = {"credential": _Credential(), "verify_challenge_resource": False, "retry_total": 0}
        azure = AzureKeyVault(server.url, connection_verify=str(server.ca_file), **options)
        assert azure.read("shop-vault/password") == SECRET
        with pytest.raises(SecretReferenceError, match="no such secret"):
            azure.read("shop-vault/other")
        server.status = 403
        with pytest.raises(SecretReferenceError, match=r"refuses \(403\)") as caught:
            azure.read("shop-vault/password")
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "module", "extra"),
    [
        ("vault:secret/shop#password", "hvac", "vault"),
        ("aws:shop", "boto3", "aws"),
        ("gcp:p/shop", "google.cloud.secretmanager", "gcp-secrets"),
        ("azure:shop-vault/password", "azure.keyvault.secrets", "azure"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    server: SecretManagers, settings: Settings, monkeypatch: pytest.MonkeyPatch, reference: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SecretReferenceError, match=rf"not installed\.\nRun: pip install 'headrace\[{extra}\]'"):
        resolve_reference(reference, settings)


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_is_tried_again_and_its_answer_is_not_repeated(
    server: SecretManagers, settings: Settings, status: int
) -> None:
    server.status = status
    with pytest.raises(SecretReferenceError) as caught:
        resolve_reference("vault:secret/shop#password", settings)
    assert caught.value.retryable
    assert "canary" not in str(caught.value)


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)
