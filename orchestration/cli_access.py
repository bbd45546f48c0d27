"""``headrace users`` and ``headrace tokens``: who may come in at the webserver."""

from __future__ import annotations

import getpass
import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assets.errors import ConfigurationError
from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

if TYPE_CHECKING:
    from pathlib import Path

    from assets.catalog.access import Access
    from assets.catalog.access_records import Scope

users = typer.Typer(no_args_is_help=True, help="People who may log in.")
tokens = typer.Typer(no_args_is_help=True, help="API tokens of users.")
UserArgument = Annotated[str, typer.Argument(help="Name of the user.")]
PasswordOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
]
_LIFETIME = re.compile(r"([1-9][0-9]{0,4})(h|d)\Z")


def _access(home: Path | None) -> Access:
    return open_headrace(home).catalog.access


def _new_password(from_stdin: bool) -> str:
    from orchestration.web.passwords import hash_password

    if from_stdin:
        return hash_password(sys.stdin.readline().rstrip("\r\n"))
    if not sys.stdin.isatty():
        raise ConfigurationError("there is no terminal to ask for the password.", remedy="Use --password-stdin.")
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Password again: "):
        raise ConfigurationError("the two passwords differ.")
    return hash_password(password)


@users.command("add")
@reports_errors
def add_user(
    name: UserArgument,
    role: Annotated[Literal["viewer", "operator", "admin"], typer.Option("--role")] = "viewer",
    password_stdin: PasswordOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Let a person log in."""
    record = _access(home).add_user(name, role, _new_password(password_stdin))
    _access(home).audit("command line", "users add", name, detail=role)
    if as_json:
        print_json(record)
    else:
        print(f"User {name} may log in as {role}.")


@users.command("list")
@reports_errors
def list_users(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Everybody who may log in."""
    found = _access(home).users()
    if as_json:
        print_json({"users": found})
        return
    rows = [(u.name, u.role, u.issuer or "password", u.created_at, u.last_login_at, u.disabled_at) for u in found]
    print_table("Users", ("name", "role", "login", "created", "last login", "disabled"), rows)


@users.command("remove")
@reports_errors
def remove_user(name: UserArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Remove a user with their sessions and tokens."""
    _access(home).remove_user(name)
    _access(home).audit("command line", "users remove", name)
    if as_json:
        print_json({"removed": name})
    else:
        print(f"User {name} is removed.")


@users.command("role")
@reports_errors
def set_role(
    name: UserArgument,
    role: Annotated[Literal["viewer", "operator", "admin"], typer.Argument()],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Give a user another role."""
    record = _access(home).set_role(name, role)
    _access(home).audit("command line", "users role", name, detail=role)
    if as_json:
        print_json(record)
    else:
        print(f"User {name} is {role} now.")


@users.command("password")
@reports_errors
def set_password(
    name: UserArgument, password_stdin: PasswordOption = False, as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """Replace a user's password; their sessions end."""
    access = _access(home)
    access.user(name)
    access.set_password(name, _new_password(password_stdin))
    access.audit("command line", "users password", name)
    if as_json:
        print_json({"changed": name})
    else:
        print(f"User {name} has a new password; their sessions have ended.")


@users.command("link")
@reports_errors
def password_link(name: UserArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """A link by which a user chooses a password, good once and for a day; it is shown this once."""
    from orchestration.api.people import PASSWORD_LINK

    headrace = open_headrace(home)
    secret, expires_at = headrace.catalog.password_links.make(name)
    _access(home).audit("command line", "users link", name)
    address = f"{(headrace.settings.web_url or '').rstrip('/')}{PASSWORD_LINK}?token={secret}"
    if as_json:
        print_json({"address": address, "expires_at": expires_at})
    else:
        print(address)


@users.command("disable")
@reports_errors
def disable_user(name: UserArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Keep a user and their tokens out; what they own stays."""
    _set_disabled(home, name, True, as_json)


@users.command("enable")
@reports_errors
def enable_user(name: UserArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Let a disabled user in again."""
    _set_disabled(home, name, False, as_json)


def _set_disabled(home: Path | None, name: str, disabled: bool, as_json: bool) -> None:
    record = _access(home).set_disabled(name, disabled)
    _access(home).audit("command line", f"users {'disable' if disabled else 'enable'}", name)
    if as_json:
        print_json(record)
    else:
        print(f"User {name} {'can no longer come in' if disabled else 'may come in again'}.")


@tokens.command("create")
@reports_errors
def create_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    user: Annotated[str, typer.Option("--user", help="Its owner: it may never do more than they may.")],
    scope: Annotated[list[str] | None, typer.Option("--scope", help="read, data, operate, admin, metrics.")] = None,
    expires: Annotated[str, typer.Option("--expires", help="90d or 12h.")] = "90d",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make an API token; it is shown this once."""
    from assets.catalog.access_records import SCOPES

    match = _LIFETIME.match(expires)
    if match is None:
        raise typer.BadParameter("write 90d or 12h", param_hint="--expires")
    lifetime = timedelta(**{"h": {"hours": int(match[1])}, "d": {"days": int(match[1])}}[match[2]])
    wanted: list[Scope] = [known for known in SCOPES if known in (scope or ["read"])]
    unknown = sorted(set(scope or []) - set(SCOPES))
    if unknown:
        raise ConfigurationError(f"no such scope: {', '.join(unknown)}.", remedy=f"Scopes: {', '.join(SCOPES)}.")
    record, secret = _access(home).make_token(name, user, wanted, lifetime)
    _access(home).audit("command line", "tokens create", record.id, detail=f"{user}: {', '.join(wanted)}")
    if as_json:
        print_json(record.model_dump(mode="json") | {"token": secret})
    else:
        print(secret)
        print(f"Token {record.id} of {user} is valid until {record.expires_at:%Y-%m-%d %H:%M} UTC.", file=sys.stderr)


@tokens.command("list")
@reports_errors
def list_tokens(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All tokens, without their secrets."""
    found = _access(home).tokens()
    if as_json:
        print_json({"tokens": found})
        return
    rows = [(t.id, t.name, t.owner, ", ".join(t.scopes), t.expires_at, t.last_used_at) for t in found]
    print_table("Tokens", ("id", "name", "owner", "scopes", "expires", "last used"), rows)


@tokens.command("revoke")
@reports_errors
def revoke_token(
    id: Annotated[str, typer.Argument(help="As list shows it.")], as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """End a token at once."""
    _access(home).revoke_token(id)
    _access(home).audit("command line", "tokens revoke", id)
    if as_json:
        print_json({"revoked": id})
    else:
        print(f"Token {id} is revoked.")
