"""A loopback endpoint of the OpenAI protocol: chat completions, ``response_format`` ``json_schema``, and failpoints.

Every completion it computes is *paid*, also one whose answer never arrives. A request that repeats an
``Idempotency-Key`` gets the first answer again and is not paid, unless ``honours_idempotency`` is off.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args

Failure = Literal[
    "malformed_json",  # the content is no JSON
    "refusal",  # the model declines: `refusal` is set, `content` is null
    "timeout_after_answer",  # the answer is computed and paid, then the connection hangs and breaks
    "rate_limit",  # 429 with Retry-After
    "truncated",  # finish_reason `length`, the content cut in the middle
    "injected",  # the model obeys instructions in the data: `injected_content` instead of an answer
    "server_error",  # 500
    "slow",  # the answer takes `slow_seconds`
]
FAILURES: tuple[Failure, ...] = get_args(Failure)
Respond = Callable[[dict[str, Any]], "str | dict[str, Any]"]
"""From the request's body to the content (text), or to the whole ``message`` object."""


@dataclass
class Call:
    """One request as it came, and what became of it."""

    body: dict[str, Any]
    headers: dict[str, str]
    status: int = 200
    failure: Failure | None = None
    paid: bool = False
    at: float = field(default_factory=time.monotonic)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]


class OpenAIServer:
    """One server on a free loopback port. Use as a context manager.

    Args:
        respond: makes the content of an answer; default: the smallest value that fits the request's JSON schema, or
            ``ok`` where none is asked for.

    Example:
        with OpenAIServer() as server:
            server.fail("rate_limit", times=2)
            ...  # base URL: server.base_url, key: server.api_key
            assert server.paid == 1
    """

    api_key = "sk-test-canary-of-the-endpoint"

    def __init__(self, respond: Respond | None = None) -> None:
        self.respond: Respond = respond or smallest_answer
        self.honours_idempotency = True
        self.retry_after_seconds = 0.2
        self.hang_seconds = 0.5
        self.slow_seconds = 0.5
        self.injected_content = json.dumps({"injected": True})
        self.calls: list[Call] = []
        self._failures: list[Any] = []
        self._answers: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def paid(self) -> int:
        """Completions that were computed, delivered or not."""
        return sum(call.paid for call in self.calls)

    def fail(self, failure: Failure, times: int = 1) -> None:
        """Let the next ``times`` requests fail in this way; several calls queue up."""
        with self._lock:
            self._failures.extend(failure for _ in range(times))

    def reset(self) -> None:
        """Forget calls, answers and failures that were not used."""
        with self._lock:
            self.calls.clear()
            self._failures.clear()
            self._answers.clear()

    @contextmanager
    def responding(self, respond: Respond) -> Iterator[None]:
        """Answer in another way for the block."""
        before, self.respond = self.respond, respond
        try:
            yield
        finally:
            self.respond = before

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # one request

    def _answer(self, call: Call) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, document and headers for a request; counts it."""
        if call.headers.get("authorization") != f"Bearer {self.api_key}":
            return 401, _error("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"), {}
        if call.body.get("stream"):
            return 400, _error("This server does not stream.", "invalid_request_error"), {}
        key = call.headers.get("idempotency-key") if self.honours_idempotency else None
        with self._lock:
            failure = call.failure = self._failures.pop(0) if self._failures else None
            stored = self._answers.get(key) if key else None
        if failure == "rate_limit":
            return 429, _error("Rate limit reached.", "requests"), {"Retry-After": f"{self.retry_after_seconds:g}"}
        if failure == "server_error":
            return 500, _error("The server had an error.", "server_error"), {}
        if stored is None:
            stored = self._complete(call, failure)
            with self._lock:
                call.paid = True
                if key:
                    self._answers[key] = stored
        if failure == "slow":
            time.sleep(self.slow_seconds)
        return 200, stored, {}

    def _complete(self, call: Call, failure: Failure | None) -> dict[str, Any]:
        finish, message = "stop", {"role": "assistant", "content": None, "refusal": None}
        if failure == "refusal":
            message["refusal"] = "I can't help with that."
        elif failure == "malformed_json":
            message["content"] = 'Sure! Here is the JSON: {"entities": [{'
        elif failure == "injected":
            message["content"] = self.injected_content
        else:
            answer = self.respond(call.body)
            message |= answer if isinstance(answer, dict) else {"content": answer}
            if failure == "truncated":
                finish = "length"
                content = str(message["content"])
                message["content"] = content[: max(1, len(content) // 2)]
        if message.get("tool_calls"):
            finish = "tool_calls"
        with self._lock:
            self._number += 1
            number = self._number
        asked = sum(len(str(part.get("content") or "")) for part in call.messages) // 4 + 1
        told = len(str(message.get("content") or message.get("refusal") or "")) // 4 + 1
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000 + number,
            "model": call.body.get("model", "test-model"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told},
        }


def smallest_answer(body: dict[str, Any]) -> str:
    """The smallest JSON text that fits the schema of the request."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return "ok"
    schema = wanted["json_schema"]["schema"]
    return json.dumps(_smallest(schema, schema))


def _smallest(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _smallest(target, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _smallest(schema[several][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _smallest(properties[name], root) for name in schema.get("required", properties)}
    if kind == "array":
        return [_smallest(schema["items"], root)] * schema.get("minItems", 0)
    return {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None}[kind]


def _error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _handler(endpoint: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            models = [{"id": "test-model", "object": "model", "created": 1_700_000_000, "owned_by": "tests"}]
            self._send(200, {"object": "list", "data": models}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                self._send(404, _error(f"Unknown path {self.path}", "invalid_request_error"), {})
                return
            call = Call(body, {name.lower(): value for name, value in self.headers.items()})
            endpoint.calls.append(call)
            call.status, document, headers = endpoint._answer(call)
            if call.failure == "timeout_after_answer":
                time.sleep(endpoint.hang_seconds)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self._send(call.status, document, headers)

        def _send(self, status: int, document: dict[str, Any], headers: dict[str, str]) -> None:
            content = json.dumps(document).encode()
            try:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: requests hold the data."""

    return Handler
