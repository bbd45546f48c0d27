"""Parts in GCS appear whole or not at all, and a wrong login is told without the key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from assets.errors import ConfigurationError
from assets.lakehouse.gcs_storage import GcsStorage
from assets.settings import Settings
from tests.servers.gcs_server import GcsServer
from tests.servers.google_tokens import GoogleTokens


@pytest.fixture
def storage(settings: Settings, gcs_server: GcsServer) -> Iterator[GcsStorage]:
    with GoogleTokens() as tokens:
        login = {"gcs_service_account_json": SecretStr(tokens.service_account()), "gcs_endpoint_url": gcs_server.url}
        yield GcsStorage(settings.model_copy(update=login))


def test_a_file_appears_when_it_is_whole(storage: GcsStorage, gcs_server: GcsServer) -> None:
    folder = f"gs://{gcs_server.create_bucket()}/a/b"
    content = bytes(range(256)) * 80_000
    with storage.open_output(f"{folder}/one") as file:
        file.write(content)
        assert list(storage.files(folder)) == []
    with pytest.raises(RuntimeError), storage.open_output(f"{folder}/cut") as file:
        file.write(content)
        raise RuntimeError
    with storage.open_output(f"{folder}/c/deep.json") as file:
        file.write('{"ä": 1}'.encode())
    assert [(f.name, f.size) for f in storage.files(folder)] == [("one", len(content))]
    assert list(storage.files(folder, "two")) == []
    assert storage.stat(f"{folder}/one").changed > 1_700_000_000
    assert storage.read_text(f"{folder}/c/deep.json") == '{"ä": 1}'
    with storage.open_input(f"{folder}/one") as opened:
        opened.seek(len(content) - 5)
        assert (opened.size(), opened.read()) == (len(content), content[-5:])
    for read in (storage.open_input, storage.stat, storage.read_text):
        with pytest.raises(FileNotFoundError):
            read(f"{folder}/cut")
    storage.delete(f"{folder}/one")
    storage.delete(f"{folder}/one")
    storage.delete_folder(folder)
    with pytest.raises(FileNotFoundError):
        storage.stat(f"{folder}/c/deep.json")


@pytest.mark.parametrize(
    "key", ["{}", "[1]", "canary-key-77", '{"type": "service_account", "private_key": "canary-key-77"}']
)
def test_a_key_that_is_none_is_told_without_its_text(settings: Settings, key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        GcsStorage(settings.model_copy(update={"gcs_service_account_json": SecretStr(key)}))
    assert "HEADRACE_GCS_SERVICE_ACCOUNT_JSON" in raised.value.remedy
    assert "canary" not in str(raised.value)
