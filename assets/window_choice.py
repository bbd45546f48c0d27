"""Step 1 without its effects: what a sync of a table would read, and why. ``open_window`` and ``plan`` share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.change_capture import follows, plan_changes, wants_changes
from assets.errors import ConfigurationError, UnsupportedTableError, WatermarkError
from assets.lakehouse.interface import TableState
from assets.shaped_read import ShapedSource
from assets.sync import SourceTable, TableSync, Watermark, WindowPlan
from assets.table_shape import ShapeDecision, decide_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from assets.sources.interface import Connector


@dataclass(frozen=True)
class WindowChoice:
    """A plan without its tag, and what the stored tables need before it can be followed."""

    plan: WindowPlan
    decision: ShapeDecision


def refuse_what_cannot_be_done(work: TableSync, source: Connector) -> None:
    """Refuse options that the source does not serve, or that contradict each other.

    Raises:
        UnsupportedTableError, ConfigurationError: says which, and what to ask for instead.
    """
    where = f"{work.connector}/{work.table}"
    if work.mode == "cdc" and not source.supports_cdc:
        raise UnsupportedTableError(
            f"a source of type {source.type_name} has no change data capture",
            where=where,
            remedy="Use --mode auto, with --deletes keys to find deleted rows.",
        )
    if work.backfill and (work.reset or work.mode == "full" or work.deletes != "none"):
        raise ConfigurationError(
            "a backfill reads a range and merges it: it goes with no reset, full read or search for deletes.",
            where=where,
        )


def choose_window(
    work: TableSync,
    source: Connector,
    found: SourceTable,
    bronze: TableState | None,
    hash_key: Callable[[], bytes],
) -> WindowChoice:
    """Decide the shape, the mode and the window.

    Raises:
        UnsupportedTableError, ConfigurationError, SchemaDriftError, WatermarkError.
    """
    from assets.column_protection import key_fingerprint

    where = f"{work.connector}/{work.table}"
    if found.refusal:
        raise UnsupportedTableError(found.refusal, where=where)
    stored = bronze.watermark if bronze else None
    hashes = bool((work.columns and work.columns.hash) or (stored and stored.shape and stored.shape.columns.hash))
    decision = decide_shape(work, found, stored, key_fingerprint(hash_key()) if hashes else None)
    shape = decision.shape
    unknown = [column for column in shape.key if column not in {c.name for c in found.columns}]
    if unknown:
        raise UnsupportedTableError(
            f"the key names columns that are not there: {', '.join(unknown)}", where=where, remedy="Correct --key."
        )
    if shape.write == "scd2" and not shape.key:
        raise UnsupportedTableError(
            "versions of a row are told by a key, and the table has none", where=where, remedy="Name one with --key."
        )
    cursor = _cursor(work, found, decision, where)
    previous = decision.mended or stored
    if wants_changes(work, previous):
        decision.shape = shape = shape.model_copy(update={"filter_read": bool(shape.row_filter)})
        shaped = ShapedSource(source, shape, None).table(found)
        return WindowChoice(plan_changes(work, shaped, decision, bronze, previous), decision)
    why = decision.full or _changes_unknown(work, found, decision, cursor)
    why = why or _nothing_to_follow(work, cursor, bronze, previous)
    if not why and work.fill_added and decision.added and (not shape.key or shape.write == "append"):
        why = f"columns were added, and are read for the rows before: {', '.join(decision.added)}"
    if work.backfill:
        if why or not cursor:
            raise ConfigurationError(
                f"a backfill needs a table that syncs incrementally by a cursor: {why or 'it has no cursor'}",
                where=where,
                remedy=f"Run first: headrace sync {work.connector} {work.table}",
            )
        why_not_full = (
            f"backfill of {cursor} from {work.backfill.low or 'the start'} to {work.backfill.high or 'the end'}"
        )
    elif not why and work.fill_added and decision.added:
        decision.shape = shape = shape.model_copy(update={"filled": decision.added})
        why_not_full = ""
    else:
        why_not_full = ""
    table = ShapedSource(source, shape, hash_key() if hashes else None).table(found)
    not_read = f"not read: {', '.join(found.left_out[:10])}" if found.left_out else ""
    plan = WindowPlan(
        table=table,
        mode="full" if why else "incremental",
        key=shape.key,
        cursor=cursor,
        reason="; ".join(filter(None, [why or why_not_full, not_read, found.limited])),
        previous=previous,
        low=previous.value if previous and not why else None,
        shape=shape,
        backfill=work.backfill,
        drift=decision.drift,
    )
    return WindowChoice(plan, decision)


def _cursor(work: TableSync, table: SourceTable, decision: ShapeDecision, where: str) -> str | None:
    """The cursor column; its values stand in the watermark, so a protected one is none."""
    if table.tracks == "objects":
        return None
    choice = decision.shape.columns
    hidden = {*choice.exclude, *choice.hash, *choice.mask}
    hidden |= {c.name for c in table.columns if choice.include and c.name not in choice.include}
    cursor = decision.renamed.get(work.cursor, work.cursor) if work.cursor else None
    if cursor in hidden:
        raise UnsupportedTableError(
            f"the cursor {cursor} is excluded, hashed or masked, and its values would stand in the watermark",
            where=where,
            remedy="Name another with --cursor, or use --mode full.",
        )
    candidates = [name for name in table.cursor_candidates if name not in hidden]
    return cursor or (candidates[0] if len(candidates) == 1 else None)


def _changes_unknown(work: TableSync, table: SourceTable, decision: ShapeDecision, cursor: str | None) -> str:
    """Why the source's changes cannot be asked for, if they cannot."""
    write = decision.shape.write
    if work.reset:
        return "the table starts anew"
    if work.mode == "full":
        return "full refresh was asked for"
    if write == "replace":
        return "Silver is kept as the last full read"
    if table.tracks == "none":
        return f"a {table.kind.replace('_', ' ')} has no row versions, so changes cannot be told"
    if not decision.shape.key and write != "append":
        return "the table has no key (name one with --key)"
    if table.tracks == "objects" or cursor or (write == "append" and table.tracks == "row_versions"):
        return ""
    if len(table.cursor_candidates) > 1:
        several = ", ".join(table.cursor_candidates[:5])
        return f"several columns could be the cursor ({several}): name one with --cursor"
    return "no column tells when a row changed (name one with --cursor)"


def _nothing_to_follow(
    work: TableSync, cursor: str | None, bronze: TableState | None, previous: Watermark | None
) -> str:
    """Why there is no watermark to go on from, if there is none.

    Raises:
        WatermarkError: there are rows without one.
    """
    if bronze is None:
        return "first load"
    if previous is None and bronze.rows == 0:
        return "nothing was loaded yet"
    if previous is None:
        raise WatermarkError(
            "the Bronze table holds rows but no watermark",
            where=f"{work.connector}/{work.table}",
            remedy=f"Run: headrace sync {work.connector} {work.table} --mode full",
        )
    if follows(previous):
        return "the table was followed by the source's log until now"
    if previous.cursor != cursor:
        return f"the cursor is now {cursor}, the last load used {previous.cursor or 'none'}"
    return ""
