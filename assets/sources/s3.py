"""Connector type ``s3``: tables made of objects in an S3 bucket, or in anything that speaks S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr, model_validator

from assets.boto_sessions import boto_session
from assets.errors import ConfigurationError, HeadraceError, SourceAccessError, SourceUnreachableError
from assets.sources.file_tables import FileTablesConfig
from assets.sources.object_files import ObjectFilesConnector
from assets.sources.object_store import ObjectChangedError, ObjectStore, StoredObject, reachable
from assets.sources.s3_ranges import S3Ranges
from assets.url_guard import UrlGuard

if TYPE_CHECKING:
    from typing import Self

CONNECT_SECONDS, READ_SECONDS = 5, 25
_DENIED = ("AccessDenied", "403", "AllAccessDisabled")
_LOGIN = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthorizationHeaderMalformed",
)
_CHANGED = ("PreconditionFailed", "412", "NoSuchKey", "404", "InvalidRange", "416")


class S3Config(FileTablesConfig):
    """How to reach a bucket. Without key or profile, boto3 finds credentials (environment, instance, container)."""

    bucket: str = Field(description="Bucket.", examples=["acme-exports"], min_length=1, max_length=255)
    region: str = Field(default="us-east-1", description="Region of the bucket.", examples=["eu-central-1"])
    access_key_id: SecretStr | None = Field(default=None, description="Access key, or `env:NAME` / `file:PATH`.")
    secret_access_key: SecretStr | None = Field(default=None, description="Secret key, or `env:NAME` / `file:PATH`.")
    session_token: SecretStr | None = Field(default=None, description="Session token of temporary keys.")
    profile: str | None = Field(default=None, description="Profile of the worker's AWS configuration.")
    role_arn: str | None = Field(
        default=None, description="Role to assume.", examples=["arn:aws:iam::123456789012:role/headrace"]
    )
    external_id: str | None = Field(default=None, description="External id that the role asks for.")
    endpoint_url: str | None = Field(
        default=None,
        description="Address of an S3-compatible store; one that is not public must be in HEADRACE_URL_ALLOW.",
        examples=["https://minio.example.com"],
    )
    path_style: bool = Field(default=True, description="Address buckets by path at `endpoint_url`.")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.access_key_id and self.profile:
            raise ValueError("give a key or a profile, not both")
        return self


class S3Store(ObjectStore):
    """One bucket through boto3. Reads name the ETag they are meant for (``If-Match``)."""

    def __init__(self, config: S3Config) -> None:
        self.config = config
        self.where = f"s3://{config.bucket}"
        self._client, self._ranges = self._made()

    def _made(self) -> tuple[Any, S3Ranges]:
        try:
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise ConfigurationError(
                "the packages of connector type s3 are missing", remedy="Run: pip install 'headrace[s3]'"
            ) from None
        config = self.config
        if config.endpoint_url:
            UrlGuard.from_settings().check(config.endpoint_url)
        style = "path" if config.endpoint_url and config.path_style else "auto"
        options = Config(
            retries={"mode": "standard", "max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=16,
            s3={"addressing_style": style},
        )
        try:
            session = boto_session(
                aws_access_key_id=_plain(config.access_key_id),
                aws_secret_access_key=_plain(config.secret_access_key),
                aws_session_token=_plain(config.session_token),
                profile_name=config.profile,
                region_name=config.region,
            )
            if config.role_arn:
                session = self._assumed(session, options)
            client = session.client("s3", endpoint_url=config.endpoint_url, config=options)
        except BotoCoreError as error:
            raise SourceAccessError(
                " ".join(str(error).split())[:300],
                where=self.where,
                remedy="Correct `profile`, `role_arn` or the keys.",
            ) from None
        return client, S3Ranges(session, client, config.bucket, self.where)

    def _assumed(self, session: Any, options: Any) -> Any:
        """A session of the role, renewed by botocore before its keys expire."""
        import botocore.session
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        extra = {"RoleSessionName": "headrace"}
        if self.config.external_id:
            extra["ExternalId"] = self.config.external_id
        fetcher = AssumeRoleCredentialFetcher(
            session._session.create_client,
            session.get_credentials(),
            self.config.role_arn,
            extra_args=extra,
        )
        inner = botocore.session.get_session()
        inner._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
        return boto_session(inner, region_name=self.config.region)

    @contextmanager
    def _explained(self, key: str = "") -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        from urllib3.exceptions import HTTPError

        where = f"{self.where}/{key}" if key else self.where
        try:
            yield
        except ClientError as error:
            raise self._refusal(error, where, key) from None
        except NoCredentialsError:
            raise SourceAccessError(
                "no credentials were found",
                where=where,
                remedy="Set access_key_id and secret_access_key, a profile, or the worker's AWS environment.",
            ) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            if "Credential" in type(error).__name__ or "Token" in type(error).__name__:
                raise SourceAccessError(f"{type(error).__name__}", where=where, remedy="Renew the login.") from None
            raise SourceUnreachableError(f"the store does not answer ({type(error).__name__})", where=where) from None

    def _refusal(self, error: Any, where: str, key: str) -> HeadraceError:
        code = str(error.response["Error"].get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _LOGIN:
            return SourceAccessError(f"the login was refused ({code})", where=where, remedy="Correct the keys.")
        if code in ("NoSuchBucket",):
            return SourceAccessError("there is no such bucket", where=where, remedy="Correct `bucket`.")
        if code in ("PermanentRedirect", "301", "IllegalLocationConstraintException"):
            return SourceAccessError("the bucket is in another region", where=where, remedy="Correct `region`.")
        if code in _DENIED:
            action = "s3:GetObject" if key else "s3:ListBucket"
            return SourceAccessError(f"{action} is denied", where=where, remedy=self.policy(action))
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling", "429", "RequestTimeTooSkewed"):
            return SourceUnreachableError(f"the store answers {code or status}", where=where)
        return SourceAccessError(f"the store answers {code or status}", where=where)

    def policy(self, *actions: str) -> str:
        """The IAM statement that grants actions, or all that are needed."""
        bucket = f"arn:aws:s3:::{self.config.bucket}"
        wanted = actions or ("s3:ListBucket", "s3:GetObject")
        statements = [
            {
                "Effect": "Allow",
                "Action": action,
                "Resource": bucket if action == "s3:ListBucket" else f"{bucket}/{self.config.prefix}*",
            }
            for action in wanted
        ]
        return "Attach this IAM policy: " + json.dumps({"Version": "2012-10-17", "Statement": statements})

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        token: dict[str, str] = {}
        while True:
            page = self._page(prefix, token)
            for item in page.get("Contents", ()):
                yield StoredObject(
                    item["Key"], item["ETag"].strip('"'), int(item["Size"]), item["LastModified"].timestamp()
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, token: dict[str, str]) -> dict[str, Any]:
        import time

        for attempt in range(4):
            try:
                with self._explained():
                    return self._client.list_objects_v2(Bucket=self.config.bucket, Prefix=prefix, **token)
            except SourceUnreachableError:
                if attempt == 3:
                    raise
                time.sleep(0.2 * 3**attempt)
        raise AssertionError("unreachable")

    def stat(self, key: str) -> StoredObject | None:
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                head = self._client.head_object(Bucket=self.config.bucket, Key=key)
            except ClientError as error:
                if str(error.response["Error"].get("Code")) in ("404", "NoSuchKey"):
                    return None
                raise
        return StoredObject(key, head["ETag"].strip('"'), int(head["ContentLength"]), head["LastModified"].timestamp())

    def fetch(self, found: StoredObject, start: int, length: int) -> bytes:
        from botocore.exceptions import ClientError

        with self._explained(found.key):
            if (data := self._ranges.read(found, start, length)) is not None:
                return data
            try:
                answer = self._client.get_object(
                    Bucket=self.config.bucket,
                    Key=found.key,
                    IfMatch=f'"{found.version}"',
                    Range=f"bytes={start}-{start + length - 1}",
                )
                if answer["ETag"].strip('"') != found.version:
                    raise ObjectChangedError(found.key)
                return answer["Body"].read()
            except ClientError as error:
                if str(error.response["Error"].get("Code")) in _CHANGED:
                    raise ObjectChangedError(found.key) from None
                raise

    def checks(self) -> list[tuple[str, Callable[[], tuple[str, str]]]]:
        return [
            ("network", self._network),
            ("login", self._login),
            ("bucket", self._bucket),
            ("list", self._list),
            ("read", self._read_one),
        ]

    def _network(self) -> tuple[str, str]:
        return reachable(self._client.meta.endpoint_url, CONNECT_SECONDS)

    def _login(self) -> tuple[str, str]:
        try:
            self._page_of_one()
        except SourceAccessError as error:
            if "login" in error.what or "credentials" in error.what or "Credential" in error.what:
                return error.what, error.remedy
        return "", ""

    def _page_of_one(self) -> dict[str, Any]:
        with self._explained():
            return self._client.list_objects_v2(Bucket=self.config.bucket, Prefix=self.config.prefix, MaxKeys=1)

    def _bucket(self) -> tuple[str, str]:
        try:
            self._page_of_one()
        except SourceAccessError as error:
            if "denied" not in error.what:
                return error.what, error.remedy
        return "", ""

    def _list(self) -> tuple[str, str]:
        self._page_of_one()
        return "", ""

    def _read_one(self) -> tuple[str, str]:
        first = next((item for item in self.objects(self.config.prefix) if item.size), None)
        if first is None:
            return "", ""
        try:
            self.fetch(first, 0, 1)
        except ObjectChangedError:
            return "", ""
        return "", ""


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


class S3Connector(ObjectFilesConnector):
    """Objects of an S3 bucket as tables."""

    type_name: ClassVar[str] = "s3"
    Config = S3Config
    config: S3Config

    def store(self) -> S3Store:
        return S3Store(self.config)
