"""When a scheduled table is late: its schedule should have started it, and some time has passed since."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from assets.catalog.schedules import interval_seconds

SCHEDULED = ("cron", "interval")
"""Kinds of schedules that sync at known times; ``changes`` only syncs when there is something new."""
LEAST_GRACE, MOST_GRACE = timedelta(minutes=5), timedelta(hours=1)


def overdue_before(kind: str, expression: str, timezone: str, at: datetime) -> datetime:
    """A table of this schedule is late at ``at`` if its last success began before the returned instant.

    The grace is half the time between two runs, from five minutes to an hour.
    """
    return _overdue_before(kind, expression, timezone, at.astimezone(UTC).replace(second=0, microsecond=0))


@lru_cache(maxsize=4096)
def _overdue_before(kind: str, expression: str, timezone: str, minute: datetime) -> datetime:
    if kind == "interval":
        between = timedelta(seconds=interval_seconds(expression))
        return minute - between - _grace(between)
    from croniter import croniter

    fires = croniter(expression, minute.astimezone(ZoneInfo(timezone)))
    last = fires.get_prev(datetime)
    before = fires.get_prev(datetime)
    # while the last time is still in its grace, what counts is the one before
    fire = last if last + _grace(last - before) <= minute else before
    return fire.astimezone(UTC)


def _grace(between: timedelta) -> timedelta:
    return min(max(between / 2, LEAST_GRACE), MOST_GRACE)
