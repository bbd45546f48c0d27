"""The models of one extraction run. Standard library and pydantic only: workflow files import this module."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assets.sync import Model, Part

ExtractionStatus = Literal["succeeded", "failed", "skipped", "stopped", "cancelled"]
"""``stopped``: the token budget was spent; what was extracted is in the tables, the rest is left for the next run."""


class SourceExtraction(Model):
    """The work for one source: references only, never text or secrets. Input of ``KnowledgeSourceWorkflow``.

    ``again`` extracts every session anew; answers that are stored for the same text, model and prompt stay free.
    """

    source: str
    run_group: str
    again: bool = False
    erase: bool = Field(default=False, description="take every session of the source out of the tables")
    token_budget: int | None = Field(default=None, ge=0, description="None: the source's own budget")
    trigger: str = "manual"


class ExtractionPlan(Model):
    """Result of the first step: which sessions are new or changed, staged in batches."""

    batches: tuple[Part, ...] = ()
    sessions: int = 0
    messages: int = 0
    changed: int = Field(default=0, description="sessions that are new or changed: the work")
    changed_messages: int = 0
    gone: int = Field(default=0, description="sessions that left the source")
    gone_part: tuple[Part, ...] = ()
    more: bool = Field(default=False, description="the backlog goes on behind these batches")
    paid: bool = Field(default=False, description="each chunk is a call of a model that may cost money")
    parallel: int = 2
    token_budget: int | None = None
    seconds_between_calls: float = 0
    price_in: float = Field(default=0, description="money a million tokens")
    price_out: float = 0


class BatchInput(Model):
    """One staged batch of sessions."""

    work: SourceExtraction
    batch: Part
    number: int


class ModelCall(Model):
    """One call of the model: the chunk's place in its batch, and the key of its answer."""

    session: int
    chunk: int
    content_hash: str
    estimated_tokens: int


class CallInput(Model):
    work: SourceExtraction
    batch: Part
    call: ModelCall


class CallOutcome(Model):
    """What became of one call. ``answered`` is false where the endpoint gave none that can be used, and says why."""

    answered: bool
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    stored_before: bool = False
    uncertain: int = Field(default=0, description="calls that may have been paid without an answer arriving")
    problem: str = ""


class BatchResult(Model):
    """What one batch yielded, staged as parts by table."""

    parts: dict[str, tuple[Part, ...]] = Field(default_factory=dict)
    sessions: int = 0
    incomplete: int = Field(default=0, description="sessions with a chunk that has no usable answer")
    mentions: int = 0
    statements: int = 0
    dropped: int = Field(default=0, description="findings of a model whose quote is not in the text")


class FoldInput(Model):
    """Bring staged batches into the tables."""

    work: SourceExtraction
    generation: int
    batches: tuple[BatchResult, ...] = ()
    gone_part: tuple[Part, ...] = ()


class FoldResult(Model):
    """Rows of the tables after it."""

    entities: int = 0
    relations: int = 0
    observations: int = 0
    mentions: int = 0
    disputed: int = 0


class ExtractionTotals(Model):
    """Running sums of one run; they go on over continue-as-new."""

    sessions: int = 0
    messages: int = 0
    unchanged: int = 0
    extracted: int = 0
    extracted_messages: int = 0
    incomplete: int = 0
    gone: int = 0
    calls: int = 0
    answers_reused: int = 0
    calls_uncertain: int = 0
    calls_failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0
    new_mentions: int = 0
    new_statements: int = 0
    dropped: int = 0
    problem: str = Field(default="", description="the first call that gave no usable answer")


class ExtractionResult(Model):
    """What one source's extraction did; also the result of ``KnowledgeSourceWorkflow``."""

    source: str
    run_group: str
    status: ExtractionStatus
    reason: str = ""
    error: str | None = None
    error_type: str | None = None
    totals: ExtractionTotals = ExtractionTotals()
    tables: FoldResult = FoldResult()
    workflow_id: str | None = None
    generations: int = 1


class KnowledgeExtraction(Model):
    """Input of ``KnowledgeExtractionWorkflow``: several sources, each under a lock of its own."""

    sources: tuple[SourceExtraction, ...] = Field(max_length=1000)
    run_group: str
    max_parallel: int = Field(default=2, ge=1, le=64)


class KnowledgeResult(Model):
    """One result a source, in the input's order."""

    results: tuple[ExtractionResult, ...]


class RecordExtraction(Model):
    work: SourceExtraction
    result: ExtractionResult
