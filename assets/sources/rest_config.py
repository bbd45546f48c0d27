"""Config of connector type ``rest_api``: where the API is, how to log in, and what its endpoints are."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from assets.sources.interface import ConnectorConfig
from assets.types import arrow_type

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoAuth(_Model):
    """No login."""

    type: Literal["none"] = "none"


class ApiKey(_Model):
    """A key in a header or in the query."""

    type: Literal["api_key"]
    name: str = Field(default="X-API-Key", description="Name of the header or parameter.")
    value: SecretStr = Field(description="The key, or `env:NAME` / `file:PATH`.")
    location: Literal["header", "query"] = Field(default="header", description="Where the API expects it.")


class Basic(_Model):
    """User and password."""

    type: Literal["basic"]
    user: str = Field(description="User.")
    password: SecretStr = Field(description="Password, or `env:NAME` / `file:PATH`.")


class Bearer(_Model):
    """A token that does not expire."""

    type: Literal["bearer"]
    token: SecretStr = Field(description="Token, or `env:NAME` / `file:PATH`.")


class ClientCredentials(_Model):
    """OAuth2 client credentials; the token is renewed when it expires."""

    type: Literal["oauth2_client_credentials"]
    token_url: str = Field(description="Token endpoint.", examples=["https://login.example.com/oauth/token"])
    client_id: str = Field(description="Client id.")
    client_secret: SecretStr = Field(description="Client secret, or `env:NAME` / `file:PATH`.")
    scope: str | None = Field(default=None, description="Scopes, separated by blanks.")
    extra: dict[str, str] = Field(default_factory=dict, description="More fields of the token request.")


class RefreshToken(_Model):
    """OAuth2 refresh token. Where the API rotates it, the new one replaces the stored one."""

    type: Literal["oauth2_refresh_token"]
    token_url: str = Field(description="Token endpoint.")
    client_id: str = Field(description="Client id.")
    client_secret: SecretStr | None = Field(default=None, description="Client secret, or `env:NAME` / `file:PATH`.")
    refresh_token: SecretStr = Field(description="Refresh token.")
    scope: str | None = Field(default=None, description="Scopes, separated by blanks.")


class AuthorizationCode(_Model):
    """OAuth2 authorization code with PKCE: a person logs in at the source once; the tokens are kept and refreshed."""

    type: Literal["oauth2_authorization_code"]
    authorization_url: str = Field(
        description="Where the person's browser is sent.",
        pattern=r"^https?://",
        examples=["https://login.example.com/oauth/authorize"],
    )
    token_url: str = Field(description="Token endpoint.")
    client_id: str = Field(
        description="Client id. Its redirect address: `<address of Headrace>/headrace/oauth/callback`."
    )
    client_secret: SecretStr | None = Field(default=None, description="Client secret, or `env:NAME` / `file:PATH`.")
    scope: str | None = Field(
        default=None, description="Scopes, separated by blanks.", examples=["read offline_access"]
    )
    parameters: dict[str, str] = Field(
        default_factory=dict, description="More fields of the request to log in, such as `access_type: offline`."
    )


Auth = Annotated[
    NoAuth | ApiKey | Basic | Bearer | ClientCredentials | RefreshToken | AuthorizationCode, Field(discriminator="type")
]


class AutoPages(_Model):
    """Found from the first page; an explicit kind is safer."""

    type: Literal["auto"] = "auto"


class SinglePage(_Model):
    """Everything comes at once."""

    type: Literal["single_page"]


class HeaderLink(_Model):
    """The next page's URL stands in the ``Link`` header."""

    type: Literal["header_link"]
    links_next_key: str = Field(default="next", description="Relation of the link.")


class JsonLink(_Model):
    """The next page's URL stands in the body."""

    type: Literal["json_link"]
    next_url_path: str = Field(default="next", description="JSONPath of the URL.")


class Offset(_Model):
    """Offset and limit parameters; reads until a page is empty."""

    type: Literal["offset"]
    limit: int = Field(ge=1, description="Rows a page.")
    offset: int = Field(default=0, ge=0, description="First offset.")
    offset_param: str = Field(default="offset", description="Parameter of the offset.")
    limit_param: str = Field(default="limit", description="Parameter of the limit.")


class PageNumber(_Model):
    """A page number parameter; reads until a page is empty."""

    type: Literal["page_number"]
    base_page: int = Field(default=1, ge=0, description="Number of the first page.")
    page_param: str = Field(default="page", description="Parameter of the number.")


class Cursor(_Model):
    """The next page's cursor stands in the body."""

    type: Literal["cursor"]
    cursor_path: str = Field(default="cursors.next", description="JSONPath of the cursor.")
    cursor_param: str | None = Field(default=None, description="Query parameter that takes it.")
    cursor_body_path: str | None = Field(default=None, description="Or the place in a POST body that takes it.")
    has_more_path: str | None = Field(default=None, description="JSONPath of a flag that ends the pages.")

    @model_validator(mode="after")
    def _one_place(self) -> Cursor:
        if bool(self.cursor_param) == bool(self.cursor_body_path):
            raise ValueError("name cursor_param or cursor_body_path")
        return self


class HeaderCursor(_Model):
    """The next page's cursor stands in a header."""

    type: Literal["header_cursor"]
    cursor_key: str = Field(default="next", description="Header.")
    cursor_param: str = Field(default="cursor", description="Query parameter that takes it.")


Pages = Annotated[
    AutoPages | SinglePage | HeaderLink | JsonLink | Offset | PageNumber | Cursor | HeaderCursor,
    Field(discriminator="type"),
]


class Incremental(_Model):
    """How an endpoint is asked for what changed."""

    field: str = Field(description="Field of a row that says when it changed: a time or a growing integer.")
    start_param: str = Field(description="Query parameter for the lowest value.", examples=["updated_since"])
    initial_value: str | None = Field(default=None, description="Value of the first load; default: not sent.")
    overlap: int = Field(
        default=60, ge=0, description="Seconds (or integers) that are read again, for ties and rows that came late."
    )


class FilterParam(_Model):
    """A query parameter by which the API leaves rows out: a row filter's condition on the field is sent in it."""

    field: str = Field(description="Field of a row.", examples=["status"])
    param: str = Field(description="Query parameter that takes the value.", examples=["status", "created_after"])
    operator: Literal["=", "<", "<=", ">", ">="] = Field(
        default="=", description="How the API compares the field with the value; it may let more rows pass, not fewer."
    )


class Parent(_Model):
    """The endpoint is asked once for each row of another one."""

    endpoint: str = Field(description="Name of the other endpoint.")
    params: dict[str, str] = Field(description="Placeholder in the path: field of the other row.")
    include: list[str] = Field(default_factory=list, description="Fields of the other row kept as `_parent_FIELD`.")


class Endpoint(_Model):
    """One table."""

    name: str = Field(description="Name of the table.", examples=["orders"])
    path: str = Field(description="Path below the base URL.", examples=["orders", "orders/{order_id}/lines"])
    method: Literal["GET", "POST"] = Field(default="GET", description="POST is for queries only.")
    params: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Query parameters.")
    body: dict[str, Any] | None = Field(default=None, description="JSON body of a POST.")
    data_selector: str | None = Field(
        default=None, description="JSONPath of the rows; default: found in the first page.", examples=["data.items"]
    )
    primary_key: list[str] = Field(default_factory=list, description="Fields that identify a row.")
    paginator: Pages | None = Field(default=None, description="How pages follow; default: the connector's.")
    total_path: str | None = Field(
        default=None, description="JSONPath of the number of all rows; the rows read are compared with it."
    )
    incremental: Incremental | None = Field(default=None, description="Needs a primary key; default: read in full.")
    filters: list[FilterParam] = Field(
        default_factory=list, description="Parameters that leave rows out; a row filter is applied to what comes too."
    )
    parent: Parent | None = Field(default=None, description="The endpoint whose rows fill the path's placeholders.")
    nested: Literal["json", "tables"] = Field(
        default="json",
        description="Objects and lists in a row: kept as JSON text, or as dlt does: `a__b` columns, lists as tables.",
    )
    columns: dict[str, str] = Field(default_factory=dict, description="Declared contract types.")

    @model_validator(mode="after")
    def _sound(self) -> Endpoint:
        if not _NAME.match(self.name) or "__" in self.name:
            raise ValueError("an endpoint's name has letters, digits and single _ only")
        if "://" in self.path or self.path.startswith("//"):
            raise ValueError("a path lies below the base URL")
        named = set(re.findall(r"\{(\w+)\}", self.path))
        if named != set(self.parent.params if self.parent else ()):
            raise ValueError("the path's placeholders and parent.params differ")
        if self.incremental and not self.primary_key:
            raise ValueError("incremental needs a primary_key")
        taken = {*self.params} | ({self.incremental.start_param} if self.incremental else set())
        if twice := sorted(taken & {declared.param for declared in self.filters}):
            raise ValueError(f"parameters of filters that have a value already: {', '.join(twice)}")
        for kind in self.columns.values():
            arrow_type(kind)
        return self


class RestConfig(ConnectorConfig):
    """A JSON API, described by its endpoints."""

    base_url: str = Field(
        description="Address; one that is not public must be in HEADRACE_URL_ALLOW.",
        examples=["https://api.example.com/v1"],
    )
    auth: Auth = Field(default_factory=NoAuth, description="How to log in.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers of every request, no secrets.")
    paginator: Pages = Field(default_factory=AutoPages, description="How pages follow, unless an endpoint says it.")
    endpoints: list[Endpoint] = Field(min_length=1, description="The tables.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Rate budget of one sync; default: none.")
    retries: int = Field(default=5, ge=0, le=20, description="Further tries of one request.")
    max_wait_seconds: float = Field(default=90, ge=0, le=3600, description="Longest wait that Retry-After may ask.")
    timeout_seconds: float = Field(default=30, gt=0, le=100, description="Silence after which a request is given up.")
    max_response_bytes: int = Field(default=64 << 20, ge=1024, description="Largest response.")
    max_pages: int = Field(default=1_000_000, ge=1, description="Pages of one read, against loops.")

    @model_validator(mode="after")
    def _parents_exist(self) -> RestConfig:
        by_name = {endpoint.name: endpoint for endpoint in self.endpoints}
        if len(by_name) < len(self.endpoints):
            raise ValueError("two endpoints have one name")
        for endpoint in self.endpoints:
            seen, at = {endpoint.name}, endpoint
            while at.parent:
                if at.parent.endpoint not in by_name:
                    raise ValueError(f"endpoint {at.name} names a parent that is not there")
                at = by_name[at.parent.endpoint]
                if at.name in seen:
                    raise ValueError(f"endpoint {at.name} is its own parent")
                seen.add(at.name)
        return self
