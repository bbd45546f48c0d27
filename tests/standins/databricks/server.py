"""The HTTP server: routes, authentication, error bodies, and the failpoints around every call."""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.standins.databricks.errors import ApiError
from tests.standins.databricks.failpoints import Failpoints, kill_peer
from tests.standins.databricks.files_api import FilesApi
from tests.standins.databricks.jobs import Jobs
from tests.standins.databricks.other_loaders import VOLUME_LINKS, Sessions, VolumeLinks, removed
from tests.standins.databricks.sql_engine import SqlEngine
from tests.standins.databricks.statements import Statements
from tests.standins.databricks.unity_catalog import OWNER, UnityCatalog
from tests.standins.databricks.warehouses import WAREHOUSE_ID, Warehouses

TOKEN_SECONDS = 3600
STATEMENTS = "/api/2.0/sql/statements"
FILES = "/api/2.0/fs/files"
DIRECTORIES = "/api/2.0/fs/directories"
UC = "/api/2.1/unity-catalog"
JOBS = "/api/2.2/jobs"


class Raw:
    """An answer that is not JSON."""

    def __init__(self, content: bytes = b"", headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.content, self.headers, self.status = content, headers or {}, status


class Workspace:
    """Everything behind one host.

    Args:
        folder: where tables, volumes and notebooks are kept.
        token: the personal access token that is accepted.
        client_id, client_secret: the service principal that is accepted.
    """

    def __init__(self, folder: Path, token: str, client_id: str, client_secret: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.token, self.client = folder.resolve(), token, (client_id, client_secret)
        self.tokens: dict[str, float] = {}
        self.user, self.privileges = OWNER, ["ALL_PRIVILEGES"]
        self.failpoints = Failpoints()
        self.catalog = UnityCatalog(self.folder)
        self.catalog.create_catalog("main", exists_ok=True)
        self.engine = SqlEngine(self.catalog)
        self.warehouses = Warehouses()
        self.sessions, self.links = Sessions(), VolumeLinks()
        self.statements = Statements(self.engine, self.warehouses, self.failpoints, self.sessions, self.links)
        self.files = FilesApi(self.catalog)
        self.notebooks = self.folder / "Workspace"
        self.jobs = Jobs(self.folder / "runs", self.notebooks, self.engine)

    def authenticate(self, header: str) -> None:
        given = header.removeprefix("Bearer ")
        if secrets.compare_digest(given, self.token) or self.tokens.get(given, 0) > time.time():
            return
        raise ApiError(401, "UNAUTHENTICATED", "Invalid access token. [ReqId: stand-in]")

    def issue_token(self, basic: str, form: dict[str, str]) -> dict[str, Any]:
        given = base64.b64decode(basic.removeprefix("Basic ")).decode() if basic.startswith("Basic ") else ""
        if given != ":".join(self.client) or form.get("grant_type") != "client_credentials":
            raise ApiError(401, "invalid_client", "Client authentication failed")
        token = secrets.token_urlsafe(24)
        self.tokens[token] = time.time() + TOKEN_SECONDS
        return {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "scope": "all-apis"}

    def import_notebook(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["path"].strip("/")
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Path ({body['path']}) is not valid")
        file = self.notebooks / name
        if file.exists() and not body.get("overwrite"):
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({body['path']}) already exists.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(body.get("content") or ""))
        return {}


def _listed(kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {kind: items}


class Request:
    """One call: its path, query, body, and the address that the client knows the server by."""

    def __init__(self, method: str, target: str, headers: Any, content: bytes, base_url: str) -> None:
        split = urlsplit(target)
        self.method, self.path = method, unquote(split.path)
        self.query = {key: values[-1] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
        self.headers, self.content, self.base_url = headers, content, base_url

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content or b"{}")

    @property
    def form(self) -> dict[str, str]:
        return {key: values[-1] for key, values in parse_qs(self.content.decode()).items()}


def routes(w: Workspace) -> list[tuple[str, str, Callable[..., Any]]]:
    """Method, path pattern, and what answers: it is given the request and the pattern's groups."""
    uc = w.catalog

    def schemas(r: Request) -> dict[str, Any]:
        catalog = r.query["catalog_name"].lower()
        uc.catalog(catalog)
        return _listed("schemas", [uc.schema(catalog, name) for name in uc.catalogs[catalog]])

    def within(found: dict[str, Any], r: Request) -> list[str]:
        prefix = f"{r.query['catalog_name']}.{r.query['schema_name']}.".lower()
        return sorted(full for full in found if full.startswith(prefix))

    def create_volume(r: Request) -> dict[str, Any]:
        return uc.create_volume(r.body["catalog_name"], r.body["schema_name"], r.body["name"])

    def permissions(r: Request, kind: str, name: str) -> dict[str, Any]:
        held = [{"privilege": privilege} for privilege in w.privileges]
        return {"privilege_assignments": [{"principal": w.user, "privileges": held}]}

    def add_external(r: Request) -> dict[str, Any]:
        w.engine.external.append(r.body)
        return {}

    def set_user(r: Request) -> dict[str, Any]:
        w.user, w.privileges = r.body.get("user", OWNER), r.body.get("privileges", ["ALL_PRIVILEGES"])
        return {}

    def download(r: Request, path: str) -> Raw:
        content, headers = w.files.get(path)
        if found := re.match(r"bytes=(\d+)-(\d*)", r.headers.get("Range") or ""):
            start, end = int(found[1]), int(found[2]) if found[2] else len(content) - 1
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return Raw(content[start : end + 1], headers, 206)
        return Raw(content, headers)

    def head(r: Request, path: str) -> Raw:
        content, headers = w.files.get(path)
        return Raw(b"", headers | {"Content-Length": str(len(content))})

    def put(r: Request, path: str, overwrite: bool = False) -> Raw:
        w.files.put(path, r.content, overwrite or r.query.get("overwrite") == "true")
        return Raw(status=204)

    def initiate(r: Request, path: str) -> None:
        reason: dict[str, object] = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "FILES_API_API_IS_NOT_ENABLED",
        }
        details: list[dict[str, object]] = [reason | {"domain": "filesystem.databricks.com"}]
        raise ApiError(403, "PERMISSION_DENIED", "Presigned URLs are not enabled", details=details)

    def directory(action: Callable[[str], None]) -> Callable[[Request, str], Raw]:
        def call(r: Request, path: str) -> Raw:
            action(path)
            return Raw(status=204)

        return call

    def set_failpoints(r: Request) -> dict[str, Any]:
        w.failpoints.set(r.body["failpoints"])
        return {}

    def set_warehouse(r: Request) -> dict[str, Any]:
        w.warehouses.start_seconds = float(r.body.get("start_seconds", w.warehouses.start_seconds))
        return w.warehouses.stop(WAREHOUSE_ID) if r.body.get("stop") else {}

    def clear_calls(r: Request) -> dict[str, Any]:
        w.failpoints.clear_calls()
        return {}

    def oidc(r: Request) -> dict[str, Any]:
        issuer = f"{r.base_url}/oidc"
        names = ("authorization_endpoint", "authorize"), ("token_endpoint", "token")
        return {"issuer": issuer} | {key: f"{issuer}/v1/{name}" for key, name in names}

    def identity(r: Request) -> dict[str, Any]:
        return {"id": "1", "userName": w.user, "displayName": "stand-in"}

    return [
        ("GET", r"/\.well-known/databricks-config", lambda r: {"oidc_endpoint": f"{r.base_url}/oidc"}),
        ("GET", r"/oidc/\.well-known/oauth-authorization-server", oidc),
        ("POST", r"/oidc/v1/token", lambda r: w.issue_token(r.headers.get("Authorization") or "", r.form)),
        ("GET", r"/standin/results/([^/]+)/(\d+)", lambda r, i, n: Raw(w.statements.link(i, int(n)))),
        ("GET", r"/standin/calls", lambda r: {"calls": w.failpoints.calls}),
        ("DELETE", r"/standin/calls", clear_calls),
        ("GET", r"/standin/failpoints", lambda r: {"failpoints": w.failpoints.told()}),
        ("POST", r"/standin/failpoints", set_failpoints),
        ("POST", r"/standin/warehouse", set_warehouse),
        ("POST", r"/standin/user", set_user),
        ("POST", r"/standin/external", add_external),
        ("GET", r"/api/2\.0/preview/scim/v2/Me", identity),
        ("POST", STATEMENTS + "/?", lambda r: w.statements.submit(r.body, r.base_url)),
        ("GET", STATEMENTS + r"/([^/]+)", lambda r, i: w.statements.get(i, r.base_url)),
        ("DELETE", STATEMENTS + r"/([^/]+)", lambda r, i: w.statements.close(i)),
        ("POST", r"/api/2\.0/sql/sessions", lambda r: w.sessions.open(r.body)),
        ("DELETE", r"/api/2\.0/sql/sessions/([^/]+)", lambda r, i: w.sessions.close(i)),
        ("PUT", VOLUME_LINKS + r"/(\w+)", lambda r, i: put(r, w.links.path(i), overwrite=True)),
        ("DELETE", VOLUME_LINKS + r"/(\w+)", directory(lambda i: removed(w.files, w.links.path(i)))),
        ("POST", STATEMENTS + r"/([^/]+)/cancel", lambda r, i: w.statements.cancel(i)),
        ("GET", STATEMENTS + r"/([^/]+)/result/chunks/(\d+)",
         lambda r, i, n: w.statements.chunk(i, int(n), r.base_url)),
        ("GET", r"/api/2\.0/sql/warehouses", lambda r: {"warehouses": [w.warehouses.get(WAREHOUSE_ID)]}),
        ("GET", r"/api/2\.0/sql/warehouses/([^/]+)", lambda r, i: w.warehouses.get(i)),
        ("POST", r"/api/2\.0/sql/warehouses/([^/]+)/start", lambda r, i: w.warehouses.start(i)),
        ("POST", r"/api/2\.0/sql/warehouses/([^/]+)/stop", lambda r, i: w.warehouses.stop(i)),
        ("POST", FILES + "(/.*)", initiate),
        ("PUT", FILES + "(/.*)", put),
        ("GET", FILES + "(/.*)", download),
        ("HEAD", FILES + "(/.*)", head),
        ("DELETE", FILES + "(/.*)", directory(w.files.delete)),
        ("PUT", DIRECTORIES + "(/.*)", directory(w.files.make_directory)),
        ("HEAD", DIRECTORIES + "(/.*)", directory(w.files.require_directory)),
        ("DELETE", DIRECTORIES + "(/.*)", directory(w.files.delete_directory)),
        ("GET", DIRECTORIES + "(/.*)", lambda r, path: w.files.list(
            path, int(r.query.get("page_size") or 1000), r.query.get("page_token") or "")),
        ("GET", UC + "/catalogs", lambda r: _listed("catalogs", [uc.catalog(n) for n in sorted(uc.catalogs)])),
        ("POST", UC + "/catalogs", lambda r: uc.create_catalog(r.body["name"])),
        ("GET", UC + "/catalogs/([^/]+)", lambda r, n: uc.catalog(n)),
        ("GET", UC + "/schemas", schemas),
        ("POST", UC + "/schemas", lambda r: uc.create_schema(r.body["catalog_name"], r.body["name"])),
        ("GET", UC + "/schemas/([^/]+)", lambda r, n: uc.schema(*n.split("."))),
        ("GET", UC + "/tables", lambda r: _listed("tables", [uc.table(n) for n in within(uc.tables, r)])),
        ("GET", UC + "/tables/([^/]+)", lambda r, n: uc.table(n)),
        ("GET", UC + "/volumes", lambda r: _listed("volumes", [uc.volume(n) for n in within(uc.volumes, r)])),
        ("POST", UC + "/volumes", create_volume),
        ("GET", UC + "/volumes/([^/]+)", lambda r, n: uc.volume(n)),
        ("GET", UC + "/(?:effective-permissions|permissions)/([^/]+)/([^/]+)", permissions),
        ("POST", JOBS + "/create", lambda r: w.jobs.create(r.body)),
        ("POST", JOBS + "/run-now", lambda r: w.jobs.run_now(r.body, r.base_url)),
        ("POST", JOBS + "/runs/submit", lambda r: w.jobs.submit(r.body, r.base_url)),
        ("POST", JOBS + "/runs/cancel", lambda r: w.jobs.cancel(int(r.body["run_id"]))),
        ("GET", JOBS + "/runs/get", lambda r: w.jobs.get(int(r.query["run_id"]), r.base_url)),
        ("GET", JOBS + "/runs/get-output", lambda r: w.jobs.output(int(r.query["run_id"]), r.base_url)),
        ("GET", JOBS + "/runs/list", lambda r: w.jobs.list(
            r.base_url, int(r.query["job_id"]) if "job_id" in r.query else None, r.query.get("active_only") == "true")),
        ("POST", r"/api/2\.0/workspace/import", lambda r: w.import_notebook(r.body)),
    ]  # fmt: skip


OPEN = ("/.well-known/", "/oidc/", "/standin/", VOLUME_LINKS)


class Server:
    """A workspace on a port of the loopback interface.

    Example:
        with Server(folder, token="dapi-test") as server:
            WorkspaceClient(host=server.url, token="dapi-test")
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        token: str = "dapi-standin",
        client_id: str = "standin-client",
        client_secret: str = "standin-secret",
    ) -> None:
        self.workspace = Workspace(folder, token, client_id, client_secret)
        handler = type("Handler", (_Handler,), {"workspace": self.workspace, "routes": routes(self.workspace)})
        self._http = _HttpServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def serve(self) -> None:
        self._http.serve_forever(poll_interval=0.2)

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve, name="databricks-standin", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.workspace.jobs.stop()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    workspace: Workspace
    routes: list[tuple[str, str, Callable[..., Any]]]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet; ``GET /standin/calls`` tells."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            content = self._chunked()
        request = Request(self.command, self.path, self.headers, content, f"http://{self.headers.get('Host')}")
        failpoints = self.workspace.failpoints
        call = f"{request.method} {request.path}"
        text = ""
        if request.path.rstrip("/") == STATEMENTS:
            text = " ".join(str(request.body.get("statement")).split())
            call = f"{call} {text}"
        controlled = request.path.startswith("/standin/")
        if not controlled:
            failpoints.record(
                {"method": request.method, "path": request.path, "statement": text, "bytes": len(content)}
            )
            if point := failpoints.take(call, "slow"):
                time.sleep(point.seconds)
            if failpoints.take(call, "drop_before"):
                return self._drop()
            if failpoints.take(call, "kill_before"):
                kill_peer(self.client_address[1])
                return self._drop()
            if point := failpoints.take(call, "status"):
                code = {429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}.get(
                    point.status, "INTERNAL_ERROR"
                )
                return self._send_error(ApiError(point.status, code, "set by a failpoint"), point.retry_after)
        try:
            if not request.path.startswith(OPEN):
                self.workspace.authenticate(self.headers.get("Authorization") or "")
            answer = self._route(request)
        except ApiError as error:
            return self._send_error(error)
        except (KeyError, ValueError, TypeError) as error:
            return self._send_error(ApiError(400, "INVALID_PARAMETER_VALUE", f"missing or malformed: {error}"))
        if not controlled:
            if failpoints.take(call, "drop_after"):
                return self._drop()
            if failpoints.take(call, "kill_after"):
                kill_peer(self.client_address[1])
                return self._drop()
        if isinstance(answer, Raw):
            return self._send(answer.status, answer.content, answer.headers)
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _chunked(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _route(self, request: Request) -> Any:
        for method, pattern, answer in self.routes:
            if method == request.method and (found := re.fullmatch(pattern, request.path)):
                return answer(request, *found.groups())
        raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{request.method} {request.path}'")

    def _send_error(self, error: ApiError, retry_after: float | None = None) -> None:
        body: dict[str, Any] = {"error_code": error.code, "message": error.message}
        if error.details:
            body["details"] = error.details
        headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            headers["Retry-After"] = str(int(retry_after))
        self._send(error.status, json.dumps(body).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _answer
