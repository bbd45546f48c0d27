"""Tables and parts in an S3 bucket, or in anything that speaks S3 and honours ``If-None-Match``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets.boto_sessions import boto_session
from assets.errors import ConfigurationError
from assets.lakehouse.storage import Storage, StoredFile

if TYPE_CHECKING:
    from assets.settings import Settings

_MISSING = ("404", "NoSuchKey")
_EXISTS = ("412", "PreconditionFailed")
_RACING = ("409", "ConditionalRequestConflict")
_COPY_LIMIT = 5 << 30


class S3Storage(Storage):
    """Reads and writes through pyarrow, conditional writes and listings through boto3, one set of credentials.

    Credentials are those of the settings, else boto3's own chain (environment, profile, role).
    """

    def __init__(self, settings: Settings) -> None:
        from botocore.config import Config

        keys = (settings.s3_access_key_id, settings.s3_secret_access_key)
        self._session = boto_session(
            aws_access_key_id=keys[0].get_secret_value() if keys[0] else None,
            aws_secret_access_key=keys[1].get_secret_value() if keys[1] else None,
            region_name=settings.s3_region,
        )
        self._endpoint = settings.s3_endpoint_url
        self._region = settings.s3_region
        config = Config(
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=10,
            read_timeout=60,
            s3={"addressing_style": "path"} if self._endpoint else {},
        )
        self._client: Any = self._session.client("s3", endpoint_url=self._endpoint, config=config)
        self._opened: tuple[Any, Any] | None = None

    def _credentials(self) -> Any:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise ConfigurationError(
                "no S3 credentials were found",
                remedy="Set HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY, or AWS's own environment.",
            )
        return credentials.get_frozen_credentials()

    @property
    def _files(self) -> Any:
        """pyarrow's file system, made anew when a role's credentials were renewed."""
        from pyarrow import fs

        credentials = self._credentials()
        if self._opened is None or self._opened[0] != credentials:
            options: dict[str, Any] = {}
            if self._endpoint:
                scheme, _, host = self._endpoint.partition("://")
                options = {"endpoint_override": host, "scheme": scheme, "force_virtual_addressing": False}
            opened = fs.S3FileSystem(
                access_key=credentials.access_key,
                secret_key=credentials.secret_key,
                session_token=credentials.token,
                region=self._region,
                **options,
            )
            self._opened = (credentials, opened)
        return self._opened[1]

    @property
    def delta_options(self) -> dict[str, str]:  # type: ignore[override]
        credentials = self._credentials()
        options = {
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": self._region,
        }
        if credentials.token:
            options["AWS_SESSION_TOKEN"] = credentials.token
        if self._endpoint:
            options |= {"AWS_ENDPOINT_URL": self._endpoint, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
            if self._endpoint.startswith("http://"):
                options["AWS_ALLOW_HTTP"] = "true"
        return options

    @staticmethod
    def _place(address: str) -> dict[str, str]:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        return {"Bucket": bucket, "Key": key}

    def open_input(self, address: str) -> Any:
        return self._files.open_input_file(address.removeprefix("s3://"))

    @contextmanager
    def open_output(self, address: str) -> Iterator[Any]:
        stream = self._files.open_output_stream(address.removeprefix("s3://"))
        try:
            yield stream
        except BaseException:
            # closing completes the upload: what was cut short must not stay under a part's name
            stream.close()
            self.delete(address)
            raise
        stream.close()

    def adopt(self, part: str, address: str) -> None:
        if self.stat(part).size >= _COPY_LIMIT:
            self._client.copy(self._place(part), **self._place(address))
        else:
            self._client.copy_object(CopySource=self._place(part), **self._place(address))

    def create(self, address: str, text: str) -> None:
        from botocore.exceptions import ClientError

        for attempt in range(5):
            try:
                self._client.put_object(**self._place(address), Body=text.encode(), IfNoneMatch="*")
                return
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _RACING and attempt < 4:
                    continue  # S3 asks to try again: a rival's write of this key is not decided yet
                if code not in _EXISTS:
                    raise
                # the answer to our own write may have been lost and sent again
                if self.read_text(address) != text:
                    raise FileExistsError(address) from error
                return

    def read_text(self, address: str) -> str:
        with self._found(address):
            return self._client.get_object(**self._place(address))["Body"].read().decode()

    def stat(self, address: str) -> StoredFile:
        with self._found(address):
            head = self._client.head_object(**self._place(address))
        return StoredFile(
            address.rsplit("/", 1)[-1], int(head["ContentLength"]), float(head["LastModified"].timestamp())
        )

    @staticmethod
    @contextmanager
    def _found(address: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                raise FileNotFoundError(address) from error
            raise

    def _objects(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        place = self._place(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=place["Bucket"], Prefix=place["Key"], **options
        )
        for page in pages:
            yield from page.get("Contents", ())

    def files(self, folder: str, prefix: str = "") -> Iterator[StoredFile]:
        for found in self._objects(f"{folder}/{prefix}", Delimiter="/"):
            name = found["Key"].rsplit("/", 1)[-1]
            yield StoredFile(name, int(found["Size"]), float(found["LastModified"].timestamp()))

    def settle(self, folder: str) -> None:
        """An object is durable once written."""

    def delete(self, address: str) -> None:
        self._client.delete_object(**self._place(address))

    def delete_folder(self, folder: str) -> None:
        bucket = self._place(folder)["Bucket"]
        batch: list[dict[str, str]] = []
        for found in self._objects(f"{folder}/"):
            batch.append({"Key": found["Key"]})
            if len(batch) == 1000:
                self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
                batch = []
        if batch:
            self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
