"""OAuth of the Snowflake stand-in: security integrations made by SQL, the account's own authorization server, tokens.

``TYPE = OAUTH`` with ``OAUTH_CLIENT = CUSTOM``: ``/oauth/authorize`` agrees at once in the name of
``settings["person"]``; ``/oauth/token-request`` wants HTTP basic authentication, the PKCE verifier and the registered
redirect address. ``TYPE = EXTERNAL_OAUTH``: a login's token is a JWT of the provider, checked by its keys, issuer,
audience, user and role. Texts of errors are those that drivers and users report.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

settings: dict[str, Any] = {"person": "", "refuse": "", "access_seconds": 600}
integrations: dict[str, dict[str, str]] = {}
codes: dict[str, dict[str, str]] = {}
access_tokens: dict[str, dict[str, Any]] = {}
refresh_tokens: dict[str, dict[str, Any]] = {}
grants: list[str] = []
"""The kind of every token request that was granted, or the error that it got."""

OWN = {
    "TYPE",
    "ENABLED",
    "OAUTH_CLIENT",
    "OAUTH_CLIENT_TYPE",
    "OAUTH_REDIRECT_URI",
    "OAUTH_ALLOW_NON_TLS_REDIRECT_URI",
    "OAUTH_ENFORCE_PKCE",
    "OAUTH_ISSUE_REFRESH_TOKENS",
    "OAUTH_REFRESH_TOKEN_VALIDITY",
    "OAUTH_SINGLE_USE_REFRESH_TOKENS_REQUIRED",
}
EXTERNAL = {
    "TYPE",
    "ENABLED",
    "EXTERNAL_OAUTH_TYPE",
    "EXTERNAL_OAUTH_ISSUER",
    "EXTERNAL_OAUTH_JWS_KEYS_URL",
    "EXTERNAL_OAUTH_AUDIENCE_LIST",
    "EXTERNAL_OAUTH_SCOPE_MAPPING_ATTRIBUTE",
    "EXTERNAL_OAUTH_TOKEN_USER_MAPPING_CLAIM",
    "EXTERNAL_OAUTH_SNOWFLAKE_USER_MAPPING_ATTRIBUTE",
}
OPTIONAL = {"OAUTH_ALLOW_NON_TLS_REDIRECT_URI", "OAUTH_ENFORCE_PKCE", "OAUTH_SINGLE_USE_REFRESH_TOKENS_REQUIRED"}
_CREATE = re.compile(r"\s*CREATE\s+(OR\s+REPLACE\s+)?SECURITY\s+INTEGRATION\s+(\w+)\s+(.*?);?\s*\Z", re.I | re.S)
_SETTING = re.compile(r"(\w+)\s*=\s*('(?:[^']|'')*'|\w+|\((?:[^)']|'(?:[^']|'')*')*\))\s*")
_SECRETS = re.compile(r"\s*SELECT\s+SYSTEM\$SHOW_OAUTH_CLIENT_SECRETS\('(\w+)'\)\s*;?\s*\Z", re.I)


def answered(text: str) -> str | None:
    """What a statement on security integrations is answered with, as a SELECT; None: it is another statement.

    Raises:
        ValueError: what the server says against it.
    """
    if match := _CREATE.match(text):
        name = match[2].upper()
        if name in integrations and not match[1]:
            raise ValueError(f"SQL compilation error:\nObject '{name}' already exists.")
        integrations[name] = _integration(re.sub(r"--[^\n]*", "", match[3]))
        return f"SELECT 'Integration {name} successfully created.' AS status"
    if match := _SECRETS.match(text):
        found = integrations[match[1].upper()]
        shown = {"OAUTH_CLIENT_ID": found["client_id"], "OAUTH_CLIENT_SECRET": found["client_secret"]}
        return f"SELECT '{json.dumps(shown)}' AS secrets"
    return None


def _integration(text: str) -> dict[str, str]:
    if rest := _SETTING.sub("", text).strip():
        raise ValueError(f"SQL compilation error:\nsyntax error unexpected '{rest[:20]}'.")
    found = {name.upper(): value.strip("'").replace("''", "'") for name, value in _SETTING.findall(text)}
    known = EXTERNAL if found.get("TYPE") == "EXTERNAL_OAUTH" else OWN
    if unknown := set(found) - known:
        raise ValueError(f"SQL compilation error:\ninvalid property '{min(unknown)}' for 'SECURITY_INTEGRATION'.")
    if missing := known - OPTIONAL - set(found):
        raise ValueError(f"SQL compilation error:\nMissing option(s): [{', '.join(sorted(missing))}]")
    plain = found.get("OAUTH_REDIRECT_URI", "").startswith("http://")
    if plain and found.get("OAUTH_ALLOW_NON_TLS_REDIRECT_URI") != "TRUE":
        raise ValueError("SQL compilation error:\ninvalid value for property 'OAUTH_REDIRECT_URI': it has to use TLS.")
    # ids and secrets of an account hold the characters of base64
    return found | {
        "client_id": base64.b64encode(secrets.token_bytes(20)).decode(),
        "client_secret": "canary+secret/" + base64.b64encode(secrets.token_bytes(24)).decode(),
    }


def _of_client(client_id: str) -> dict[str, str] | None:
    return next((found for found in integrations.values() if found["client_id"] == client_id), None)


def consent(request: Request, users: dict[str, dict[str, Any]]) -> Response:
    """``/oauth/authorize``: the person agrees at once, or refuses as ``settings["refuse"]`` says."""
    asked = dict(request.query_params)
    client = _of_client(asked.get("client_id", ""))
    if client is None or client["ENABLED"] != "TRUE":
        return _error("invalid_client", "This is an invalid client.")
    if asked.get("redirect_uri") != client["OAUTH_REDIRECT_URI"]:
        return _error("invalid_request", "The redirect_uri does not match the one registered.")
    answer = {"state": asked.get("state", "")}
    pkce = asked.get("code_challenge_method") == "S256" and asked.get("code_challenge")
    user = users[settings["person"]]
    role, refresh, unknown = _scopes(asked.get("scope", ""), user["roles"][0])
    if settings["refuse"]:
        answer["error"] = settings["refuse"]
    elif client.get("OAUTH_ENFORCE_PKCE") == "TRUE" and not pkce:
        answer["error"] = "invalid_request"
    elif unknown or role not in user["roles"]:
        answer["error"] = "invalid_scope"
    else:
        answer["code"] = secrets.token_urlsafe(16)
        with_refresh = refresh and client["OAUTH_ISSUE_REFRESH_TOKENS"] == "TRUE"
        codes[answer["code"]] = asked | {"user": settings["person"], "role": role, "refresh": "yes" * with_refresh}
    return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)


def _scopes(text: str, role: str) -> tuple[str, bool, list[str]]:
    """The role that scopes name, whether they ask for a refresh token, and those that are no scopes."""
    refresh, unknown = False, []
    for scope in text.split():
        if scope == "refresh_token":
            refresh = True
        elif scope.startswith("session:role:"):
            role = scope.removeprefix("session:role:")
        elif scope.startswith("session:role-encoded:"):
            role = unquote(scope.removeprefix("session:role-encoded:"))
        else:
            unknown.append(scope)
    return role, refresh, unknown


async def token_request(request: Request) -> Response:
    """``/oauth/token-request``."""
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    kind, _, pair = request.headers.get("Authorization", "").partition(" ")
    client_id, _, secret = base64.b64decode(pair).decode().partition(":") if kind == "Basic" else ("", "", "")
    client = _of_client(client_id)
    if client is None or client["client_secret"] != secret:
        return _error("invalid_client", "This is an invalid client.")
    if form.get("grant_type") == "authorization_code":
        given = codes.pop(form.get("code", ""), None)
        if given is None or given["client_id"] != client_id or given["redirect_uri"] != form.get("redirect_uri"):
            return _error("invalid_grant", "Invalid authorization code. canary-of-an-answer")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if given.get("code_challenge") and given["code_challenge"] != challenge:
            return _error("invalid_grant", "PKCE verification failed.")
        return _tokens(client, given["user"], given["role"], new_refresh=bool(given["refresh"]))
    if form.get("grant_type") == "refresh_token":
        kept = refresh_tokens.get(form.get("refresh_token", ""))
        if kept is None or kept["client_id"] != client_id or kept["ends"] < time.time():
            return _error("invalid_grant", "Invalid refresh token. canary-of-an-answer")
        rotates = client.get("OAUTH_SINGLE_USE_REFRESH_TOKENS_REQUIRED") == "TRUE"
        if rotates:
            del refresh_tokens[form["refresh_token"]]
        return _tokens(client, kept["user"], kept["role"], new_refresh=rotates)
    return _error("unsupported_grant_type", "This is an unsupported grant type.")


def _tokens(client: dict[str, str], user: str, role: str, new_refresh: bool) -> JSONResponse:
    grants.append("granted")
    life, refresh_life = int(settings["access_seconds"]), int(client["OAUTH_REFRESH_TOKEN_VALIDITY"])
    access = f"ver:1-hint:canary-access-{secrets.token_hex(12)}"
    access_tokens[access] = {"user": user, "role": role, "ends": time.time() + life}
    answer: dict[str, Any] = {
        "access_token": access,
        "expires_in": life,
        "token_type": "Bearer",
        "username": user,
        "scope": f"refresh_token session:role:{role}",
        "idpInitiated": False,
    }
    if new_refresh:
        refresh = f"ver:2-hint:canary-refresh-{secrets.token_hex(12)}"
        refresh_tokens[refresh] = {
            "client_id": client["client_id"],
            "user": user,
            "role": role,
            "ends": time.time() + refresh_life,
        }
        answer |= {"refresh_token": refresh, "refresh_token_expires_in": refresh_life}
    return JSONResponse(answer)


def _error(error: str, message: str) -> JSONResponse:
    grants.append(error)
    body = {"data": None, "message": message, "code": None, "success": False, "error": error}
    return JSONResponse(body, 400)


def login_refusal(token: str, login_name: str, asked_role: str | None) -> tuple[int, str] | str:
    """The role that a token gives its session, or why a login with it is refused."""
    mark = f" [{secrets.token_hex(4)}]"
    known = access_tokens.get(token)
    if known is None:
        return _external_refusal(token, login_name, asked_role, mark)
    if known["ends"] < time.time():
        return 390318, f"OAuth access token expired.{mark}"
    if known["user"] != login_name:
        return _other_user(mark)
    if asked_role not in (None, known["role"]):
        return _other_role(str(asked_role), mark)
    return str(known["role"])


def _external_refusal(token: str, login_name: str, asked_role: str | None, mark: str) -> tuple[int, str] | str:
    for found in (found for found in integrations.values() if found["TYPE"] == "EXTERNAL_OAUTH"):
        audiences = [text.strip().strip("'") for text in found["EXTERNAL_OAUTH_AUDIENCE_LIST"].strip("()").split(",")]
        try:
            key = jwt.PyJWKClient(found["EXTERNAL_OAUTH_JWS_KEYS_URL"]).get_signing_key_from_jwt(token)
            issuer = found["EXTERNAL_OAUTH_ISSUER"]
            claims = jwt.decode(token, key, algorithms=["RS256"], audience=audiences, issuer=issuer)
        except jwt.ExpiredSignatureError:
            return 390318, f"OAuth access token expired.{mark}"
        except jwt.PyJWTError:
            continue
        if str(claims[found["EXTERNAL_OAUTH_TOKEN_USER_MAPPING_CLAIM"]]).upper() != login_name:
            return _other_user(mark)
        scopes = claims[found["EXTERNAL_OAUTH_SCOPE_MAPPING_ATTRIBUTE"]]
        roles = [scope.removeprefix("session:role:").upper() for scope in scopes if scope.startswith("session:role:")]
        if not roles or (asked_role and asked_role not in roles):
            return _other_role(asked_role or "", mark)
        return asked_role or roles[0]
    return 390303, f"Invalid OAuth access token.{mark}"


def _other_user(mark: str) -> tuple[int, str]:
    text = "The user you were trying to authenticate as differs from the user tied to the access token."
    return 390309, text + mark


def _other_role(role: str, mark: str) -> tuple[int, str]:
    return 390317, (
        "The role requested in the connection, or the default role if none was requested in the connection "
        f"('{role}'), is not listed in the Access Token or was filtered. Please specify another role, or contact "
        f"your OAuth Authorization server administrator.{mark}"
    )


def controlled(body: dict[str, Any]) -> None:
    """What tests set."""
    if body.get("forget"):
        settings.update(person="", refuse="", access_seconds=600)
        for kept in (integrations, codes, access_tokens, refresh_tokens, grants):
            kept.clear()
    settings.update(body.get("settings", {}))
    if body.get("expire"):
        for found in access_tokens.values():
            found["ends"] = 0
    if body.get("revoke_access"):
        access_tokens.clear()
    if body.get("revoke_refresh"):
        refresh_tokens.clear()
