"""What every extractor offers: from a chunk of a session to an answer that names exact places in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field

from assets.knowledge.dialogue import Chunk
from assets.sync import Model

if TYPE_CHECKING:
    from assets.knowledge.source_config import EndpointExtractor

EntityType = Literal[
    "person",
    "organization",
    "location",
    "product",
    "date",
    "time",
    "money",
    "percent",
    "email",
    "phone",
    "url",
    "iban",
    "identifier",
    "version",
]
ENTITY_TYPES: tuple[EntityType, ...] = get_args(EntityType)
StatementKind = Literal["fact", "preference", "decision"]
Predicate = Literal["works_for", "lives_in", "located_in", "has_email", "has_phone", "has_role", "related_to", "owns"]
PREDICATES: tuple[Predicate, ...] = get_args(Predicate)
FUNCTIONAL: frozenset[str] = frozenset({"works_for", "lives_in", "located_in"})
"""Of these a subject has one at a time: two different ones are a contradiction, or a change."""


class FoundEntity(Model):
    """``chunk.segments[segment].text[start:end]`` names an entity."""

    segment: int
    start: int
    end: int
    type: EntityType
    confidence: float = 1.0
    attributes: dict[str, str] = Field(default_factory=dict)


class FoundStatement(Model):
    """``chunk.segments[segment].text[start:end]`` states something; ``topic`` is what, in the text's words."""

    segment: int
    start: int
    end: int
    kind: StatementKind
    topic: str = ""
    polarity: int = 1
    confidence: float = 1.0


class FoundRelation(Model):
    """A relation that ``text[start:end]`` of a segment states. Subject and object are names as they stand in the chunk.

    An empty subject is the speaker. ``ends``: the statement says that the relation is over.
    """

    segment: int
    start: int
    end: int
    subject: str
    subject_type: EntityType | None = None
    predicate: Predicate
    object: str
    object_type: EntityType
    changed: bool = Field(default=False, description="the statement says that this replaces an earlier one")
    ends: bool = False
    confidence: float = 1.0


class Answer(Model):
    """What an extractor says about one chunk."""

    entities: tuple[FoundEntity, ...] = ()
    statements: tuple[FoundStatement, ...] = ()
    relations: tuple[FoundRelation, ...] = ()
    dropped: int = Field(default=0, description="findings without a place in the text")


class Extractor(ABC):
    """Reads chunks. ``model`` and ``prompt_version`` identify the answers; ``paid`` ones are stored before use."""

    model: str
    prompt_version: str
    paid: bool
    chunk_characters: int

    @abstractmethod
    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Answer]:
        """One answer a chunk, in order.

        Raises:
            NotFoundError: a paid answer is not stored.
        """


def embedded_extractor() -> Extractor:
    """The offline extractor, loaded once a process."""
    from assets.knowledge.embedded import shared

    return shared()


def endpoint_identity(config: EndpointExtractor) -> tuple[str, str]:
    """Model and prompt version that the answers of an endpoint are stored under."""
    from assets.knowledge.prompt import PROMPT_VERSION

    temperature = "" if config.temperature is None else f"/t{config.temperature:g}"
    return config.model, f"{PROMPT_VERSION}{temperature}"
