"""Preferences, decisions and facts that people state, by the form of their sentences.

A statement's span is the clause that states it, without the words that only lead in (``ok, so``) and without the full
stop. Questions and conditions state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["preference", "decision", "fact"]

_SENTENCE = re.compile(r"[^.!?\n;]+(?:[.](?=\w|\d)[^.!?\n;]*)*[.!?;]*", re.UNICODE)
_LEAD_IN = re.compile(
    r"(?i)^[\s,–—\-:*•>\"'“(]*(?:(?:ok(?:ay)?|so|and|but|well|yes|yeah|yep|yup|no|nope|sure|thanks|"
    r"thank you|great|perfect|right|"
    r"alright|all right|also|then|fine|cool|oh|ah|hmm+|hi|hello|hey|actually|sorry|anyway|honestly|"
    r"good|awesome|excellent|"
    r"sounds good|got it|understood|in that case|plus|btw|by the way|i think|i guess)(?:\s+(?:then|so|"
    r"much))?(?:\s*[,:–—-]+\s*|\s+(?=(?:i|we|let|please|my|i'm|i'll|the)\b)))+"
)
_CONTRAST = re.compile(
    r"(?i),?\s+(?:but|however|although|though)\s+|\s+[–—]\s+|"
    r",\s+(?=(?:is|are|was|do|does|did|can|could|would|will|should|may|has|have)\s+(?:it|that|this|there|you|he|she|they|we|i)\b[^,]*\?)"
)
_CONDITION = re.compile(
    r"(?i)^\s*(?:if|unless|should|would|could|can|do|does|did|are|is|may|what|which|when|where|how|why|whether)\b"
)
_WE = r"(?:i|we)"
_ADVERB = (
    r"(?:(?:really|much|strongly|always|usually|generally|also|still|definitely|absolutely|actually|"
    r"just|normally|typically|"
    r"personally|would|'d|do|both|all|kind of|particularly|especially|simply|truly)\s+)*"
)
_NOUN = r"(?:[a-z][\w'-]*)"

_PREFERENCE = (
    rf"\b{_WE}(?:'d| would)?\s+{_ADVERB}prefer\b",
    rf"\b{_WE}(?:'d| would)\s+(?:much\s+)?(?:rather|sooner)\b",
    rf"\b{_WE}\s+{_ADVERB}(?:like|love|enjoy|adore|favou?r)\b(?!\s+(?:to know|this is|that is|i said)\b)",
    rf"\b{_WE}\s+{_ADVERB}(?:hate|dislike|loathe|detest|avoid)\b",
    rf"\b{_WE}\s+(?:really\s+)?(?:don'?t|do not|didn'?t)\s+(?:really\s+|particularly\s+)?(?:like|enjoy|"
    rf"care for|eat|drink|want any|do well with)\b",
    rf"\b{_WE}\s+(?:can'?t|cannot|can not)\s+(?:stand|tolerate|bear)\b",
    rf"\b{_WE}\s+(?:never|always|only|usually|mostly|normally|typically|try to|tend to)\s+(?:eat|drink|"
    rf"use|buy|take|fly|wear|shop|travel|stay|order|sit|go for|book|choose|pick|pay|read|watch|"
    rf"work with|sleep|drive|ride|cook|answer|reply|sign|call|meet|write|walk|run|leave|carry|keep|rent|hire)\b",
    r"\bmy\s+(?:personal\s+|absolute\s+|all[- ]time\s+)?(?:favou?rite|preferred|preference|"
    r"first choice|go-to|ideal)\b",
    r"\bour\s+(?:favou?rite|preferred|preference)\b",
    r"\b(?:works?|suits?|fits?)\s+(?:me|us)\s+(?:best|better)\b|\b(?:works?|suits?|is|are|"
    r"would be)\s+(?:much\s+|far\s+)?(?:best|better|easiest|easier|ideal|preferable)\s+for\s+(?:me|"
    r"us)\b",
    rf"\b(?:i'?m|i am|we'?re|we are)\s+(?:really\s+|not\s+(?:really\s+|exactly\s+)?|"
    rf"more\s+of\s+)?(?:an?\s+)?(?:big\s+|huge\s+)?(?:fan\s+of|fond\s+of|keen\s+on|partial\s+to|"
    rf"into\s+{_NOUN})",
    r"\b(?:i'?m|i am|we'?re|we are)\s+(?:more of\s+)?an?\s+[\w-]+\s+person\b",
    r"\b(?:i'?m|i am|he'?s|she'?s|he is|she is|we'?re|we are|they'?re)\s+(?:strictly\s+|severely\s+|"
    r"very\s+|a\s+|both\s+)?(?:allergic\s+to|vegan|vegetarian|pescatarian|lactose[- ]intolerant|"
    r"gluten[- ](?:free|intolerant)|intolerant|sensitive\s+to|celiac|coeliac|diabetic|left-handed)\b",
    r"^\s*(?:please\s+)?(?:always|never)\s+[a-z]+\b",
    r"\bplease\s+(?:only|always|never|don'?t(?:\s+ever)?|do\s+not|avoid|no)\s+(?!(?:worry|hesitate|"
    r"apologi[sz]e|be\s+sorry|mention|forget|hang up|close|panic|take this)\b)[a-z]+",
    r"\b(?:he|she|they|[A-Z][a-z]+)\s+(?:really\s+|strongly\s+|always\s+|also\s+)?(?:prefers|likes|"
    r"loves|hates|dislikes|enjoys|avoids|can'?t\s+stand|doesn'?t\s+(?:like|eat|drink)|"
    r"would\s+(?:prefer|rather))\b",
    r"\b(?:he|she|they)\s+(?:really\s+)?(?:prefer|like|love|hate|dislike|enjoy|don'?t\s+(?:like|eat|drink))\b",
    r"\b(?:preferably|ideally)\b",
)
_NO_PREFERENCE = re.compile(
    r"(?i)\b(?:i|we)(?:'d| would)\s+(?:\w+\s+)?(?:like|love)\b|\bif (?:i|we|you)\b.*\bprefer\b|"
    r"\bfeel free\b|\blook(?:s|ing)? like\b|"
    r"\b(?:i|we)\s+(?:like|love)\s+(?:how|what|that idea)\b|\blike (?:i|we) said\b"
)
_WILL = rf"\b{_WE}(?:'ll| will| shall|'m going to|'re going to| am going to| are going to)"
_DECISION = (
    rf"\b{_WE}(?:'ve| have|'d| had)?\s+(?:all\s+|both\s+|just\s+|now\s+|finally\s+|already\s+|"
    rf"jointly\s+)?(?:decided|agreed|chosen|opted|settled|resolved|concluded|voted)\b(?!\s+(?:yet|"
    rf"to disagree))",
    r"\b(?:it'?s|it is|it was|that'?s|that is|everything is)\s+(?:now\s+|been\s+)?(?:decided|agreed|settled|final)\b",
    r"\b(?:decision|conclusion|verdict|agreement)\s*(?:is|was|:|made|to)\s",
    r"\b(?:let'?s|let us)\s+(?:all\s+|just\s+|then\s+|definitely\s+|please\s+|not\s+)?(?!(?:see|say|"
    r"check|hope|know|look|find|talk|think|discuss|wait and see|try (?:this|that|something)|"
    r"take a look|start with (?:your|some)|me|be honest|face it|figure|get started|verify|"
    r"confirm your)\b)[a-z]+",
    rf"{_WILL}\s+(?:then\s+|just\s+|definitely\s+|probably\s+not\s+|both\s+)?(?:go\s+(?:with|for|"
    rf"ahead)|take\s+(?:the|it|that|this|both|one|two|a|your|up|him|her)|stick\s+(?:with|to)|opt\s+for|"
    rf"choose|pick\s+the|keep\s+(?:it|the|my|our|both)|proceed\s+with|buy|switch\s+to|move\s+forward|"
    rf"settle\s+(?:for|on)|order\s+(?:the|it|that|two|one|both|a)|book\s+(?:the|it|that|a)|"
    rf"cancel\s+(?:the|it|my|our)|pass\s+on|upgrade\s+to|return\s+(?:the|it|them)|use\s+the|adopt|"
    rf"postpone|drop\s+the|hire|launch|ship\s+(?:it|the)\b)",
    r"\b(?:i'?m|i am|we'?re|we are)\s+(?:going|sticking|proceeding|moving|switching)\s+(?:with|"
    r"ahead with|for|to\s+(?:the|a)\b)",
    r"\b(?:please\s+|then\s+|so\s+)?(?:go\s+ahead|proceed)\s+(?:and\s+[a-z]+|with\s+)",
    r"\b(?:approved|the plan is to|final answer|we have a deal|it'?s a deal|consider it booked|count (?:me|us) in)\b",
    r"\bmade\s+(?:up\s+(?:my|our)\s+minds?|(?:a|my|our|the)\s+(?:final\s+)?decision)\b",
    r"\b(?:the\s+)?(?:team|board|committee|management|family|group|everyone|client|he|she|they|"
    r"[A-Z][a-z]+)\s+(?:has\s+|have\s+)?(?:decided|agreed|opted|chose|voted|settled)\s+(?:to|on|for|"
    r"that|against|with|in)\b",
)
_NO_DECISION = re.compile(
    r"(?i)\b(?:haven'?t|have not|not yet|hasn'?t|can'?t|cannot|didn'?t|once|before|until|after|when|"
    r"whether|if|unless)\s+(?:\w+\s+){0,2}(?:decid|agree|settl|cho[os]|opt|go with)|"
    r"\b(?:i|we)(?:'ll| will) go ahead and (?:check|look|see|pull|transfer|connect|verify|find)|"
    r"\b(?:still|trying to) decid"
)
_FACT = (
    r"\bmy\s+(?:full\s+)?name\s+is\b|\bmy name's\b",
    r"\b(?:i|we)\s+(?:currently\s+|now\s+)?(?:live|work|reside)\s+(?:in|at|for|near|as)\b",
    r"\b(?:i'?m|i am|we'?re|we are)\s+(?:currently\s+|now\s+)?(?:based|located|living|working|"
    r"employed|originally from|from)\s*(?:in|at|for|near|as)?\b",
    r"\b(?:i|we)(?:'ve| have)?\s+(?:just\s+|recently\s+)?(?:moved|relocated)\s+(?:to|from)\b",
    r"\b(?:my|our)\s+(?:new\s+|current\s+|home\s+|work\s+|billing\s+|shipping\s+|delivery\s+|"
    r"mobile\s+|cell\s+)?(?:address|e-?mail(?:\s+address)?|phone(?:\s+number)?|number|"
    r"order(?:\s+number)?|birthday|date of birth|account(?:\s+number)?|company|employer|job|budget|"
    r"deadline|office)\s+(?:is|was|are|has changed)\b",
    r"\bmy\s+(?:wife|husband|partner|son|daughter|brother|sister|mother|father|mum|mom|dad|boss|"
    r"manager|colleague|assistant|doctor|friend|fianc[ée]e?|girlfriend|"
    r"boyfriend)(?:'s name)?,?\s+(?:is\s+)?(?:called\s+|named\s+)?[A-Z]",
    r"\b(?:i'?m|i am)\s+\d{1,3}(?:\s+years\s+old)?\b(?!\s*(?:%|minutes|min|km))",
    r"\b(?:i|we)\s+(?:own|drive|run)\s+(?:a|an|the|our)\b",
)


@dataclass(frozen=True)
class StatementSpan:
    start: int
    end: int
    kind: Kind
    polarity: int
    confidence: float


def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # names of people keep their capital letter: the patterns are case-sensitive where they say [A-Z]
    parts = [f"(?:{p})" if "[A-Z]" in p else f"(?i:{p})" for p in patterns]
    return re.compile("|".join(parts))


_PREFERENCE_PATTERN, _DECISION_PATTERN, _FACT_PATTERN = _any(_PREFERENCE), _any(_DECISION), _any(_FACT)
_NEGATIVE = re.compile(
    r"(?i)\b(?:don'?t|do not|doesn'?t|never|no|not|hate|dislike|loathe|detest|avoids?|can'?t stand|"
    r"cannot stand|hates|dislikes|"
    r"allergic|intolerant|against|instead of nothing)\b"
)


def statement_spans(text: str) -> Iterator[StatementSpan]:
    """Every statement of a message, in order; a clause is of one kind: decision before preference before fact."""
    for start, end in clauses(text):
        clause = text[start:end]
        if text[end : end + 3].lstrip().startswith("?") or "?" in text[end : end + 1] or _CONDITION.match(clause):
            continue
        kind = kind_of(clause)
        if kind is not None and len(clause.split()) >= 2:
            polarity = -1 if kind != "fact" and _NEGATIVE.search(clause) else 1
            yield StatementSpan(start, end, kind, polarity, 0.8 if kind != "fact" else 0.85)


def kind_of(clause: str) -> Kind | None:
    """What a clause states, if anything."""
    if _DECISION_PATTERN.search(clause) and not _NO_DECISION.search(clause):
        return "decision"
    if _PREFERENCE_PATTERN.search(clause) and not _NO_PREFERENCE.search(clause):
        return "preference"
    return "fact" if _FACT_PATTERN.search(clause) else None


def clauses(text: str) -> Iterator[tuple[int, int]]:
    """Sentences, cut at contrasts, without lead-ins and closing marks."""
    for match in _SENTENCE.finditer(text):
        position = match.start()
        cuts = [*((m.start(), m.end()) for m in _CONTRAST.finditer(match.group())), (len(match.group()),) * 2]
        for cut_start, cut_end in cuts:
            start, end = position, match.start() + cut_start
            position = match.start() + cut_end
            piece = text[start:end]
            lead = _LEAD_IN.match(piece)
            start += lead.end() if lead else len(piece) - len(piece.lstrip(" \t\n,–—-*•>:"))
            while end > start and text[end - 1] in " \t\n.!;,:":
                end -= 1
            if start < end and text[end - 1] != "?":
                yield start, end
