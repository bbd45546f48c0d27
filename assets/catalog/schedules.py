"""Schedules of pipelines: ``cron:*/5 * * * *``, ``every:15m``, ``changes:5m``, ``manual``; checked when written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from assets.catalog.records import ScheduleKind
from assets.errors import ConfigurationError

_INTERVAL = re.compile(r"([1-9][0-9]{0,5})(m|h|d)\Z")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAYS = "sun|mon|tue|wed|thu|fri|sat"
# The library would also take random (R) and hashed (H) fields, which mean another time in each process.
_CRON_FIELD = re.compile(rf"(?:[0-9*/,-]|{_MONTHS}|{_DAYS})+\Z", re.IGNORECASE)
_REMEDY = 'Write "cron:MINUTE HOUR DAY MONTH WEEKDAY", "every:15m" or "changes:5m" (m, h or d), or manual.'


def parse_schedule(text: str) -> tuple[ScheduleKind, str | None]:
    """Split a schedule into its kind and expression.

    Raises:
        ConfigurationError: it is no schedule, or one that never fires.
    """
    if text.strip() == "manual":
        return "manual", None
    kind, colon, expression = text.strip().partition(":")
    expression = " ".join(expression.split())
    if colon and kind == "cron":
        _check_cron(expression)
        return "cron", expression
    if colon and kind in ("every", "changes"):
        interval_seconds(expression)
        return ("interval" if kind == "every" else "changes"), expression
    raise ConfigurationError(f"{text!r} is no schedule.", remedy=_REMEDY)


def interval_seconds(expression: str) -> int:
    """Seconds of ``15m``, ``2h`` or ``1d``.

    Raises:
        ConfigurationError: it is no interval, or longer than a year.
    """
    match = _INTERVAL.match(expression)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 60 <= seconds <= 366 * 86400:
        raise ConfigurationError(f"{expression!r} is no interval from 1m to 366d.", remedy=_REMEDY)
    return seconds


def _check_cron(expression: str) -> None:
    from croniter import croniter

    fields = expression.split(" ")
    if len(fields) != 5 or not all(_CRON_FIELD.match(field) for field in fields):
        raise ConfigurationError(f"{expression!r} is no cron expression of five fields.", remedy=_REMEDY)
    try:
        croniter(expression, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
    except (ValueError, KeyError, TypeError) as error:  # croniter's own errors are ValueErrors
        raise ConfigurationError(
            f"{expression!r} is no valid cron expression, or it never fires.", remedy=_REMEDY
        ) from error


def check_timezone(name: str) -> str:
    """Return the name if the time zone database has it.

    Raises:
        ConfigurationError: there is no such time zone.
    """
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # a folder of the database is an OSError
        raise ConfigurationError(
            f"{name!r} is no time zone.", remedy="Name one such as Europe/Berlin or UTC."
        ) from None
    return name
