"""E-mail addresses, URLs, phone numbers, IBANs, versions, and the numbers of orders, tickets, bookings and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from assets.knowledge.rules.spans import Span

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9](?:[\w.+'-]*[A-Za-z0-9_+-])?@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?![\w@])")
_DOMAINS = (
    "com|org|net|io|dev|app|ai|co|de|fr|uk|eu|us|ch|at|nl|es|it|se|no|dk|pl|jp|cn|in|br|au|ca|info|biz|gov|edu|shop|"
    "online"
)
_URL = re.compile(
    rf"(?i)\b(?:https?://|www\.)[^\s<>\"'\])}}]+|"
    rf"(?<![@\w.-])(?:[a-z0-9][a-z0-9-]*\.)+(?:{_DOMAINS})(?:/[^\s<>\"'\])}}]*)?(?![\w@-]|\.\w)"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?\b")
_PHONE = re.compile(r"(?<![\w.,/#-])(?:\+|00)?\(?\d[\d\s()./-]{5,18}\d(?!\w|[.,]\d|-\d)")
_PHONE_WORDS = re.compile(
    r"(?i)\b(?:call|phone|telephone|mobile|cell|tel|number|reach|text|whatsapp|dial|ring|fax|line|"
    r"hotline|contact)\b[^.!?\n]{0,40}$"
)
_NUMBER_WORDS = (
    "order|ticket|invoice|case|booking|reservation|confirmation|tracking|reference|ref|account|customer|serial|policy|claim|"
    "membership|member|contract|receipt|transaction|request|shipment|parcel|package|rma|pnr|sku|incident|bug|issue|quote|"
    "license|licence|flight|patient|return|subscription|loyalty|voucher|coupon|po|purchase order|asset|registration|"
    "passport|student|employee|insurance|delivery|repair|complaint|enquiry|inquiry|job|batch|part|article|item|device|"
    "room key"
)
_NAMED = re.compile(
    rf"(?i:\b(?P<kind>{_NUMBER_WORDS})s?(?:[ -](?:number|no|nr|num|id|code|reference|ref|key|name))*\.?"
    r"(?:\s*(?:is|was|are|=|:|-|–|it's|its|would be|should be|reads|says|being|called|of|with|for|under|\())*\s*)"
    r"[\"'“(]?(?P<token>#?[A-Za-z0-9](?:[A-Za-z0-9/_-]*[A-Za-z0-9])?)(?![\w@]|[.,:]\d)"
)
_LETTERS_ONLY = frozenset({"booking", "confirmation", "reservation", "pnr", "voucher", "coupon", "reference", "ref"})
_PREFIXED = re.compile(r"(?<![\w/.-])[A-Z]{2,8}[-_](?:[A-Z0-9]{1,8}[-_])*\d[A-Z0-9]*(?:[-_][A-Z0-9]+)*(?![\w]|\.\d)")
_NO_PREFIX = re.compile(
    r"(?:COVID|ISO|UTF|USB|GPT|HDMI|PM|AM|UTC|GMT|RFC|SHA|MD|AES|RSA|TLS|EN|DIN|A|B|PS|F|T|IPV|WPA|MP|H)[-_]"
)
_HASH = re.compile(r"(?<![\w&/#])#(?=[A-Z0-9-]*\d)[A-Z0-9][A-Z0-9-]{2,}(?!\w)")
_MIXED = re.compile(r"(?<![\w/.@-])(?=[A-Z0-9]*\d)(?=[A-Z0-9]*[A-Z])[A-Z0-9]{8,}(?![\w@-])")
_FLIGHT = re.compile(r"(?<!\w)(?:[A-Z]{2}|[A-Z]\d|\d[A-Z]) ?\d{2,4}(?!\w|[.,:]\d)")
_AIRLINES = frozenset(
    re.findall(
        r"\w\w",
        "AA AC AF AI AY AZ BA CX DL EI EK ET EW EY FR IB JL KL LA LH LO LX "
        "NH OS QF QR SA SK SN SQ TG TK TP U2 UA VS VY W6",
    )
)
_VERSION = re.compile(
    r"(?<![\w.@/-])v\d+(?:\.\d+){0,3}(?:-?(?:alpha|beta|rc|b)\.?\d*)?(?![\w]|\.\d)"
    r"|(?<![\w.,$€£@/:-])\d+\.\d+\.\d+(?:\.\d+)?(?:-[A-Za-z][\w.]*)?(?![\w%]|[.,]\d)"
)
_NAMED_VERSION = re.compile(
    r"(?i:\b(?:version|release|build|firmware|revision|ver\.?|ios|ipados|android|macos|os x|windows|ubuntu|debian|"
    r"fedora|python|node(?:\.js)?|java|php|ruby|postgres(?:ql)?|mysql|mariadb|chrome|firefox|safari|"
    r"edge|docker|kubernetes|react|angular|"
    r"django|rails|spark|dbt|airflow|dagster|excel|bluetooth|wordpress|outlook)"
    r"(?: (?:version|release|build|is|was|to|on|at|number))*\s*[:=]?\s+)"
    r"(?P<number>v?\d+(?:\.\d+){0,3}(?:-?(?:alpha|beta|rc)\.?\d*)?)(?![\w%]|[.,/:]\d)"
)
_INTEGER_VERSIONS = re.compile(r"(?i)\b(?:version|release|build|firmware|revision|ver|android|ios|ipados)\b")
_DATE_LIKE = re.compile(r"(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})")


def identifier_spans(text: str) -> Iterator[Span]:
    """Every identifier, also such that overlap: `without_overlaps` decides by rank."""
    for match in _EMAIL.finditer(text):
        yield Span(match.start(), match.end(), "email", rank=0, confidence=0.99)
    for match in _URL.finditer(text):
        end = match.start() + len(match.group().rstrip(".,;:!?)'\""))
        yield Span(match.start(), end, "url", rank=1, confidence=0.97)
    for match in _IBAN.finditer(text):
        if _iban_end := _valid_iban(match.group()):
            yield Span(match.start(), match.start() + _iban_end, "iban", rank=1, confidence=0.99)
    yield from _versions(text)
    yield from _numbers(text)
    yield from _phones(text)


def _valid_iban(text: str) -> int:
    """Length of the longest beginning that is an IBAN by its check digits; 0 if none is."""
    for end in range(len(text), 14, -1):
        if text[end - 1] in " -":
            continue
        plain = re.sub(r"[ -]", "", text[:end])
        if not 15 <= len(plain) <= 34:
            continue
        digits = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
        if int(digits) % 97 == 1:
            return end
    return 0


def _versions(text: str) -> Iterator[Span]:
    for match in _VERSION.finditer(text):
        if not _DATE_LIKE.fullmatch(match.group()):
            yield Span(match.start(), match.end(), "version", rank=3)
    for match in _NAMED_VERSION.finditer(text):
        number = match["number"]
        if "." in number or number[0] in "vV" or _INTEGER_VERSIONS.search(match.group()):
            yield Span(match.start("number"), match.end("number"), "version", rank=2)


def _numbers(text: str) -> Iterator[Span]:
    for match in _NAMED.finditer(text):
        token, kind = match["token"], match["kind"].lower()
        if match["kind"].isupper() and text[match.end("kind")] == "-":  # a prefix of the number itself: JOB-4471
            continue
        digits = sum(c.isdigit() for c in token)
        plain = token.lstrip("#")
        code = (digits >= 3 and plain.upper() == plain) or (digits >= 2 and (token[0] == "#" or "-" in token))
        code = code or (digits >= 1 and len(plain) >= 5 and plain.upper() == plain)
        code = code or (kind in _LETTERS_ONLY and plain.isalpha() and plain.isupper() and 5 <= len(plain) <= 8)
        year = re.fullmatch(r"(?:19|20)\d\d", plain) and match.group()[: -len(token)].rstrip()[-1:] not in "#:"
        if code and not year and not _DATE_LIKE.fullmatch(plain):
            yield Span(match.start("token"), match.end("token"), "identifier", 2, 0.95, {"kind": kind})
    for match in _PREFIXED.finditer(text):
        digits = sum(c.isdigit() for c in match.group())
        if digits >= 2 and not _NO_PREFIX.match(match.group()):
            yield Span(match.start(), match.end(), "identifier", rank=3, confidence=0.9)
    for match in _HASH.finditer(text):
        yield Span(match.start(), match.end(), "identifier", rank=3, confidence=0.9)
    for match in _MIXED.finditer(text):
        if sum(c.isdigit() for c in match.group()) >= 3:
            yield Span(match.start(), match.end(), "identifier", rank=4, confidence=0.8)
    for match in _FLIGHT.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()].lower()
        spaced = " " in match.group()
        if "flight" in before or (match.group()[:2] in _AIRLINES and not spaced and len(match.group()) >= 5):
            yield Span(match.start(), match.end(), "identifier", 3, 0.85, {"kind": "flight"})


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        found = match.group()
        digits = sum(c.isdigit() for c in found)
        if not 7 <= digits <= 15 or _DATE_LIKE.search(found) or found.count("(") != found.count(")"):
            continue
        international = found.startswith(("+", "00"))
        grouped = len(re.findall(r"\d+", found)) >= 3 and digits >= 9
        american = re.fullmatch(r"\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{4}", found)
        spoken = _PHONE_WORDS.search(text[max(0, match.start() - 60) : match.start()])
        if international or american or grouped or spoken:
            yield Span(match.start(), match.end(), "phone", 3 if international or american or spoken else 4, 0.9)
