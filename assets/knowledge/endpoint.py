"""An OpenAI-compatible endpoint: Databricks model serving, OpenAI, vLLM, Ollama. One call, and what became of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from assets.errors import ConfigurationError, HeadraceError
from assets.knowledge.prompt import SCHEMA_NAME, strict_schema
from assets.knowledge.source_config import EndpointExtractor
from assets.url_guard import UrlGuard

MAX_ANSWER_BYTES = 8 << 20
AnswerStatus = Literal["answered", "refused", "truncated", "malformed"]


class EndpointBusyError(HeadraceError):
    """The endpoint asks to wait (429, 503), or has a fault of its own; worth a retry.

    ``uncertain``: the call may have been computed, and so paid, without an answer arriving.
    """

    retryable_by_default = True

    def __init__(self, what: str, *, where: str, retry_after: float | None = None, uncertain: bool = False) -> None:
        self.retry_after = retry_after
        self.uncertain = uncertain
        super().__init__(what, where=where)


class EndpointRefusedError(ConfigurationError):
    """The endpoint refuses the request itself: key, model, address or schema."""


@dataclass(frozen=True)
class Completion:
    """What one call brought."""

    content: str
    status: AnswerStatus
    tokens_in: int
    tokens_out: int


class Endpoint:
    """Calls one endpoint. The key stays in the request's header: no message, log or repr holds it."""

    def __init__(self, config: EndpointExtractor, api_key: str | None, guard: UrlGuard) -> None:
        self._config = config
        self._guard = guard
        self._key = api_key
        self._where = f"{config.model} at {config.base_url}"

    def complete(self, messages: list[dict[str, str]], identity: str) -> Completion:
        """One chat completion of the strict schema.

        Args:
            messages: of the request.
            identity: of this call; repeats carry the same one as ``Idempotency-Key``.

        Raises:
            EndpointBusyError: worth a retry.
            EndpointRefusedError: not.
            UrlRefusedError: the address may not be reached (``HEADRACE_URL_ALLOW``).
        """
        import httpx

        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "max_completion_tokens": self._config.max_output_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": strict_schema()},
            },
        }
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        if self._config.idempotency_key:
            headers["Idempotency-Key"] = hashlib.sha256(identity.encode()).hexdigest()
        url = f"{self._config.base_url.rstrip('/')}/chat/completions"
        try:
            with (
                self._guard.httpx_client(timeout=httpx.Timeout(self._config.timeout_seconds, connect=10)) as client,
                client.stream("POST", url, json=body, headers=headers) as response,
            ):
                content = b""
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        raise EndpointBusyError("the answer is larger than 8 MiB.", where=self._where, uncertain=True)
                status, retry_after = response.status_code, response.headers.get("retry-after")
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise EndpointBusyError("the endpoint is unreachable.", where=self._where) from None
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise EndpointBusyError(f"no answer arrived ({kind}).", where=self._where, uncertain=True) from None
        return self._read(status, retry_after, content)

    def _read(self, status: int, retry_after: str | None, content: bytes) -> Completion:
        import json

        if status == 429 or status >= 500:
            wait = _seconds(retry_after)
            raise EndpointBusyError(f"the endpoint answered with {status}.", where=self._where, retry_after=wait)
        if status >= 400:
            raise EndpointRefusedError(
                f"the endpoint refused the request ({status}).",
                where=self._where,
                remedy="Check the key, the model's name, base_url, and that the model takes a JSON schema.",
            )
        try:
            document = json.loads(content)
            choice, usage = document["choices"][0], document.get("usage") or {}
            message, finish = choice["message"], choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError):
            raise EndpointBusyError("the answer is no chat completion.", where=self._where, uncertain=True) from None
        text = str(message.get("content") or "")
        kind: AnswerStatus = "answered"
        if message.get("refusal") or finish == "content_filter":
            kind, text = "refused", str(message.get("refusal") or "content filter")
        elif finish == "length":
            kind = "truncated"
        return Completion(text, kind, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _seconds(retry_after: str | None) -> float | None:
    try:
        return min(3600.0, max(0.0, float(retry_after))) if retry_after else None
    except ValueError:
        return None
