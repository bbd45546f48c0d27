"""People, organizations, places and products: the NER model's spans corrected, and those it misses in chats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from assets.knowledge.rules.gazetteer import (
    ALL_FIRST_NAMES,
    CAPITALIZED_ORGANIZATIONS,
    CAPITALIZED_PLACES,
    FIRST_NAMES,
    MAKERS,
    NO_NAMES,
    ORGANIZATIONS,
    PLACES,
    PRODUCT_LINES,
)
from assets.knowledge.rules.spans import Span

_CAP = r"[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’]*(?:-[A-ZÀ-ÖØ-Þ]?[\w'’]+)*"
_PARTICLE = (
    r"(?:van der|van den|van de|van|von der|von|de la|de los|de|del|della|da|dos|di|du|le|la|bin|al|el|"
    r"ten|ter)"
)
_FULL = rf"{_CAP}(?:\s+(?:[A-Z]\.\s*)?(?:{_PARTICLE}\s+)?{_CAP}){{0,3}}"
_INTRODUCED = re.compile(
    rf"\b(?i:my (?:full |first )?name is|my name's|name's|the name is|name:|full name:|this is|i am|"
    rf"i'm|it's|speaking with|"
    rf"you(?:'re| are) (?:speaking|chatting|talking) (?:with|to)|call me|ask for|named|called|"
    rf"passenger(?: name)?:?|guest:?|"
    rf"under the name(?: of)?|in the name of|addressed to|signed by|attention:?|attn:?|"
    rf"contact:?)\s+(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.?\s+)?"
    rf"(?P<name>{_FULL})"
)
_SELF_INTRODUCTION = re.compile(r"(?i)(?:my (?:full |first )?name is|my name's|this is|i am|i'm|call me)\b")
_WEAK_INTRODUCTION = re.compile(r"(?i)\b(?:this is|i am|i'm|it's|contact:?|called|attention:?)\s+$")
_LOWER_INTRODUCED = re.compile(
    r"(?i)\b(?:my name is|my name's|this is|i'm|i am|call me|hi|hello|hey|dear|thanks|"
    r"thank you)[, ]+([a-z]+)\b"
)
_GREETED = re.compile(
    rf"(?:^|[.!?,\n]\s*|\b)(?i:hi|hello|hey|dear|good morning|good afternoon|good evening|morning|"
    rf"thanks(?: so much| a lot| again)?|"
    rf"thank you(?: so much| very much)?|welcome(?: back)?|cheers|bye|goodbye|sorry|sure|of course|"
    rf"perfect|great|no problem|"
    rf"kind regards|best regards|regards|best|sincerely|yours)(?:\s+there)?\s*[,!]?\s+(?:(?:Mr|Mrs|Ms|"
    rf"Miss|Dr|Prof)\.?\s+)?"
    rf"(?P<name>{_CAP}(?:\s+{_CAP})?)(?=\s*(?:[,.!?\n;:)–—-]|$|\s(?:and|for|from|i|we|your|how|what|"
    rf"thanks|here|again|at|you)\b))"
)
_TITLED = re.compile(
    rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Doctor|Nurse|Sir|Madame|Frau|Herr|Señor|Señora|"
    rf"Señorita|Signor|Signora|Senhor|Senhora|Madam|Mme|Mlle|Mevrouw|Meneer|Fru|Herra|Rabbi|Imam|Sheikh|Sensei|"
    rf"Monsieur|Captain)\.?\s+(?P<name>{_FULL})"
)
_SPEAKING = re.compile(
    rf"(?:^|[.,!?\n]\s*)(?P<name>{_FULL}),?\s+(?:(?i:speaking|here)\b|(?i:from (?:the )?(?:\w+ )?"
    rf"(?:team|desk|department|finance|sales|support|billing|accounting|hr|it|legal|marketing|procurement))\b)"
)
_SIGNED = re.compile(rf"(?:^|\n)\s*(?:[-–—~]+\s*)(?P<name>{_CAP}(?:\s+{_CAP}){{0,2}})\s*$")
_RELATED = re.compile(
    rf"\b(?i:my|our|his|her|their|your)\s+(?i:wife|husband|partner|son|daughter|brother|sister|mother|"
    rf"father|mum|mom|dad|boss|"
    rf"manager|colleague|coworker|assistant|friend|fianc[ée]e?|girlfriend|boyfriend|cousin|uncle|aunt|"
    rf"niece|nephew|neighbou?r|"
    rf"lawyer|accountant|dentist|roommate|landlord|teacher|doctor|tenant|client|nurse|"
    rf"secretary)s?(?:'s name is|,| is(?: called| named)?)?\s+"
    rf"(?:(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.?\s+)?(?P<name>{_FULL})"
)
_NAME_RUN = re.compile(_FULL)
_LEGAL = (
    r"GmbH|AG|Inc|Ltd|LLC|LLP|Corp|Corporation|Company|SE|PLC|plc|B\.?V|N\.?V|Oy|AB|A/S|ApS|KG|OHG|"
    r"S\.?A|S\.?r\.?l|SpA|Pty|"
    r"Group|Holdings?|Bank|University|College|Hospital|Clinic|Airlines|Airways|Insurance|Institute|"
    r"Foundation|Hotels?|Resort|"
    r"Labs?|Technologies|Systems|Solutions|Partners|Consulting|Logistics|Pharma(?:ceuticals)?|Motors|"
    r"Industries|Energy|"
    r"Telecom|Media|Studios?|Capital|Ventures|Associates|Academy|School|Ministry|Council|Library|"
    r"Museum|Pharmacy|Couriers?|"
    r"Software|Analytics|Foods|Electronics|Dental|Medical|Health|Realty|Properties|Supplies|Outfitters|Bakery|Express"
)
_COMPANY = re.compile(
    rf"(?<![\w'])(?:{_CAP}|[A-Z]{{2,}})(?:\s+(?:{_CAP}|&|and|of))*?\s+(?:{_LEGAL})(?:\s+(?:{_LEGAL}|"
    rf"of\s+{_CAP}))*\b\.?(?!\w)"
)
_EMPLOYER = re.compile(
    rf"\b(?i:work(?:s|ed|ing)?(?: as [a-z ]{{2,30}})? (?:at|for)|employed (?:at|by)|job at|"
    rf"(?:an? )?(?:account|contract|subscription|policy|order) with|"
    rf"customer of|client of|calling from|behalf of|hired by|joined|interview at|offer from|supplier,?|"
    rf"vendor,?|competitor,?|"
    rf"(?:bought|ordered|purchased) (?:it |this |them )?(?:from|"
    rf"at))\s+(?:the )?(?P<name>{_CAP}(?:\s+(?:&\s+)?{_CAP}){{0,3}})"
)
_FROM_ORG = re.compile(
    rf"\b(?i:i'm|i am|this is|it's|speaking,?)\s+{_CAP}(?:\s+{_CAP})?,?\s+(?i:calling |writing |"
    rf"here )?(?:from|with|at)\s+(?:the )?(?P<name>{_CAP}(?:\s+(?:&\s+)?{_CAP}){{0,3}})"
)
_HERE_FROM = re.compile(rf"\bhere (?:from|at|with) (?:the )?(?P<name>{_CAP}(?:\s+(?:&\s+)?{_CAP}){{0,3}})")
_HOTEL = re.compile(
    rf"\b(?P<name>(?:Hotel|Hostel|Restaurant|Café|Cafe|Clinique|Clínica|Banco|Banca|Banque) {_CAP}(?:\s+{_CAP}){{0,2}})"
)
_TEAM = re.compile(
    rf"(?P<name>{_CAP}(?:\s+{_CAP}){{0,2}})\s+(?:customer\s+)?(?:support|care|helpdesk|billing|"
    rf"service desk)\b"
)
_PLACED = re.compile(
    rf"\b(?i:live|lives|living|based|located|moved|moving|move|relocat\w+|fly|flying|flight|flights|"
    rf"travel\w*|trip|visit\w*|drive|driving|"
    rf"ship|shipped|shipping|deliver\w*|arriv\w+|depart\w+|airport|office|branch|warehouse|store|hotel|"
    rf"apartment|flat|house|conference|"
    rf"stay\w*|landing|land|train|trains|bus|ferry|born|city of|town of)"
    rf"(?:\s+(?i:is|us|it|me|them|tickets?|in|back|over|out|down|up))?\s+(?:in|to|from|near|at|via|for|"
    rf"around|outside|of)\s+(?P<name>{_CAP}(?:\s+{_CAP}){{0,2}})"
)
_STATION = re.compile(
    rf"(?P<name>{_CAP}(?:\s+{_CAP})?)\s+(?:airport|station|harbour|harbor|central station|old town|city centre)\b"
)
_WITHIN = re.compile(rf"\b(?:in|near|outside)\s+(?P<name>{_CAP})(?=[\s,.!?;)]|$)(?!\s+{_CAP})")
_NO_PLACES = frozenset(
    re.findall(
        r"\w+",
        "safari english german french spanish italian dutch polish portuguese russian chinese japanese arabic "
        "turkish hindi latin python java javascript typescript rust sql excel word outlook slack jira teams zoom "
        "chrome firefox docker kubernetes github gitlab spark kafka christ god q1 q2 q3 q4",
    )
)
_STREET = re.compile(
    rf"\b\d{{1,5}}[A-Za-z]?\s+(?:{_CAP}\s+){{1,3}}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|"
    rf"Boulevard|Blvd|Way|Square|Court|Ct|Place|Pl|Terrace|Close|Crescent|Row|Parkway)\b\.?"
    rf"|\b[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|weg|platz|allee|gasse|gade|gata|gatan|vej|vägen|straat|laan|gracht|"
    rf"utca|katu)\s+\d{{1,4}}[a-z]?\b"
    rf"|\b(?:\d{{1,4}},?\s+)(?i:rue|avenue|boulevard|place|chemin|quai|impasse)\s+(?:(?:de|du|des|la|le|l')\s+)*"
    rf"{_CAP}(?:\s+{_CAP}){{0,3}}"
    rf"|\b(?:Rue|Calle|Avenida|Plaza|Paseo|Via|Viale|Piazza|Corso|Rua|Travessa|Praça)\s+(?:(?:de|del|della|da|do|dos|la|las|"
    rf"los)\s+)*{_CAP}(?:\s+{_CAP}){{0,3}},?\s+\d{{1,4}}\b"
)
_MODEL = (
    r"(?:\s+(?:[A-Z]{0,3}-?\d{1,4}[A-Za-z]{0,3}|X|XR|XS|SE|Pro|Max|Plus|Ultra|Mini|Air|Lite|Go|Nano|"
    r"Watch|Tab|Note|Fold|Flip|Buds|"
    r"Series|Gen|Carbon|Nano|Touch|OLED|Slim|One|Studio|Elite|Active|Classic|Edition))"
)
_LINES = "|".join(re.escape(line) for line in sorted(PRODUCT_LINES, key=len, reverse=True))
_LINE = re.compile(rf"(?i:\b(?:{_LINES})(?:s|es)?\b)(?:{_MODEL})*")
_MADE_BY = re.compile(
    rf"\b(?i:{'|'.join(re.escape(maker) for maker in sorted(MAKERS, key=len, reverse=True))})\s+"
    rf"(?P<model>(?!(?:{_LEGAL}|Store|Shop|Support|Service|Center|Centre|Dealer|Team|Customer|Account|Care|Gate|Arena)\b)"
    rf"(?:{_CAP}|\d{{1,4}}[A-Za-z]{{0,3}}|[A-Z]+-?\d+\w*)(?:\s+(?:[A-Z]{{1,3}}\d*\b|\d{{1,4}}\b|Plus|Pro|Max|Mini|Air|Next|One))*)"
)
_MODEL_NUMBER = re.compile(
    rf"(?<![\w#])(?P<maker>{_CAP}(?:\s+[A-Z][a-z]+)?)\s+(?:[A-Z]{{1,4}}-?\d{{1,4}}[A-Za-z]{{0,2}}|"
    rf"\d{{1,4}}[A-Za-z]{{1,3}}|[A-Z]{{1,3}}\d{{1,5}}[A-Z]{{0,3}})(?:{_MODEL})*(?!\w|[.:,/-]\d)"
)
_GAZETTEER = re.compile(
    r"(?<![\w@./-])(?:"
    + "|".join(re.escape(name).replace("\\ ", r"\s+") for name in sorted(PLACES | ORGANIZATIONS, key=len, reverse=True))
    + r")(?![\w@]|-\w|\.\w)",
    re.IGNORECASE,
)
_PLACE_BEFORE = re.compile(
    r"(?i)\b(?:in|to|from|near|at|via|for|around|outside|visit|visiting|of|and|leaving|reach|love|between|"
    r"through)\s+$"
)
_LOWER_ORGANIZATIONS = ORGANIZATIONS - frozenset({"intel", "sap", "axa", "opel", "tui", "aws", "pepsi"})
_OF_MODEL = {
    "PERSON": "person",
    "ORG": "organization",
    "GPE": "location",
    "LOC": "location",
    "FAC": "location",
    "PRODUCT": "product",
}
_NO_MAKER = re.compile(
    r"(?i)jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|gate|room|flight|version|python|ticket|row|"
    r"seat|terminal|platform|line|step|chapter|section|level|unit|apt|suite|floor|windows|android|ios|"
    r"exit|highway|route|zone|class|grade|page|table|error|code|building|block|wing|ward|bay|aisle|"
    r"dock"
)
_POSSESSIVE = re.compile(r"['’]s?$")


def model_span(text: str, start: int, end: int, label: str, proper: bool) -> Span | None:
    """What becomes of a span of the NER model; None: it is taken for a mistake.

    Args:
        proper: whether the tagger takes one of its words for a proper noun.
    """
    kind = _OF_MODEL.get(label)
    if kind is None:
        return None
    start, end = _trimmed(text, start, end)
    found = text[start:end]
    lowered = " ".join(found.lower().split())
    if len(found) < 2 or not any(c.isalpha() for c in found) or "@" in found or "/" in found:
        return None
    known = known_type(found)
    if known:
        return Span(start, end, known, rank=5, confidence=0.9)
    words = found.split()
    if any(c.isdigit() for c in found) and kind != "product":
        return None
    if lowered in NO_NAMES or words[0].lower() in NO_NAMES or not found[0].isupper() or not proper:
        return None
    if found.isupper() and len(found) <= 3 and kind != "location":
        return None
    first = words[0].lower().strip(".")
    if first in FIRST_NAMES and len(words) <= 3 and kind in ("organization", "location", "product"):
        kind = "person"
    if kind == "person" and len(words) == 1 and first not in ALL_FIRST_NAMES:
        before = text[:start].rstrip()
        if not before or before[-1] in ".!?\n:":  # a capital letter at a sentence's beginning says nothing
            return None
        if re.search(r"(?i)\b(?:at|from|by|via|with my|use|using|on)\s$", text[:start]):
            kind = "organization"
    if kind == "person" and len(words) > 4:
        return None
    if kind == "product" and not re.search(r"\d|[A-Z]\w*[A-Z]", found):
        return None
    return Span(start, end, kind, rank=7, confidence=0.7 if kind == "person" else 0.6)


def known_type(name: str) -> str | None:
    """The type of a name that the lists know."""
    lowered = " ".join(_POSSESSIVE.sub("", name).lower().split())
    if lowered in PLACES or (lowered in CAPITALIZED_PLACES and name[0].isupper()):
        return "location"
    if lowered in ORGANIZATIONS or (lowered in CAPITALIZED_ORGANIZATIONS and name[0].isupper()):
        return "organization"
    return None


_LEADING = re.compile(
    r"(?i)(?:the|a|an|hi|hello|hey|dear|thanks|mr|mrs|ms|dr|prof|from|at|to|and|is|ok|okay|yes)\b\.?[\s,]+|[^\w]+"
)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without greetings, determiners, possessive endings and marks at the ends."""
    found = text[start:end]
    if newline := found.find("\n") + 1:
        end = start + newline - 1
    while start < end:
        match = _LEADING.match(text[start:end])
        if not match:
            break
        start += match.end()
    found = text[start:end].rstrip(" \n,.;:!?)('\"-–*")
    found = _POSSESSIVE.sub("", found)
    return start, start + len(found)


def name_spans(text: str) -> Iterator[Span]:
    """What the context and the lists say is a name."""
    yield from _people(text)
    yield from _listed(text)
    for match in _COMPANY.finditer(text):
        start, end = _without_lead(text, match.start(), match.end())
        if len(text[start:end].split()) >= 2:
            yield Span(start, end, "organization", rank=5, confidence=0.85)
    for pattern in (_EMPLOYER, _FROM_ORG, _HERE_FROM, _TEAM):
        for match in pattern.finditer(text):
            if span := _named(text, match.start("name"), match.end("name"), "organization", 6):
                yield span
    for match in _HOTEL.finditer(text):
        yield Span(match.start("name"), match.end("name"), "organization", rank=5, confidence=0.8)
    for match in _PLACED.finditer(text):
        within = re.search(r"(?i)\b(?:in|near)\s+$", text[: match.start("name")])
        if span := _named(text, match.start("name"), match.end("name"), "location", 6 if within else 8):
            yield span
    for match in (*_STATION.finditer(text), *_WITHIN.finditer(text)):
        if match["name"].lower() not in _NO_PLACES and (
            span := _named(text, match.start("name"), match.end("name"), "location", 8)
        ):
            yield span
    for match in _STREET.finditer(text):
        yield Span(match.start(), match.end(), "location", 4, 0.85, {"kind": "address"})
    for match in _MADE_BY.finditer(text):
        if match["model"].split()[0].lower() not in NO_NAMES:
            yield Span(match.start(), match.end(), "product", rank=4, confidence=0.8)
    for match in _LINE.finditer(text):
        yield Span(match.start(), match.end(), "product", rank=5, confidence=0.9)
    for match in _MODEL_NUMBER.finditer(text):
        maker = match["maker"].split()[0].lower()
        if maker not in NO_NAMES and maker not in FIRST_NAMES and not _NO_MAKER.fullmatch(maker):
            yield Span(match.start(), match.end(), "product", rank=6, confidence=0.7)


def _people(text: str) -> Iterator[Span]:
    for match in _INTRODUCED.finditer(text):
        start, end = match.span("name")
        lead = text[match.start() : start]
        weak = _WEAK_INTRODUCTION.search(re.sub(r"(?i)(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.?\s+$", "", lead))
        first = text[start:end].split()[0].lower()
        says = re.match(r",?\s*(?:here|from|calling|speaking|with|at)\b", text[end:])
        if weak and first not in ALL_FIRST_NAMES and not says:
            continue
        if span := _person(text, start, end, 4, 0.95):
            own = {"speaker": "yes"} if _SELF_INTRODUCTION.match(lead) else {}
            yield replace(span, attributes=own)
    for match in _LOWER_INTRODUCED.finditer(text):
        if match[1] in FIRST_NAMES:
            yield Span(match.start(1), match.end(1), "person", rank=6, confidence=0.8)
    for pattern, rank in ((_TITLED, 4), (_RELATED, 4), (_SPEAKING, 4), (_SIGNED, 5)):
        for match in pattern.finditer(text):
            if span := _person(text, *match.span("name"), rank, 0.9):
                yield span
    for match in _GREETED.finditer(text):
        if span := _person(text, *match.span("name"), 5, 0.85):
            yield span
    for match in _NAME_RUN.finditer(text):
        yield from _run_of_names(text, match.start(), match.end())


def _person(text: str, start: int, end: int, rank: int, confidence: float) -> Span | None:
    words = []
    for word in re.finditer(r"\S+", text[start:end]):
        plain = word.group().lower().strip(".,")
        if plain in NO_NAMES and plain not in ALL_FIRST_NAMES:
            break
        words.append(word)
    if not words:
        return None
    end = start + words[-1].end()
    start, end = start, start + len(_POSSESSIVE.sub("", text[start:end].rstrip(" .,'’-")))
    found = text[start:end]
    if len(found) < 2 or known_type(found) or (found.isupper() and len(found) <= 3):
        return None
    return Span(start, end, "person", rank, confidence)


def _run_of_names(text: str, start: int, end: int) -> Iterator[Span]:
    """A known first name, with the capitalized words behind it, in a run of capitalized words."""
    words = [(start + m.start(), start + m.end(), m.group()) for m in re.finditer(r"\S+", text[start:end])]
    for number, (begin, _, word) in enumerate(words):
        first = _POSSESSIVE.sub("", word).lower()
        several = number + 1 < len(words)
        if first not in (ALL_FIRST_NAMES if several else FIRST_NAMES):
            continue
        if several and first not in FIRST_NAMES and words[number + 1][2].lower() in NO_NAMES:
            continue
        if several and first not in FIRST_NAMES and (number == 0 and begin == 0):
            continue
        if span := _person(text, begin, words[-1][1], 5 if several and first in FIRST_NAMES else 6, 0.85):
            company = re.search(rf"\b(?:{_LEGAL})\b", text[span.start : span.end])
            if not company:
                yield span
        return


def _listed(text: str) -> Iterator[Span]:
    for match in _GAZETTEER.finditer(text):
        found = match.group()
        lowered = " ".join(found.lower().split())
        kind = "location" if lowered in PLACES else "organization"
        if found[0].islower():
            if kind == "location" and not _PLACE_BEFORE.search(text[: match.start()]):
                continue
            if kind == "organization" and lowered not in _LOWER_ORGANIZATIONS:
                continue
        yield Span(match.start(), match.end(), kind, rank=5, confidence=0.9)
    for match in re.finditer(r"\b[A-Z][\w.]*(?: (?:America|Valley))?", text):
        lowered = match.group().lower()
        if lowered in CAPITALIZED_PLACES and _PLACE_BEFORE.search(text[: match.start()]):
            yield Span(match.start(), match.end(), "location", rank=6, confidence=0.75)
        elif lowered in CAPITALIZED_ORGANIZATIONS and text[: match.start()].rstrip()[-1:] not in ("", ".", "!", "?"):
            yield Span(match.start(), match.end(), "organization", rank=6, confidence=0.7)


def _without_lead(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end:
        match = re.match(r"\S+\s+", text[start:end])
        if not match or match.group().strip().lower() not in NO_NAMES:
            break
        start += match.end()
    return start, end if not text[start:end].endswith(".") or text[end - 3 : end] in ("nc.", "td.", "rp.") else end - 1


def _named(text: str, start: int, end: int, kind: str, rank: int) -> Span | None:
    words: Sequence[re.Match[str]] = list(re.finditer(r"\S+", text[start:end]))
    kept = 0
    for word in words:
        if word.group().lower().strip(".,'") in NO_NAMES:
            break
        kept += 1
    if not kept:
        return None
    end = start + words[kept - 1].end()
    found = _POSSESSIVE.sub("", text[start:end].rstrip(" .,'’-"))
    first = found.split()[0].lower() if found.split() else ""
    if len(found) < 2 or first in FIRST_NAMES:
        return None
    return Span(start, start + len(found), known_type(found) or kind, rank, 0.75)
