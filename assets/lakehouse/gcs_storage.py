"""Parts in a Google Cloud Storage bucket. No tables: those of the local engine lie in folders and in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets.errors import ConfigurationError
from assets.lakehouse.storage import StagingStorage, StoredFile

if TYPE_CHECKING:
    from assets.settings import Settings

_TIMEOUT = (10, 60)
_CHUNK_BYTES = 8 << 20
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class GcsStorage(StagingStorage):
    """Addresses are ``gs://bucket/name``. The login is the settings' service account, else the machine's own."""

    def __init__(self, settings: Settings) -> None:
        try:
            import google.auth
            from google.auth.exceptions import GoogleAuthError
            from google.cloud import storage
            from google.oauth2 import service_account
        except ImportError:
            raise ConfigurationError(
                "the packages of staging in GCS are missing", remedy="Run: pip install 'headrace[gcs]'"
            ) from None
        try:
            if settings.gcs_service_account_json:
                key = json.loads(settings.gcs_service_account_json.get_secret_value())
                credentials: Any = service_account.Credentials.from_service_account_info(key, scopes=[_SCOPE])
                project = str(key.get("project_id") or "none")
            else:
                credentials, found = google.auth.default(scopes=[_SCOPE])
                project = found or "none"
        except (ValueError, AttributeError, GoogleAuthError) as error:
            raise ConfigurationError(
                f"no login for staging in GCS ({type(error).__name__})",
                remedy="Set HEADRACE_GCS_SERVICE_ACCOUNT_JSON (the key file's text) or GOOGLE_APPLICATION_CREDENTIALS.",
            ) from None
        options = {"api_endpoint": settings.gcs_endpoint_url} if settings.gcs_endpoint_url else None
        self._client: Any = storage.Client(project=project, credentials=credentials, client_options=options)

    def _blob(self, address: str) -> Any:
        bucket, _, name = address.removeprefix("gs://").partition("/")
        return self._client.bucket(bucket).blob(name, chunk_size=_CHUNK_BYTES)

    def open_input(self, address: str) -> Any:
        from pyarrow import PythonFile

        self.stat(address)
        return PythonFile(self._blob(address).open("rb", timeout=_TIMEOUT), mode="r")

    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        upload = self._blob(address).open("wb", ignore_flush=True, timeout=_TIMEOUT)
        try:
            yield upload
        except BaseException:
            upload.terminate()  # closing would complete the upload
            raise
        upload.close()

    def read_text(self, address: str) -> str:
        with self._found(address):
            return self._blob(address).download_as_text(timeout=_TIMEOUT)

    def stat(self, address: str) -> StoredFile:
        blob = self._blob(address)
        with self._found(address):
            blob.reload(timeout=_TIMEOUT)
        return self._stored(blob)

    @staticmethod
    def _stored(blob: Any) -> StoredFile:
        return StoredFile(blob.name.rsplit("/", 1)[-1], int(blob.size or 0), blob.updated.timestamp())

    @staticmethod
    @contextmanager
    def _found(address: str) -> Iterator[None]:
        from google.api_core.exceptions import NotFound

        try:
            yield
        except NotFound:
            raise FileNotFoundError(address) from None

    def delete(self, address: str) -> None:
        from google.api_core.exceptions import NotFound

        try:
            self._blob(address).delete(timeout=_TIMEOUT)
        except NotFound:
            return

    def _listed(self, prefix: str, **options: Any) -> Iterator[Any]:
        bucket, _, name = prefix.removeprefix("gs://").partition("/")
        return iter(self._client.list_blobs(bucket, prefix=name, timeout=_TIMEOUT, **options))

    def delete_folder(self, folder: str) -> None:
        for blob in self._listed(f"{folder}/"):
            self.delete(f"gs://{blob.bucket.name}/{blob.name}")

    def files(self, folder: str, prefix: str = "") -> Iterator[StoredFile]:
        for blob in self._listed(f"{folder}/{prefix}", delimiter="/"):
            yield self._stored(blob)
