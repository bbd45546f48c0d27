"""Connector type ``gcs``: tables made of objects in a Google Cloud Storage bucket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from pydantic import Field, SecretStr

from assets.errors import ConfigurationError, HeadraceError, SourceAccessError, SourceUnreachableError
from assets.sources.file_tables import FileTablesConfig
from assets.sources.object_files import ObjectFilesConnector
from assets.sources.object_store import ObjectChangedError, ObjectStore, StoredObject
from assets.url_guard import UrlGuard

TIMEOUT = (5, 25)
_FIELDS = "items(name,generation,size,updated),nextPageToken"
_GRANT = (
    "gcloud storage buckets add-iam-policy-binding gs://{bucket} --member={member} --role=roles/storage.objectViewer"
)


class GcsConfig(FileTablesConfig):
    """How to reach a bucket: by a service account's key, or by the worker's own login."""

    bucket: str = Field(description="Bucket.", examples=["acme-exports"], min_length=1, max_length=255)
    service_account_json: SecretStr | None = Field(
        default=None,
        description="Key file of a service account as JSON text, or `env:NAME` / `file:PATH`; default: the worker's "
        "own login (GOOGLE_APPLICATION_CREDENTIALS, workload identity).",
        examples=["file:/run/secrets/gcs.json"],
    )
    project: str | None = Field(default=None, description="Project; default: that of the login.")
    anonymous: bool = Field(default=False, description="No login: a public bucket.")
    endpoint_url: str | None = Field(
        default=None,
        description="Address of a compatible store; one that is not public must be in HEADRACE_URL_ALLOW.",
        examples=["https://storage.example.com"],
    )


class GcsStore(ObjectStore):
    """One bucket. Reads name the generation they are meant for."""

    def __init__(self, config: GcsConfig) -> None:
        self.config = config
        self.where = f"gs://{config.bucket}"
        self._member = "serviceAccount:ACCOUNT"
        self._client = self._made()
        self._bucket_handle = self._client.bucket(config.bucket)

    def _made(self) -> Any:
        try:
            import google.auth
            from google.auth.credentials import AnonymousCredentials
            from google.auth.exceptions import GoogleAuthError
            from google.cloud import storage
            from google.oauth2 import service_account
        except ImportError:
            raise ConfigurationError(
                "the packages of connector type gcs are missing", remedy="Run: pip install 'headrace[gcs]'"
            ) from None
        config = self.config
        options = {}
        if config.endpoint_url:
            UrlGuard.from_settings().check(config.endpoint_url)
            options["api_endpoint"] = config.endpoint_url
        scopes = ["https://www.googleapis.com/auth/devstorage.read_only"]
        project = config.project
        if config.anonymous:
            credentials: Any = AnonymousCredentials()
        elif config.service_account_json:
            try:
                key = json.loads(config.service_account_json.get_secret_value())
                if not isinstance(key, dict):
                    raise ValueError
                if config.endpoint_url is None:
                    UrlGuard.from_settings().check(str(key.get("token_uri", "")))
                credentials = service_account.Credentials.from_service_account_info(key, scopes=scopes)
            except (ValueError, GoogleAuthError):
                raise SourceAccessError(
                    "service_account_json is no key file of a service account",
                    where=self.where,
                    remedy="Run: gcloud iam service-accounts keys create key.json --iam-account=ACCOUNT",
                ) from None
            self._member = f"serviceAccount:{key.get('client_email', 'ACCOUNT')}"
            project = project or key.get("project_id")
        else:
            try:
                credentials, found = google.auth.default(scopes=scopes)
                project = project or found
            except GoogleAuthError:
                raise SourceAccessError(
                    "no login was found",
                    where=self.where,
                    remedy="Set service_account_json, or GOOGLE_APPLICATION_CREDENTIALS for the worker.",
                ) from None
        return storage.Client(project=project or "none", credentials=credentials, client_options=options or None)

    @contextmanager
    def _explained(self, key: str = "") -> Iterator[None]:
        import requests
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from urllib3.exceptions import HTTPError

        where = f"{self.where}/{key}" if key else self.where
        try:
            yield
        except GoogleAPICallError as error:
            raise self._refusal(error, where, bool(key)) from None
        except TransportError:
            raise SourceUnreachableError("the login service does not answer", where=where) from None
        except GoogleAuthError as error:
            raise SourceAccessError(
                f"the login was refused ({type(error).__name__})", where=where, remedy="Renew service_account_json."
            ) from None
        # a raw download lets urllib3's own errors through
        except (requests.RequestException, HTTPError, OSError) as error:
            raise SourceUnreachableError(f"the store does not answer ({type(error).__name__})", where=where) from None

    def _refusal(self, error: Any, where: str, reading: bool) -> HeadraceError:
        code = int(error.code or 0)
        if code == 401:
            return SourceAccessError("the login was refused", where=where, remedy="Correct service_account_json.")
        if code == 403:
            action = "storage.objects.get" if reading else "storage.objects.list"
            return SourceAccessError(f"{action} is denied", where=where, remedy=self.grant())
        if code == 404 and not reading:
            return SourceAccessError("there is no such bucket", where=where, remedy="Correct `bucket`.")
        if code >= 500 or code in (408, 429):
            return SourceUnreachableError(f"the store answers {code}", where=where)
        return SourceAccessError(f"the store answers {code}", where=where)

    def grant(self) -> str:
        """The command that grants what is needed: list and read."""
        return "Run: " + _GRANT.format(bucket=self.config.bucket, member=self._member)

    def _pages(self, prefix: str, limit: int | None = None) -> Iterator[StoredObject]:
        with self._explained():
            listed = self._client.list_blobs(
                self.config.bucket, prefix=prefix or None, fields=_FIELDS, max_results=limit, timeout=TIMEOUT
            )
            for blob in listed:
                yield self._stored(blob)

    @staticmethod
    def _stored(blob: Any) -> StoredObject:
        changed = blob.updated.timestamp() if blob.updated else 0.0
        return StoredObject(blob.name, str(blob.generation), int(blob.size or 0), changed)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        return self._pages(prefix)

    def stat(self, key: str) -> StoredObject | None:
        with self._explained(key):
            blob = self._bucket_handle.get_blob(key, timeout=TIMEOUT)
        return self._stored(blob) if blob else None

    def fetch(self, found: StoredObject, start: int, length: int) -> bytes:
        from google.api_core.exceptions import NotFound, PreconditionFailed, RequestRangeNotSatisfiable

        generation = int(found.version)
        with self._explained(found.key):
            try:
                blob = self._bucket_handle.blob(found.key, generation=generation)
                return blob.download_as_bytes(
                    start=start,
                    end=start + length - 1,
                    if_generation_match=generation,
                    raw_download=True,  # an object stored with Content-Encoding gzip comes as it is stored
                    timeout=TIMEOUT,
                    retry=None,
                )
            except (NotFound, PreconditionFailed, RequestRangeNotSatisfiable):
                raise ObjectChangedError(found.key) from None

    def checks(self) -> list[tuple[str, Callable[[], tuple[str, str]]]]:
        return [
            ("network", self._network),
            ("login", self._login),
            ("bucket", self._bucket),
            ("list", lambda: self._listed(lambda error: True)),
            ("read", self._read_one),
        ]

    def _network(self) -> tuple[str, str]:
        from assets.sources.object_store import reachable

        return reachable(self.config.endpoint_url or "https://storage.googleapis.com", TIMEOUT[0])

    def _listed(self, concerns: Callable[[HeadraceError], bool]) -> tuple[str, str]:
        try:
            next(self._pages(self.config.prefix, 1), None)
        except SourceAccessError as error:
            if concerns(error):
                return error.what, error.remedy
        return "", ""

    def _login(self) -> tuple[str, str]:
        return self._listed(lambda error: "login" in error.what)

    def _bucket(self) -> tuple[str, str]:
        return self._listed(lambda error: "denied" not in error.what)

    def _read_one(self) -> tuple[str, str]:
        first = next((item for item in self.objects(self.config.prefix) if item.size), None)
        if first is not None:
            with suppress(ObjectChangedError):  # it can be read, only another version of it
                self.fetch(first, 0, 1)
        return "", ""


class GcsConnector(ObjectFilesConnector):
    """Objects of a GCS bucket as tables."""

    type_name: ClassVar[str] = "gcs"
    Config = GcsConfig
    config: GcsConfig

    def store(self) -> GcsStore:
        return GcsStore(self.config)
