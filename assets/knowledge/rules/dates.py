"""Dates and times as they are written in chats, and the day they mean, seen from the message's own time.

A span holds what names the date, without ``on``, ``at`` or ``by``; a period of days or longer is a date, of hours or
less a time, as in OntoNotes, whose labels the NER model uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from assets.knowledge.rules.spans import Span

_MONTHS: Sequence[str] = "january february march april may june july august september october november december".split()  # noqa: SIM905
_DAYS: Sequence[str] = "monday tuesday wednesday thursday friday saturday sunday".split()  # noqa: SIM905
_M = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_D = r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?"
_D_SHORT = r"(?:mon|tues?|wed|thur?s?|fri|sat|sun)\.?"
_N = r"(?:0?[1-9]|[12]\d|3[01])"
_ORD = rf"{_N}(?:st|nd|rd|th)"
_SPELLED_ORD = (
    r"(?:twenty[- ]|thirty[- ])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|"
    r"eleventh|twelfth|"
    r"thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_Y = r"(?:19|20)\d\d"
_COUNT = (
    r"(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fourteen|fifteen|twenty|"
    r"thirty|sixty|ninety|"
    r"several|a few|a couple of|couple of|\d{1,3}(?:\s?(?:-|–|to|or)\s?\d{1,3})?)"
)
_LONG = (
    r"(?:business |working |calendar |week)?(?:days?|nights?|weeks?|weekends?|fortnights?|months?|"
    r"quarters?|years?|decades?)"
)
_SHORT = r"(?:hours?|hrs?|minutes?|mins?|seconds?|secs?)"
_PARTS = r"(?:morning|afternoon|evening|night)"
_HOLIDAYS = (
    r"christmas(?: eve| day)?|xmas|new year'?s?(?: eve| day)?|easter(?: monday| sunday)?|good friday|"
    r"thanksgiving|halloween|"
    r"black friday|cyber monday|valentine'?s day|labou?r day|memorial day|independence day|boxing day|mother'?s day|"
    r"father'?s day|pentecost|hanukkah|ramadan|diwali|eid"
)
_DATES = (
    # 2026-03-14, 2026/3/14, 14.03.2026, 14/03/26, 3-14-2026
    rf"(?<![\w./-]){_Y}([-/.])(?:0?[1-9]|1[0-2])\1{_N}(?![\w/-]|\.\d)",
    rf"(?<![\w./-]){_N}([/.-])(?:0?[1-9]|[12]\d|3[01])\2(?:{_Y}|\d\d)(?![\w/-]|\.\d)",
    rf"(?<![\w./-]){_N}\.(?:0?[1-9]|1[0-2])\.(?!\d)",
    # Monday, 14 March 2026; Mon 14th of March; March 14th, 2026; mar 14
    rf"(?:\b(?:{_D}|{_D_SHORT}),?\s+(?:the\s+)?)?\b(?:{_ORD}|{_N})(?:\s?(?:-|–|to)\s?(?:{_ORD}|"
    rf"{_N}))?\s+(?:of\s+)?{_M}(?:,?\s+{_Y})?(?!\w)",
    rf"(?:\b(?:{_D}|{_D_SHORT}),?\s+)?\b{_M}\s+(?:the\s+)?(?:{_ORD}|{_N}(?!\d|:|\s?(?:am|pm)\b|"
    rf"[.,]\d))(?:\s?(?:-|–|to)\s?(?:{_ORD}|{_N})(?!\d))?(?:,?\s+{_Y})?(?!\w)",
    rf"\b(?:the\s+)?(?:{_SPELLED_ORD})\s+of\s+{_M}(?!\w)",
    rf"\b{_M}\s+(?:of\s+)?{_Y}\b",
    # Monday the 14th; next Tuesday; this weekend; last month; every Friday
    rf"\b{_D}\s+(?:the\s+)?(?:{_ORD})\b",
    rf"\b(?:(?:next|last|this|coming|past|previous|following|every|each)\s+)?{_D}\b",
    rf"\b(?:next|last|past|previous|following|coming|every|each)\s+{_D_SHORT}(?!\w)",
    r"\b(?:the\s+)?(?:day\s+(?:after\s+tomorrow|before\s+yesterday))\b",
    r"\b(?:today|tomorrow|yesterday|tmrw|tomorow)\b",
    rf"\b(?:(?:early|late|later|mid|the|end\s+of|beginning\s+of|middle\s+of|start\s+of|the\s+(?:end|"
    rf"beginning|middle|start)\s+of)\s+)*"
    rf"(?:next|last|this|the\s+(?:next|following|coming|past|previous))\s+"
    rf"(?:{_COUNT}\s+)?(?:business\s+|calendar\s+)?(?:days?|weeks?|weekends?|months?|quarters?|years?|"
    rf"spring|summer|autumn|fall|winter|{_M})(?!\w)",
    rf"\b(?:the\s+)?(?:end|beginning|start|middle)\s+of\s+(?:the\s+)?(?:day|week|month|quarter|year|"
    rf"{_M}(?:\s+{_Y})?)(?!\w)",
    r"\b(?:every|each)\s+(?:other\s+)?(?:day|week|weekend|month|quarter|year)\b",
    # two weeks ago; 3-5 business days; a two-year ...
    rf"\b(?:over\s+|about\s+|almost\s+|more\s+than\s+)?{_COUNT}\s+{_LONG}\s+(?:ago|earlier|from\s+now|"
    rf"from\s+today)\b",
    rf"(?<![\w.,$€£])(?:{_COUNT})[\s-]+{_LONG}\b(?!\s+old)",
    rf"\bthe\s+(?:{_ORD})(?!\w)(?!\s+(?:floor|time|row|street|avenue|century|edition|place|item|line|try))",
    rf"(?<=\bon\s)(?:{_ORD})(?!\w)",
    rf"\bQ[1-4](?:\s+(?:of\s+)?{_Y})?\b",
    rf"\b(?:{_HOLIDAYS})(?!\w)",
)
_BARE_MONTH = re.compile(
    rf"(?<=\s)(?P<m>(?:late |early |mid[- ])?(?:{'|'.join(m.capitalize() for m in _MONTHS)}|Sept|Aug|"
    rf"Dec|Jan|Feb|Nov|Oct)(?:\s+{_Y})?)(?!\w)"
)
_MONTH_CONTEXT = re.compile(
    r"(?i)\b(?:in|since|until|till|by|of|from|to|through|during|for|before|after|between|and|this|next|last)\s$"
)
_BARE_YEAR = re.compile(
    rf"(?i)(?:\b(?:in|since|from|until|by|of|during|year|back in)\s+)(?P<y>{_Y})(?![\w-]|[.,:/]\d|"
    rf"\s?(?:€|\$|eur|usd|{_SHORT}))"
)
_TIMES = (
    r"(?<![\w:.])(?:1[0-2]|0?[1-9])(?:[:.][0-5]\d)?\s?(?:-|–|to|and)\s?(?:1[0-2]|"
    r"0?[1-9])(?:[:.][0-5]\d)?\s?(?:am|pm|a\.m\.?|p\.m\.?)(?!\w)",
    r"(?<![\w:.])(?:1[0-2]|0?[1-9])(?:[:.][0-5]\d)?\s?(?:am|pm|a\.m\.?|p\.m\.?)(?!\w)",
    r"(?<![\w:.,/-])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:\s?(?:-|–|to)\s?(?:[01]?\d|"
    r"2[0-3]):[0-5]\d)?(?:\s?(?:am|pm|a\.m\.|p\.m\.|h|hrs?|uhr|cet|cest|gmt|utc|est|pst))?(?![\w:])",
    r"\b(?:half|quarter|ten|twenty|five)\s+(?:past|to)\s+(?:one|two|three|four|five|six|seven|eight|"
    r"nine|ten|eleven|twelve|noon|\d{1,2})\b",
    r"\b(?:1[0-2]|[1-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\s?o'?clock\b",
    r"\b(?:noon|midnight|midday|lunchtime)\b",
    rf"\b(?:this|tomorrow|yesterday|last|{_D})\s+{_PARTS}s?\b",
    r"\btonight\b",
    rf"(?<![\w.,$€£])(?:another\s+|half\s+an?\s+|{_COUNT}\s*(?:and\s+a\s+half\s+)?|"
    rf"\d+\.5\s+)[\s-]?{_SHORT}(?:\s+(?:ago|earlier|from\s+now))?(?!\w)",
    r"\b(?:half|quarter)\s+(?:an\s+)?hour\b",
)
_DATE = re.compile("|".join(f"(?:{pattern})" for pattern in _DATES[3:]), re.IGNORECASE)
_NUMERIC = [re.compile(pattern.replace(r"\2", r"\1")) for pattern in _DATES[:3]]
_TIME = re.compile("|".join(f"(?:{pattern})" for pattern in _TIMES), re.IGNORECASE)
_VERSION_BEFORE = re.compile(r"(?i)\b(?:version|release|build|firmware|revision|ver|v)\.?\s*$")
_MAY = re.compile(r"may", re.IGNORECASE)


def date_spans(text: str) -> Iterator[Span]:
    for pattern in _NUMERIC:
        for match in pattern.finditer(text):
            if _VERSION_BEFORE.search(text[: match.start()]):
                continue
            yield Span(match.start(), match.end(), "date", rank=2, confidence=0.95)
    for match in _TIME.finditer(text):
        kind = {"kind": "duration"} if re.search(rf"(?i){_SHORT}\b", match.group()) else {}
        yield Span(match.start(), match.end(), "time", 3, 0.95, kind)
    for match in _DATE.finditer(text):
        found = match.group()
        if re.fullmatch(r"(?i)(?:an?|one)\s+(?:day|night|year)", found) and not _counted(text, match.start()):
            continue
        kind = {"kind": "duration"} if re.fullmatch(rf"(?i){_COUNT}[\s-]+{_LONG}", found) else {}
        end = match.end() - (
            found[-1] == "." and found[-2].isalpha()
        )  # the sentence's full stop, not an abbreviation's
        yield Span(match.start(), end, "date", 4, 0.95, kind)
    for match in _BARE_MONTH.finditer(text):
        if _MONTH_CONTEXT.search(text[: match.start()]):
            yield Span(match.start("m"), match.end("m"), "date", rank=4, confidence=0.85)
    for match in _BARE_YEAR.finditer(text):
        yield Span(match.start("y"), match.end("y"), "date", rank=4, confidence=0.85)


def _counted(text: str, start: int) -> bool:
    """``in a day`` and ``for one night`` count, ``have a day off`` and ``one day`` do not."""
    return bool(re.search(r"(?i)\b(?:in|within|for|after|under|least|last|about|only|takes?)\s$", text[:start]))


def resolve(text: str, at: datetime | None) -> str | None:
    """The ISO date (or month, or year) that a date span means; relative ones count from ``at``.

    None where it cannot be told. Day before month in ``03/04/2026`` cannot be told either and gives None.
    """
    plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", text.lower().strip().rstrip("."))
    try:
        return _absolute(plain, at) or (_relative(plain, at.date()) if at else None)
    except ValueError:
        return None


def _absolute(text: str, at: datetime | None) -> str | None:
    if match := re.fullmatch(rf"({_Y})[-/.](\d\d?)[-/.](\d\d?)", text):
        return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    if match := re.fullmatch(r"(\d\d?)([/.-])(\d\d?)\2(\d{4}|\d\d)", text):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        year += 2000 if year < 100 else 0
        if match[2] == "." or first > 12:
            return date(year, second, first).isoformat()
        return date(year, first, second).isoformat() if second > 12 or first == second else None
    month = next((n for n, name in enumerate(_MONTHS, 1) if re.search(rf"\b(?:{name}|{name[:3]}t?)\b\.?", text)), None)
    if month is None:
        return None
    year_match, day_match = re.search(rf"\b{_Y}\b", text), re.search(r"(?<!\d)(\d{1,2})(?!\d)", text)
    if not year_match and at is None:
        return None
    if day_match:
        day = int(day_match[1])
        if year_match:
            return date(int(year_match.group()), month, day).isoformat()
        assert at is not None
        return _nearest(at.date(), month, day).isoformat()
    return f"{year_match.group()}-{month:02}" if year_match else None


def _nearest(today: date, month: int, day: int) -> date:
    """The day of that name nearest to today."""
    candidates = [date(year, month, day) for year in (today.year - 1, today.year, today.year + 1)]
    return min(candidates, key=lambda day: abs((day - today).days))


_SMALL = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "ten": 10}


def _relative(text: str, today: date) -> str | None:
    fixed = {
        "today": 0, "tonight": 0, "tomorrow": 1, "tmrw": 1, "yesterday": -1,
        "day after tomorrow": 2, "day before yesterday": -2,
    }  # fmt: skip
    plain = text.removeprefix("the ")
    if plain in fixed:
        return (today + timedelta(days=fixed[plain])).isoformat()
    if match := re.fullmatch(rf"(?:(next|last|this|coming|past|previous)\s+)?({'|'.join(_DAYS)})", plain):
        ahead = (_DAYS.index(match[2]) - today.weekday()) % 7
        if match[1] in ("last", "past", "previous"):
            return (today - timedelta(days=(7 - ahead) % 7 or 7)).isoformat()
        return (today + timedelta(days=ahead or (7 if match[1] else 0))).isoformat()
    if match := re.fullmatch(r"(\w+)\s+(day|week)s?\s+(ago|from now|from today)", plain):
        count = int(match[1]) if match[1].isdigit() else _SMALL.get(match[1], 0)
        days = count * (7 if match[2] == "week" else 1) * (-1 if match[3] == "ago" else 1)
        return (today + timedelta(days=days)).isoformat() if count else None
    if match := re.fullmatch(r"(next|last|this)\s+(month|year)", plain):
        step = {"next": 1, "last": -1, "this": 0}[match[1]]
        if match[2] == "year":
            return str(today.year + step)
        months = today.year * 12 + today.month - 1 + step
        return f"{months // 12}-{months % 12 + 1:02}"
    return None
