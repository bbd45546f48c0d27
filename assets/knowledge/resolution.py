"""Which names mean one thing: the name that they are compared by, and why two were taken for one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

from assets.knowledge.rules.amounts import money_value
from assets.knowledge.rules.dates import resolve

VALUES = frozenset({"date", "time", "money", "percent"})
"""Types that are values, not things: they have mentions, but no row in ``entities``."""
_LEGAL_FORM = re.compile(
    r"(?i)[\s,]+(?:gmbh(?: & co\.? kg)?|ag|inc|ltd|limited|llc|llp|corp|corporation|company|co|se|plc|b\.?v|n\.?v|oy|"
    r"ab|a/s|aps|kg|ohg|s\.?a|s\.?r\.?l|spa|pty)\.?$"
)


def folded(text: str) -> str:
    """Without case, accents, and differences of spacing and quotation marks."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    return " ".join(re.sub(r"[’'\"“”.,]", "", plain).split())


def comparable(kind: str, text: str) -> str:
    """What two names of one type are compared by."""
    if kind == "organization":
        return folded(_LEGAL_FORM.sub("", text)) or folded(text)
    if kind == "email":
        return text.casefold()
    if kind == "phone":
        digits = re.sub(r"\D", "", text)
        return f"+{digits.removeprefix('00')}" if text.startswith(("+", "00")) else digits
    if kind == "url":
        return re.sub(r"^https?://(?:www\.)?|^www\.|/$", "", text.casefold())
    if kind == "iban":
        return re.sub(r"[\s-]", "", text).upper()
    if kind == "identifier":
        return text.lstrip("#").upper().replace(" ", "")
    if kind == "version":
        return text.lstrip("vV")
    return folded(text)


def value_of(kind: str, text: str, at: datetime | None) -> str | None:
    """The normal form of a value: an ISO date, an amount with its currency; None where it cannot be told."""
    if kind == "date":
        return resolve(text, at)
    if kind == "money":
        return money_value(text)
    return comparable(kind, text) if kind in ("phone", "url", "iban", "identifier", "version", "email") else None


def short_names(people: Sequence[str]) -> dict[str, str]:
    """First and last names that stand for a full name of the same session: ``anna`` -> ``Anna Keller``.

    Only where one full name of the session has that word: with two Annas, ``Anna`` stays what it is.
    """
    full = {comparable("person", name): name for name in people if len(name.split()) > 1}
    owners: dict[str, set[str]] = {}
    for key in full:
        words = key.split()
        for word in {words[0], words[-1]}:
            owners.setdefault(word, set()).add(key)
    return {word: full[next(iter(keys))] for word, keys in owners.items() if len(keys) == 1}
