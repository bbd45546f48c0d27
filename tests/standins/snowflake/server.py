"""The Snowflake stand-in: fakesnow (DuckDB) behind what Snowflake asks at the door, and a few statements it lacks.

Runs in the environment of ``constraints.txt`` beside this file, not in Headrace's own: ``python server.py PORT``. It
adds to fakesnow 0.12: users whose password, key or token is checked; OAuth (``oauth_server.py``); roles and warehouses
that have to be granted; the account's functions; ``AT (STATEMENT => id)`` for ids of statements that asked for the
clock (a DuckDB transaction stays open for each); results of many batches, kept for every session of their user; and
rules that tests set: what a statement is answered with instead.
It has no CHANGES clause, no access control below the database, no nanoseconds, and does not tell quoted names from
others that differ in case.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import re
import secrets
import sys
from base64 import b64decode, b64encode
from typing import Any

import jwt
import oauth_server
import pyarrow as pa
import uvicorn
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

fakesnow: Any = importlib.import_module("fakesnow.server")
fakesnow.shared_fs.create_database_on_connect = False
fakesnow.shared_fs.create_schema_on_connect = False

users: dict[str, dict[str, Any]] = {}
rules: list[dict[str, Any]] = []
statements: list[str] = []
named: dict[str, dict[str, Any]] = {}
"""Role, the roles that it may use, and warehouse of each session, by token."""
results: dict[str, tuple[str, dict[str, Any], list[bytes]]] = {}
"""The last results by statement: whose they are, the answer, and the batches that do not stand in it, compressed."""
batches: dict[str, Any] = {"rows": 1000, "missing": 0, "key": secrets.token_urlsafe(32)}
"""How many rows a batch has, how many are missing when it comes, and the key without which none is given."""
KEPT_RESULTS = 200
moments: dict[str, str] = {}
"""The session in which the moment of a statement is kept, by the statement's id."""

_AT = re.compile(r"\s+AT \(STATEMENT => '([^']*)'\)")
_CLOCK = re.compile(r"^\s*SELECT\b(?!.*\bFROM\b).*CURRENT_TIMESTAMP", re.IGNORECASE | re.DOTALL)
_USE = re.compile(r'^\s*USE (ROLE|WAREHOUSE) ("(?:[^"]|"")+"|\w+)\s*;?\s*$', re.IGNORECASE)
MISSING = "SQL compilation error:\nObject does not exist, or operation cannot be performed."


def failure(code: int, message: str, state: str = "02000") -> JSONResponse:
    text = f"{code:06d}"
    return JSONResponse(
        {"data": {"errorCode": text, "sqlState": state}, "code": text, "message": message, "success": False}
    )


def plain(name: str | None) -> str | None:
    """A name as a login or USE gives it."""
    if name and name.startswith('"'):
        return name[1:-1].replace('""', '"')
    return name.upper() if name else None


def refused_login(data: dict[str, Any], role: str | None) -> tuple[int, str] | str | None:
    """Why a login is refused, or the one role that its token gives."""
    user = users.get(str(data.get("LOGIN_NAME", "")).upper())
    kind = str(data.get("AUTHENTICATOR", "SNOWFLAKE")).upper()
    if user is None:
        return 390100, "Incorrect username or password was specified."
    if kind == "SNOWFLAKE_JWT":
        pem = user.get("public_key")
        try:
            if not pem:
                raise ValueError
            key: Any = serialization.load_pem_public_key(pem.encode())
            claims = jwt.decode(data.get("TOKEN", ""), key, algorithms=["RS256"], options={"verify_aud": False})
            der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            if not claims["iss"].endswith("SHA256:" + b64encode(hashlib.sha256(der).digest()).decode()):
                raise ValueError
        except (jwt.PyJWTError, ValueError, KeyError):
            return 390144, "JWT token is invalid."
    elif kind == "OAUTH":
        if not user.get("token") or data.get("TOKEN") != user["token"]:
            return oauth_server.login_refusal(str(data.get("TOKEN")), str(data["LOGIN_NAME"]).upper(), role)
    elif not user.get("password") or data.get("PASSWORD") != user["password"]:
        return 390100, "Incorrect username or password was specified."
    return None


async def body_of(request: Request) -> dict[str, Any]:
    body = await request.body()
    return json.loads(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)


def forwarded(request: Request, body: dict[str, Any], authorization: str | None = None) -> Request:
    """The same request to fakesnow, with another body."""
    content = json.dumps(body).encode()
    dropped = {b"content-encoding", b"content-length"} | ({b"authorization"} if authorization else set())
    headers = [(name, value) for name, value in request.scope["headers"] if name not in dropped]
    if authorization:
        headers.append((b"authorization", f'Snowflake Token="{authorization}"'.encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


async def login(request: Request) -> Response:
    body = await body_of(request)
    data = body["data"]
    asked_role = plain(request.query_params.get("roleName"))
    outcome = await run_in_threadpool(refused_login, data, asked_role)
    if isinstance(outcome, tuple):
        return failure(*outcome, "08001")
    user = users[str(data["LOGIN_NAME"]).upper()]
    roles = [outcome] if outcome else user["roles"]
    role = asked_role or roles[0]
    if role not in user["roles"]:
        text = f"Role '{role}' specified in the connect string is not granted to this user."
        return failure(390189, f"{text} Contact your local system administrator.", "08001")
    answer = await fakesnow.login_request(forwarded(request, body))
    reply = json.loads(answer.body)
    found = reply["data"]
    warehouse = plain(request.query_params.get("warehouse")) or user.get("warehouse")
    named[found["token"]] = {
        "role": role,
        "roles": roles,
        "user": str(data["LOGIN_NAME"]).upper(),
        "warehouse": warehouse if warehouse in user["warehouses"] else None,
    }
    # what version 5 of the driver insists on
    found |= {"masterToken": secrets.token_urlsafe(16), "validityInSeconds": 3600, "sessionId": 1}
    found |= {"masterValidityInSeconds": 14400}
    found["sessionInfo"] |= {"warehouseName": named[found["token"]]["warehouse"], "roleName": role}
    return JSONResponse(reply)


def use(token: str, kind: str, name: str | None) -> JSONResponse | None:
    session = named[token]
    user = users[str(session["user"])]
    if kind == "ROLE" and name not in session["roles"]:
        return failure(
            3013, f"SQL access control error:\nRequested role '{name}' is not assigned to the user.", "42501"
        )
    if kind == "WAREHOUSE" and name not in user["warehouses"]:
        return failure(2043, MISSING)
    session[kind.lower()] = name
    return None


def keep_moment(token: str) -> str:
    """Open a session whose transaction sees everything as it is now."""
    original = fakesnow.sessions[token]
    twin = fakesnow.shared_fs.connect(original.database, None)
    twin._duck_conn.execute("BEGIN")
    twin._duck_conn.execute("SELECT count(*) FROM duckdb_tables()").fetchall()  # begins it in every database
    own = f"moment-{secrets.token_urlsafe(16)}"
    fakesnow.sessions[own] = twin
    return own


def answered(text: str, token: str) -> str:
    """The statement in words that fakesnow knows."""
    session = named[token]
    for function, value in (
        ("CURRENT_ACCOUNT", "STANDIN"),
        ("CURRENT_USER", session["user"]),
        ("CURRENT_ROLE", session["role"]),
        ("CURRENT_WAREHOUSE", session["warehouse"]),
    ):
        text = re.sub(rf"\b{function}\(\)", "NULL::VARCHAR" if value is None else f"'{value}'", text)
    text = re.sub(r"SHOW PRIMARY KEYS IN DATABASE \S+", "SHOW PRIMARY KEYS IN ACCOUNT", text)
    return re.sub(r"\bdatetime_precision\b", "NULL::INT AS datetime_precision", text)


async def query(request: Request) -> Response:
    token = fakesnow.to_token(request)
    body = await body_of(request)
    text = str(body["sqlText"])
    statements.append(text)
    for rule in list(rules):
        if re.search(rule["match"], text, re.DOTALL):
            if "times" in rule:
                rule["times"] -= 1
                if rule["times"] < 0:
                    continue
            if "status" in rule:
                return Response(status_code=int(rule["status"]))
            if "error" in rule:
                return failure(*rule["error"])
            text = re.sub(rule["match"], lambda _: rule["replace"], text, flags=re.DOTALL)  # noqa: B023
    if token not in named:
        return failure(390104, "User must login again to access the service.", "08001")
    if (found := _USE.match(text)) and (refusal := use(token, found[1].upper(), plain(found[2]))):
        return refusal
    try:
        text = oauth_server.answered(text) or text
    except ValueError as error:
        return failure(1420, str(error), "22023")
    kept = None
    if match := _AT.search(text):
        kept = moments.get(match[1])
        if kept is None:
            return failure(707, f"Statement {match[1]} not found: time travel data is not available.")
        text = _AT.sub("", text)
    asks_clock = bool(_CLOCK.match(text))
    moment = await run_in_threadpool(keep_moment, token) if asks_clock else None
    body["sqlText"] = answered(text, token)
    answer = await fakesnow.query_request(forwarded(request, body, kept))
    if answer.status_code == 500:  # a statement that fakesnow does not serve: told at once, not tried again and again
        return failure(1, json.loads(answer.body)["message"], "0A000")
    if moment:
        moments[json.loads(answer.body)["data"].get("queryId", "")] = moment
    return await run_in_threadpool(in_batches, request, answer, str(named[token]["user"]))


def in_batches(request: Request, answer: Any, user: str) -> Any:
    """The answer with its first rows; the others are files that it names, as it is asked for again later."""
    reply = json.loads(answer.body)
    data = reply.get("data") or {}
    if data.get("queryResultFormat") != "arrow" or not data.get("rowsetBase64"):
        return answer
    statement = data["queryId"]
    files: list[bytes] = []
    if data["total"] > batches["rows"]:
        table = pa.ipc.open_stream(b64decode(data["rowsetBase64"])).read_all()
        first, *others = [table.slice(at, batches["rows"]) for at in range(0, len(table), batches["rows"])]
        contents = [bytes(fakesnow.to_ipc(other.slice(batches["missing"]))) for other in others]
        files = [gzip.compress(content, 1) for content in contents]
        data["rowsetBase64"] = b64encode(fakesnow.to_ipc(first)).decode()
        data["chunkHeaders"] = {"x-standin-key": batches["key"]}
        data["chunks"] = [
            {
                "url": f"{request.url.scheme}://{request.url.netloc}/results/{statement}/{place}",
                "rowCount": len(other),
                "uncompressedSize": len(content),
                "compressedSize": len(file),
            }
            for place, (other, content, file) in enumerate(zip(others, contents, files, strict=True))
        ]
    results[statement] = (user, reply, files)
    while len(results) > KEPT_RESULTS:
        del results[next(iter(results))]
    return JSONResponse(reply)


async def kept_result(request: Request) -> Response:
    """The answer of an earlier statement, for any session of its user."""
    token = fakesnow.to_token(request)
    if token not in named:
        return failure(390104, "User must login again to access the service.", "08001")
    user, reply, _ = results.get(request.path_params["statement"], ("", {}, []))
    if user != named[token]["user"]:
        return failure(612, "Result not found.")
    return JSONResponse(reply)


async def batch(request: Request) -> Response:
    """One of the files that an answer names."""
    _, _, files = results.get(request.path_params["statement"], ("", {}, []))
    place = int(request.path_params["place"])
    if request.headers.get("x-standin-key") != batches["key"] or place >= len(files):
        return Response(status_code=403)
    return Response(files[place], headers={"Content-Encoding": "gzip"})


async def renew(request: Request) -> Response:
    """A new token for a session whose old one expired."""
    old = str((await body_of(request))["oldSessionToken"])
    new = secrets.token_urlsafe(32)
    fakesnow.sessions[new], named[new] = fakesnow.sessions[old], named[old]
    data = {"sessionToken": new, "masterToken": secrets.token_urlsafe(16), "validityInSecondsST": 3600}
    return JSONResponse({"data": data | {"validityInSecondsMT": 14400}, "success": True})


async def control(request: Request) -> Response:
    """What tests set: users, rules, how results are kept; what they ask: the statements so far."""
    if request.method == "POST":
        body = await request.json()
        users.update({name.upper(): user for name, user in body.get("users", {}).items()})
        if "rules" in body:
            rules[:] = body["rules"]
        if body.get("forget"):
            statements.clear()
        batches.update(body.get("batches", {}))
        if body.get("forget_results"):
            results.clear()
        oauth_server.controlled(body.get("oauth", {}))
    return JSONResponse({"statements": statements, "grants": oauth_server.grants})


def authorize(request: Request) -> Response:
    return oauth_server.consent(request, users)


app = Starlette(
    routes=[
        Route("/standin", control, methods=["GET", "POST"]),
        Route("/session/v1/login-request", login, methods=["POST"]),
        Route("/queries/v1/query-request", query, methods=["POST"]),
        Route("/queries/{statement}/result", kept_result),
        Route("/results/{statement}/{place}", batch),
        Route("/session/token-request", renew, methods=["POST"]),
        Route("/oauth/authorize", authorize),
        Route("/oauth/token-request", oauth_server.token_request, methods=["POST"]),
        *(
            route
            for route in fakesnow.routes
            if route.path not in ("/session/v1/login-request", "/queries/v1/query-request")
        ),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
