"""Money and percentages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from assets.knowledge.rules.spans import Span

_CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RON|TRY|BRL|MXN|ZAR|SGD|HKD|KRW|AED|ILS|THB"
_SYMBOLS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "₩": "KRW", "₺": "TRY", "zł": "PLN"}
_WORDS = {
    "dollar": "USD", "buck": "USD", "euro": "EUR", "pound": "GBP", "quid": "GBP", "franc": "CHF", "yen": "JPY",
    "rupee": "INR", "yuan": "CNY", "krona": "SEK", "kronor": "SEK", "krone": "NOK", "zloty": "PLN", "peso": "MXN",
    "real": "BRL", "cent": "cent", "pence": "cent", "grand": "",
}  # fmt: skip
_NUMBER = r"\d{1,3}(?:[,.'’ ]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d{1,2})?(?!\d)"
_SCALE = r"(?:\s?(?:k|m|mn|bn|K|M)\b|\s(?:thousand|million|billion|hundred|grand)\b)?"
_RANGE = rf"(?:\s?(?:-|–|to)\s?(?:[$€£¥₹]\s?)?(?:{_NUMBER}))?"
_UNIT_WORDS = (
    "dollars?|bucks?|euros?|pounds?|quid|francs?|yen|rupees?|yuan|kron(?:a|or|er?)|zlotys?|zł|pesos?|reais|cents?|pence|"
    "kr|kč|lei|dirhams?|naira|cedis?|baht|shekels?|rand|shillings?|riyals?|ringgit|hryvnias?|lira"
)
_SPELLED = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|"
    "nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|half|a couple of"
)
_MONEY = re.compile(
    rf"(?<![\w.,])(?:(?:US|A|C|NZ|HK|S)?[$€£¥₹₩₺]\s?(?:{_NUMBER}){_SCALE}{_RANGE}(?:\s?(?:{_CODES})\b)?"
    rf"|(?:{_CODES})\s?(?:{_NUMBER}){_SCALE}"
    rf"|(?:{_NUMBER}){_SCALE}\s?(?:[€£¥₹₩₺]|\$(?!\d)|(?:{_CODES})\b)"
    rf"|(?i:(?:{_NUMBER})(?:\s(?:thousand|million|billion|hundred|k)|k)?[\s-](?:(?:us|canadian|"
    rf"australian|swiss)\s)?(?:{_UNIT_WORDS})\b)"
    rf"|(?i:(?:an?\s)?(?:{_SPELLED})(?:[\s-](?:and\s)?(?:{_SPELLED}))*[\s-](?:{_UNIT_WORDS})\b))"
)
_PERCENT = re.compile(rf"(?<![\w.,])(?:{_NUMBER})\s?(?:%|(?i:percent|per cent)\b)")


def amount_spans(text: str) -> Iterator[Span]:
    for match in _MONEY.finditer(text):
        yield Span(match.start(), match.end(), "money", rank=2, confidence=0.95)
    for match in _PERCENT.finditer(text):
        yield Span(match.start(), match.end(), "percent", rank=2, confidence=0.95)


def money_value(text: str) -> str | None:
    """``49.99 EUR``: amount and ISO code, where both can be read."""
    currency = next((code for code in _CODES.split("|") if re.search(rf"\b{code}\b|{code}(?=\d)", text)), "")
    currency = currency or next((code for symbol, code in _SYMBOLS.items() if symbol in text), "")
    if not currency:
        currency = next((code for word, code in _WORDS.items() if re.search(rf"(?i)\b{word}", text)), "")
    number = re.search(_NUMBER, text)
    if not number or not currency:
        return None
    value = _decimal(number.group())
    if value is None:
        return None
    scale = re.search(r"(?i)(?<=[\d\s])(k|thousand|grand|m|mn|million|bn|billion|hundred)\b", text)
    if scale:
        word = scale.group(1).lower()
        value *= {"hundred": 100, "k": 1000, "thousand": 1000, "grand": 1000, "bn": 10**9, "billion": 10**9}.get(
            word, 10**6
        )
    return f"{value:f} {currency}"


def _decimal(text: str) -> Decimal | None:
    """Reads 1,234.50 and 1.234,50: the last separator with one or two digits behind it is the decimal point."""
    plain = re.sub(r"[\s'’]", "", text)
    point = max(plain.rfind("."), plain.rfind(","))
    if point >= 0 and len(plain) - point - 1 <= 2:
        plain = re.sub(r"[.,]", "", plain[:point]) + "." + plain[point + 1 :]
    else:
        plain = re.sub(r"[.,]", "", plain)
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None
