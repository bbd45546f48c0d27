"""Small charts as SVG, drawn on the server: no script, no style attribute, readable without seeing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from assets.catalog.listing import RunPoint
from assets.catalog.records import TableRunRecord
from orchestration.web import formats

WIDTH, HEIGHT, GAP = 120, 28, 1
LEAST_BAR = 1.5


@dataclass(frozen=True)
class Bar:
    """One run: its duration is the height, its outcome the colour; ``title`` says it in words."""

    x: float
    y: float
    width: float
    height: float
    status: str
    title: str


@dataclass(frozen=True)
class RunsChart:
    """Duration (bars) and rows (line) of a table's latest runs, oldest first."""

    width: int
    height: int
    bars: tuple[Bar, ...]
    line: str
    label: str


def runs_chart(points: Sequence[RunPoint], width: int = WIDTH, height: int = HEIGHT) -> RunsChart | None:
    """None where there was no run."""
    if not points:
        return None
    seconds = [_seconds(point.started_at, point.completed_at) for point in points]
    most_seconds = max([s for s in seconds if s is not None], default=0) or 1
    step = width / max(len(points), 10)
    bars = []
    for place, (point, spent) in enumerate(zip(points, seconds, strict=True)):
        tall = max(LEAST_BAR, (spent or 0) / most_seconds * (height - 2))
        bars.append(
            Bar(round(place * step, 1), round(height - tall, 1), round(step - GAP, 1), round(tall, 1), point.status,
                f"{formats.moment(point.started_at)}: {point.status}, {formats.number(point.rows)} rows, "
                f"{formats.duration(spent)}")
        )  # fmt: skip
    good = [(place, point.rows) for place, point in enumerate(points) if point.status == "succeeded"]
    most_rows = max([rows for _, rows in good], default=0) or 1
    line = " ".join(
        f"{(place + 0.5) * step - GAP / 2:.1f},{height - 2 - rows / most_rows * (height - 4):.1f}"
        for place, rows in good
    )
    failed = sum(point.status == "failed" for point in points)
    told = [s for s in seconds if s is not None]
    label = f"The last {len(points)} runs: {failed} failed"
    if told:
        label += f"; duration {formats.duration(min(told))} to {formats.duration(max(told))}"
    if good:
        rows = [count for _, count in good]
        label += f"; rows {formats.number(min(rows))} to {formats.number(max(rows))}"
    return RunsChart(width, height, tuple(bars), line if len(good) > 1 else "", label)


LEAST_PERCENT = 0.5


@dataclass(frozen=True)
class Span:
    """One table in a run's timeline: where its bar begins and how long it is, in percent of the run's time."""

    name: str
    left: float
    width: float
    status: str
    title: str
    spent: str


@dataclass(frozen=True)
class Timeline:
    spans: tuple[Span, ...]
    ticks: tuple[str, ...]
    """Times at the start, each quarter and the end."""
    label: str


def timeline(tables: Sequence[TableRunRecord], started_at: datetime, ended_at: datetime) -> Timeline | None:
    """When each table of a run began and ended, from the run's start on; open ones reach to ``ended_at``."""
    if not tables:
        return None
    whole = max((ended_at - started_at).total_seconds(), 0.001)
    spans = []
    for table in tables:
        begun = min(max((table.started_at - started_at).total_seconds(), 0.0), whole)
        done = min(max(((table.completed_at or ended_at) - started_at).total_seconds(), begun), whole)
        width = max((done - begun) / whole * 100, LEAST_PERCENT)
        spent = formats.duration(done - begun)
        spans.append(
            Span(
                name=table.table,
                left=round(min(begun / whole * 100, 100 - width), 2),
                width=round(width, 2),
                status=table.status,
                title=f"{table.table}: {table.status}, {formats.number(table.rows_read)} rows, {spent}",
                spent=spent,
            )
        )
    ticks = tuple(formats.duration(whole * part / 4) if part else "0" for part in range(5))
    return Timeline(tuple(spans), ticks, f"Timeline of {len(tables)} tables over {formats.duration(whole)}")


def _seconds(started_at: datetime, completed_at: datetime | None) -> float | None:
    return max((completed_at - started_at).total_seconds(), 0.0) if completed_at else None
