"""``/users`` and ``/tokens``: who may come in. Passwords and tokens are write-only; a new token is shown once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from assets.catalog.access import Access
from assets.catalog.access_records import Role, Scope, TokenRecord, UserRecord
from assets.catalog.listing import Page
from orchestration.api.connectors import Limit, Offset
from orchestration.api.paging import page_of
from orchestration.api.preconditions import IdempotencyKey, IfMatch, check, tag
from orchestration.api.problems import ApiError, responses
from orchestration.api.routing import caller_of, headrace_of, needs, router
from orchestration.web.principal import audit_note_of

PASSWORD_LINK = "/headrace/password-link"
users = router("/users", "users")
tokens = router("/tokens", "tokens")
UserName = Annotated[str, Path(min_length=1, max_length=255)]
Password = Annotated[SecretStr, Field(min_length=10, max_length=1024)]


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=255)
    role: Role = "viewer"
    password: Password | None = Field(default=None, description="none: a password link lets them choose one")


class ChangedUser(BaseModel):
    """What is left out stays. A new password ends the user's sessions; ``disabled`` keeps them and their tokens out."""

    model_config = ConfigDict(extra="forbid")
    role: Role | None = None
    password: Password | None = None
    disabled: bool | None = None


class PasswordLink(BaseModel):
    """``address``, below this server's own, is shown this once; its user chooses a password there."""

    address: str
    expires_at: datetime


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=255, description="what it is for")
    user: str = Field(min_length=1, max_length=255, description="its owner: it may never do more than they may")
    scopes: list[Scope] = Field(min_length=1, max_length=20)
    hours: int = Field(default=24 * 90, ge=1, le=24 * 3660, description="how long it is valid")


class MadeToken(BaseModel):
    """``token`` is shown this once."""

    record: TokenRecord
    token: str


def _access(request: Request) -> Access:
    return headrace_of(request).catalog.access


def _tagged(response: Response, user: UserRecord) -> UserRecord:
    tag(response, _state(user))
    return user


def _state(user: UserRecord) -> str:
    return f"{user.name}\n{user.role}\n{user.issuer}\n{user.created_at.isoformat()}\n{user.disabled_at}"


@users.get("", openapi_extra=needs("admin"), summary="One page of the users")
def list_users(request: Request, limit: Limit = 50, offset: Offset = 0) -> Page[UserRecord]:
    return page_of(_access(request).users(), limit, offset)


@users.post(
    "",
    status_code=201,
    openapi_extra=needs("admin", idempotent=True),
    responses=responses(409),
    summary="Let a person log in",
)
def add_user(request: Request, response: Response, new: NewUser, idempotency_key: IdempotencyKey = None) -> UserRecord:
    from orchestration.web.passwords import hash_password

    audit_note_of(request.scope).detail = f"{new.name}: {new.role}"
    given = hash_password(new.password.get_secret_value()) if new.password else None
    made = _access(request).add_user(new.name, new.role, given)
    return _tagged(response, made)


@users.get("/{name:path}", openapi_extra=needs("admin"), responses=responses(404), summary="One user")
def read_user(request: Request, response: Response, name: UserName) -> UserRecord:
    return _tagged(response, _access(request).user(name))


@users.put(
    "/{name:path}",
    openapi_extra=needs("admin"),
    responses=responses(404, 409, 412, 428),
    summary="Give another role or password",
)
def change_user(
    request: Request, response: Response, name: UserName, changed: ChangedUser, if_match: IfMatch = None
) -> UserRecord:
    from orchestration.web.passwords import hash_password

    access = _access(request)
    known = access.user(name)
    check(if_match, _state(known))
    said = [f"role {changed.role}"] if changed.role else []
    said += ["password"] if changed.password else []
    said += [] if changed.disabled is None else ["disabled" if changed.disabled else "enabled"]
    audit_note_of(request.scope).detail = ", ".join(said)
    if changed.role is not None:
        access.set_role(name, changed.role, was=known.role)
    if changed.password is not None:
        access.set_password(name, hash_password(changed.password.get_secret_value()))
    if changed.disabled is not None:
        access.set_disabled(name, changed.disabled)
    return _tagged(response, access.user(name))


@users.post(
    "/{name:path}/password-link",
    status_code=201,
    openapi_extra=needs("admin"),
    responses=responses(404),
    summary="Make a link by which a user chooses a password; it is shown this once",
)
def make_password_link(request: Request, name: UserName) -> PasswordLink:
    secret, expires_at = headrace_of(request).catalog.password_links.make(name)
    audit_note_of(request.scope).detail = name
    return PasswordLink(address=f"{PASSWORD_LINK}?token={secret}", expires_at=expires_at)


@users.delete(
    "/{name:path}",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404, 409, 412),
    summary="Remove a user with their sessions and tokens",
)
def remove_user(request: Request, name: UserName, if_match: IfMatch = None) -> None:
    access = _access(request)
    check(if_match, _state(access.user(name)), needed=False)
    access.remove_user(name)


@tokens.get("", openapi_extra=needs("admin"), summary="One page of the tokens, without their secrets")
def list_tokens(
    request: Request,
    user: Annotated[str | None, Query(max_length=255)] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[TokenRecord]:
    return page_of(_access(request).tokens(user), limit, offset)


@tokens.post(
    "",
    status_code=201,
    openapi_extra=needs("admin"),
    responses=responses(404),
    summary="Make a token; it is shown this once, so that no idempotency key keeps its answer",
)
def add_token(request: Request, new: NewToken) -> MadeToken:
    caller = caller_of(request)
    surplus = sorted(set(new.scopes) - caller.scopes)
    if surplus:
        raise ApiError(403, f"A token cannot make one that may do more than itself: {', '.join(surplus)}.")
    record, secret = _access(request).make_token(new.name, new.user, new.scopes, timedelta(hours=new.hours))
    audit_note_of(request.scope).detail = f"{record.id} of {new.user}: {', '.join(record.scopes)}"
    return MadeToken(record=record, token=secret)


@tokens.delete(
    "/{id}", status_code=204, openapi_extra=needs("admin"), responses=responses(404), summary="End a token at once"
)
def revoke_token(request: Request, id: Annotated[str, Path(min_length=1, max_length=80)]) -> None:
    _access(request).revoke_token(id)
