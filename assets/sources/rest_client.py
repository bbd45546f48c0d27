"""Requests of connector type ``rest_api``: dlt's client on a guarded session that logs in, waits and tries again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from requests.auth import AuthBase

from assets.errors import ConfigurationError, HeadraceError, SourceAccessError, SourceUnreachableError
from assets.guarded_requests import GuardedSession
from assets.oauth import RETRIED, AccessTokens, LoginError, OAuthClient, request_token
from assets.sources.rest_config import (
    ApiKey,
    AuthorizationCode,
    Basic,
    Bearer,
    ClientCredentials,
    RefreshToken,
    RestConfig,
)
from assets.text_columns import no_constant
from assets.url_guard import UrlGuard

EARLY_SECONDS = 30
_TRANSPORT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
Alive = Callable[[], None]


class ExactFloat(float):
    """A JSON number with a fraction or exponent, and how it was written."""

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        made = super().__new__(cls, text)
        made.text = text
        return made


class SecretStore(Protocol):
    """A stored connector's secret that the API may replace."""

    def current(self, *path: str) -> str: ...
    def replace(self, new: str, *path: str) -> None: ...
    def locked(self) -> Any: ...


class Login(AuthBase):
    """Puts the login on requests to the API's own origin, and on no others."""

    def __init__(
        self,
        config: RestConfig,
        guard: UrlGuard,
        where: str,
        secrets: SecretStore | None,
        access_tokens: AccessTokens | None = None,
    ) -> None:
        self._config, self._guard, self._where, self._secrets = config, guard, where, secrets
        self._access_tokens = access_tokens
        self._rejected: str | None = None
        self._origin = _origin(config.base_url)
        self._token: str | None = None
        self._until = 0.0
        self.secret_header = config.auth.name if isinstance(config.auth, ApiKey) else None

    @property
    def renewable(self) -> bool:
        return isinstance(self._config.auth, ClientCredentials | RefreshToken | AuthorizationCode)

    def renew(self) -> None:
        self._rejected, self._token = self._token, None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if _origin(request.url or "") != self._origin:
            raise SourceAccessError(
                "a page's link leads to another host", where=self._where, remedy="Correct `paginator` or `base_url`."
            )
        auth = self._config.auth
        if isinstance(auth, ApiKey):
            value = auth.value.get_secret_value()
            if auth.location == "header":
                request.headers[auth.name] = value
            else:
                request.prepare_url(str(request.url), {auth.name: value})
        elif isinstance(auth, Basic):
            pair = f"{auth.user}:{auth.password.get_secret_value()}".encode()
            request.headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        elif isinstance(auth, Bearer):
            request.headers["Authorization"] = f"Bearer {auth.token.get_secret_value()}"
        elif self.renewable:
            request.headers["Authorization"] = f"Bearer {self.token()}"
        return request

    def token(self) -> str:
        """The access token, renewed where it has expired or soon will."""
        if self._token is None or time.monotonic() > self._until:
            auth = self._config.auth
            if isinstance(auth, AuthorizationCode):
                return self._of_a_person(auth)
            if isinstance(auth, ClientCredentials):
                fields = {"grant_type": "client_credentials", **auth.extra}
                answer = self._ask(auth.token_url, auth.client_id, auth.client_secret, fields, auth.scope)
            else:
                assert isinstance(auth, RefreshToken)
                answer = self._refreshed(auth)
            self._token = str(answer["access_token"])
            self._until = time.monotonic() + max(1.0, float(answer.get("expires_in") or 3600) - EARLY_SECONDS)
        return self._token

    def _of_a_person(self, auth: AuthorizationCode) -> str:
        """The token that all workers share; asked for again in a while, as another one may have refreshed it."""
        if self._access_tokens is None:
            raise SourceAccessError(
                "a person has to log in at the source", where=self._where, remedy="Save the connector, then log in."
            )
        self._token = self._access_tokens.access_token(oauth_client(auth), self._rejected)
        self._until = time.monotonic() + EARLY_SECONDS
        return self._token

    def _refreshed(self, auth: RefreshToken) -> dict[str, Any]:
        """Under a lock, as a rotated token is valid once: the stored one is read again, and replaced before use."""
        if self._secrets is None:
            return self._exchange(auth, auth.refresh_token.get_secret_value())
        with self._secrets.locked():
            token = self._secrets.current("auth", "refresh_token")
            try:
                answer = self._exchange(auth, token)
            except LoginError:  # another machine may have been first
                newer = self._secrets.current("auth", "refresh_token")
                if newer == token:
                    raise
                token = newer
                answer = self._exchange(auth, token)
            rotated = answer.get("refresh_token")
            if rotated and rotated != token:
                self._secrets.replace(str(rotated), "auth", "refresh_token")
        return answer

    def _exchange(self, auth: RefreshToken, token: str) -> dict[str, Any]:
        fields = {"grant_type": "refresh_token", "refresh_token": token}
        return self._ask(auth.token_url, auth.client_id, auth.client_secret, fields, auth.scope)

    def _ask(
        self, url: str, client_id: str, secret: SecretStr | None, fields: dict[str, str], scope: str | None
    ) -> dict[str, Any]:
        sent = fields | ({"scope": scope} if scope else {})
        return request_token(url, client_id, secret, sent, self._guard, self._where)


def oauth_client(auth: AuthorizationCode) -> OAuthClient:
    return OAuthClient(**auth.model_dump(exclude={"type"}))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class RestSession(GuardedSession):
    """Bounded: in size, in rate, in tries and in time."""

    def __init__(self, config: RestConfig, guard: UrlGuard, login: Login, where: str, alive: Alive) -> None:
        super().__init__(guard, (min(10, config.timeout_seconds), config.timeout_seconds))
        self.max_redirects = 5
        self._config, self._login, self._where, self._alive = config, login, where, alive
        self._next = 0.0
        self.server_time: float | None = None
        if login.secret_header:
            self.secret_headers.add(login.secret_header.lower())

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        renewed = False
        options["stream"] = True
        attempt = -1
        while attempt < self._config.retries:
            attempt += 1
            self._alive()
            self._keep_budget()
            wait = min(30.0, 0.5 * 2**attempt)
            try:
                response = super().send(request, **options)
                self._take_body(response)
            except _TRANSPORT as error:
                if attempt == self._config.retries:
                    raise SourceUnreachableError(
                        f"the API does not answer ({type(error).__name__})", where=self._where
                    ) from None
                self._wait(wait)
                continue
            if response.status_code == 401 and self._login.renewable and not renewed:
                renewed = True
                attempt -= 1  # a login that ended is no failure of the API
                self._login.renew()
                self._login(request)
                continue
            if response.status_code not in RETRIED or attempt == self._config.retries:
                self._require_success(response)
                return response
            asked = _retry_after(response)
            if asked is not None and asked > self._config.max_wait_seconds:
                raise SourceUnreachableError(
                    f"the API asks to wait {asked:.0f} s", where=self._where, remedy="Raise max_wait_seconds."
                )
            self._wait(wait if asked is None else asked)
        raise SourceAccessError("the API refuses a token that it just gave", where=self._where)

    def _take_body(self, response: requests.Response) -> None:
        limit = self._config.max_response_bytes
        parts, size = [], 0
        for part in response.iter_content(1 << 16):
            parts.append(part)
            size += len(part)
            if size > limit:
                response.close()
                raise SourceAccessError(
                    f"a response is larger than {limit} bytes", where=self._where, remedy="Ask for smaller pages."
                )
        response._content = b"".join(parts)
        response.json = lambda **_: _exact_json(response.content)  # type: ignore[method-assign]
        if date := response.headers.get("Date"):
            try:
                self.server_time = parsedate_to_datetime(date).timestamp()
            except ValueError:
                self.server_time = None

    def _require_success(self, response: requests.Response) -> None:
        """Raise for an error; the body may repeat secrets or rows and is left out."""
        status = response.status_code
        if status < 400:
            return
        if status in RETRIED or status >= 500:
            raise SourceUnreachableError(f"the API answers {status}", where=self._where)
        remedies = {401: "Correct `auth`.", 403: "Give the login access to this endpoint.", 404: "Correct `path`."}
        raise SourceAccessError(
            f"the API answers {status}", where=self._where, remedy=remedies.get(status, "Correct `path` and `params`.")
        )

    def _keep_budget(self) -> None:
        if self._config.requests_per_minute:
            self._wait(self._next - time.monotonic())
            self._next = max(self._next, time.monotonic()) + 60 / self._config.requests_per_minute

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self._alive()


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _exact_json(content: bytes) -> Any:
    return json.loads(content, parse_float=ExactFloat, parse_constant=no_constant)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Errors of dlt's client as Headrace's."""
    from dlt.sources.helpers.rest_client.exceptions import PaginatorNotFound

    try:
        yield
    except HeadraceError:
        raise
    except requests.TooManyRedirects:
        raise SourceAccessError("the API redirects without end", where=where) from None
    except requests.RequestException as error:
        raise SourceUnreachableError(f"the API does not answer ({type(error).__name__})", where=where) from None
    except PaginatorNotFound:
        raise ConfigurationError("how pages follow was not found", where=where, remedy="Set `paginator`.") from None
    except ValueError as error:
        raise SourceAccessError(
            f"the answer does not fit the endpoint ({type(error).__name__})",
            where=where,
            remedy="Correct `data_selector`, `paginator` and `path`; the API has to answer JSON.",
        ) from None
