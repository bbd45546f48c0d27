"""What a sync would do, told before anything runs: the models of ``headrace plan``."""

from __future__ import annotations

from pydantic import Field

from assets.sync import Mode, Model, Watermark, WriteMode


class ReadEstimate(Model):
    """What reading one table's window asks of the source.

    ``rows`` and ``bytes`` are estimates, None where the source tells nothing without being read. ``statements`` are
    the queries or requests that return rows, in the source's own language; long lists end with a line that counts on.
    """

    rows: int | None = None
    bytes: int | None = None
    statements: tuple[str, ...] = ()
    detail: str = Field(default="", description="where the estimate comes from")
    rereads: bool = Field(default=False, description="rows come again, and are compared with Silver's")


class PlannedStatement(Model):
    """One statement on the warehouse, or one operation of the local engine."""

    table: str
    text: str
    writes: bool = False


class TablePlan(Model):
    """What syncing one table would do. ``error`` says why it would be refused, where it would be.

    The window is ``(low, high]``; ``high`` is None where reading fixes it (the newest value at that moment, never past
    the source's clock).
    """

    connector: str
    table: str
    mode: Mode | None = None
    reason: str = Field(default="", description="why this mode")
    skip: str | None = None
    write: WriteMode | None = None
    key: tuple[str, ...] = ()
    cursor: str | None = None
    low: str | None = None
    high: str | None = None
    chunks: int = Field(default=0, description="activities that read the table side by side; 0: it is read as a whole")
    rows: int | None = None
    bytes: int | None = None
    estimate: str = ""
    drift: tuple[str, ...] = ()
    source_statements: tuple[str, ...] = ()
    lakehouse_statements: tuple[PlannedStatement, ...] = ()
    error: str | None = None
    error_type: str | None = None

    @property
    def writes(self) -> int:
        """Commits."""
        return sum(statement.writes for statement in self.lakehouse_statements)


def planned_watermark(previous: Watermark | None, cursor: str | None) -> Watermark:
    """Stands for the watermark that only reading gives."""
    return previous or Watermark(cursor=cursor)
