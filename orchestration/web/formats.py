"""How pages write times, spans, sizes and numbers."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from markupsafe import Markup, escape

DASH = "–"
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def ago(at: datetime | None) -> str:
    """``3 min ago``; a dash for never."""
    if at is None:
        return DASH
    seconds = (datetime.now(UTC) - at).total_seconds()
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def duration(seconds: float | None) -> str:
    """The largest unit alone below ten of it with the next one: ``1 h 5 min``, ``42 s``, ``0.3 s``."""
    if seconds is None:
        return DASH
    if seconds < 1:
        return f"{seconds:.1f} s"
    for number, (unit, length) in enumerate(_UNITS):
        whole, rest = divmod(seconds, length)
        if whole:
            text = f"{int(whole)} {unit}"
            if number + 1 < len(_UNITS) and whole < 10:
                smaller, smaller_length = _UNITS[number + 1]
                if part := int(rest // smaller_length):
                    text += f" {part} {smaller}"
            return text
    return DASH


def size(count: int | None) -> str:
    """``1.4 GB``, decimal units."""
    if count is None:
        return DASH
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def number(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def moment(at: datetime | None) -> str:
    """``2026-03-01 14:05:09 UTC``; a dash for never."""
    return DASH if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ticks(text: str) -> Markup:
    """Help text whose `words in backticks` are code; everything else is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
