"""What a knowledge source is: where its sessions come from, and what reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from assets.secret_references import is_reference


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChatTables(_Config):
    """Chat messages that a connector syncs: which Silver table and columns hold them.

    Names are the source's own; the Silver columns are found by the same rule that the sync uses.
    """

    kind: Literal["chat_tables"] = "chat_tables"
    connector: str = Field(description="connector that syncs the tables", examples=["shop"])
    messages: str = Field(description="table of the messages", examples=["public.chat_messages"])
    session: str = Field(description="column with the session's id", examples=["session_id"])
    message: str = Field(description="column with the message's id", examples=["id"])
    role: str | None = Field(default=None, description="column that says who speaks", examples=["sender"])
    time: str | None = Field(default=None, description="column with the message's time", examples=["sent_at"])
    text: str = Field(description="column with the text", examples=["body"])
    sessions: str | None = Field(default=None, description="table of the sessions", examples=["public.chat_sessions"])
    sessions_key: str = Field(default="id", description="the sessions table's key, which `session` refers to")
    title: str | None = Field(default=None, description="column of the sessions table with a title")


class _Files(_Config):
    path: str = Field(description="a file, or a folder that is read with all below it; on the worker's machine")


class ChatGptExport(_Files):
    """``conversations.json`` of a ChatGPT export, also inside its zip. Every branch of the tree is read."""

    kind: Literal["chatgpt"] = "chatgpt"


class ClaudeExport(_Files):
    """``conversations.json`` of a Claude export, also inside its zip."""

    kind: Literal["claude"] = "claude"


class TextFiles(_Files):
    """Plain text: a document a file (``*.txt``, ``*.md``)."""

    kind: Literal["text"] = "text"


class EmailFiles(_Files):
    """E-mails: ``*.eml`` and ``*.mbox``. Mails that answer each other are one session."""

    kind: Literal["email"] = "email"


class HtmlFiles(_Files):
    """HTML pages (``*.html``, ``*.htm``): the text that a reader sees."""

    kind: Literal["html"] = "html"


class JsonFiles(_Files):
    """JSON documents (``*.json``, ``*.jsonl``): an object, a list or a line is a document; its texts are messages."""

    kind: Literal["json"] = "json"
    text_fields: list[str] = Field(
        default_factory=list, description="fields that hold text, ``a.b`` for nested ones; default: every text"
    )
    id_field: str | None = Field(default=None, description="field that identifies the document")
    time_field: str | None = Field(default=None, description="field with the document's time, ISO 8601 or epoch")


SourceConfig = Annotated[
    ChatTables | ChatGptExport | ClaudeExport | TextFiles | EmailFiles | HtmlFiles | JsonFiles,
    Field(discriminator="kind"),
]


class EmbeddedExtractor(_Config):
    """The small NER model and the rules that are installed with Headrace: offline, free, the same answer each time."""

    kind: Literal["embedded"] = "embedded"


class EndpointExtractor(_Config):
    """A model behind an OpenAI-compatible endpoint: Databricks model serving, OpenAI, vLLM, Ollama."""

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = Field(description="address up to and with the version", examples=["https://host/v1"])
    model: str = Field(description="the model's name at the endpoint", examples=["gpt-5-mini"])
    api_key: SecretStr | None = Field(
        default=None, description="a reference such as `env:NAME`; a plain key is refused"
    )
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="None leaves it to the model")
    max_output_tokens: int = Field(default=4_000, ge=100, le=100_000)
    chunk_characters: int = Field(default=6_000, ge=500, le=200_000)
    parallel: int = Field(default=4, ge=1, le=64, description="calls at once")
    calls_per_minute: float | None = Field(default=None, gt=0, description="rate limit")
    token_budget: int | None = Field(default=None, ge=0, description="most tokens of one run, in and out")
    price_in: float = Field(default=0, ge=0, description="money a million tokens of the prompt")
    price_out: float = Field(default=0, ge=0, description="money a million tokens of the answer")
    timeout_seconds: float = Field(default=120, gt=0, le=3600)
    idempotency_key: bool = Field(default=True, description="send `Idempotency-Key`, for endpoints that honour it")

    @model_validator(mode="after")
    def _key_is_a_reference(self) -> EndpointExtractor:
        key = self.api_key.get_secret_value() if self.api_key else ""
        if key and not is_reference(key):
            raise ValueError("api_key: give a reference such as env:NAME")
        return self


ExtractorConfig = Annotated[EmbeddedExtractor | EndpointExtractor, Field(discriminator="kind")]


class KnowledgeSource(_Config):
    """A stored source. The key of an endpoint is a reference, so nothing here is secret."""

    name: str
    source: SourceConfig
    extractor: ExtractorConfig = EmbeddedExtractor()
    active: bool = Field(default=True, description="extracted after each sync of its tables")
    created_at: datetime | None = None
    updated_at: datetime | None = None
