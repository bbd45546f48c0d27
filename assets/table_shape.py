"""What a sync is to make of a table: its shape, what drifted, and whether that needs a full read. Reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from assets.errors import SchemaDriftError, UnsupportedTableError
from assets.row_filter import RowFilter
from assets.schema_drift import ColumnChange, column_changes, ids_tell
from assets.shaped_read import chosen_columns
from assets.sync import Column, ColumnChoice, SourceTable, TableShape, TableSync, Watermark, WindowPlan


@dataclass
class ShapeDecision:
    """What this sync does.

    ``full`` says why the table has to be read in full, empty if it has not; ``anew`` whether Silver starts anew.
    ``renamed``: old column name -> new one. ``retype``: columns whose stored type widens. ``mended``: the stored
    watermark under the new names and types.
    """

    shape: TableShape
    full: str = ""
    anew: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    retype: tuple[Column, ...] = ()
    mended: Watermark | None = None
    added: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


def decide_shape(
    work: TableSync, table: SourceTable, previous: Watermark | None, hash_key: str | None
) -> ShapeDecision:
    """Choose the shape from what is asked, what is stored, and what the source has now.

    Args:
        hash_key: fingerprint of the installation's hash key.

    Raises:
        ConfigurationError, UnsupportedTableError: the options do not fit the table.
        SchemaDriftError: the policy refuses what changed.
    """
    where = f"{work.connector}/{work.table}"
    stored = previous.shape if previous else None
    followed = stored is not None and stored.seen and table.kind != "endpoint"  # its columns are known by reading only
    changes = column_changes(stored.seen, table.columns, stored.columns, stored.kept) if stored and followed else []
    renamed = {c.old.name: c.new.name for c in changes if c.kind == "renamed" and c.old and c.new}
    before = _renamed_shape(stored, renamed) if stored else None
    if before and work.reset:  # the rows go, what was asked for of the table stays
        before = before.model_copy(update={"kept": (), "epoch": "", "converts": {}, "filled": ()})
    shape = _wanted(work, table, before, renamed, where)
    if shape.columns.hash:
        shape = shape.model_copy(update={"hash_key": hash_key})
    if stored and not ids_tell(stored.seen, table.columns):
        _require_protected(changes, shape.columns, table, where)
    decision = ShapeDecision(shape=shape, renamed=renamed)
    if before is None or work.reset:
        decision.anew = True
        decision.full = "the table starts anew" if work.reset else ""
        if previous is not None and not work.reset:  # stored before shapes were recorded: merged, all of it
            decision.anew = shape.write != "merge" or shape.columns != ColumnChoice()
            decision.full = "the options of the table are new" if decision.anew or shape.row_filter else ""
        return decision
    _differences(decision, before, shape)
    if shape.drift == "evolve" and before.converts:
        told = f"{', '.join(before.converts)} take the source's type now"
        _require_no_history(shape, work, told, where)
        decision.shape, decision.full = (
            shape.model_copy(update={"converts": {}}),
            f"{decision.full}; {told}".strip("; "),
        )
    _drifted(decision, work, table, changes, where)
    decision.mended = _mended(previous, before, decision, renamed)
    return decision


def drift_of_reading(work: TableSync, plan: WindowPlan, columns: Sequence[Column]) -> WindowPlan:
    """The plan after a read told the table's columns, under the table's policy: for sources that tell them no earlier.

    Where the stored type cannot take what came, and the policy is to follow, the returned plan reads in full. A column
    that is in no row of a read is a dropped one; it is followed again when it comes back.

    Raises:
        SchemaDriftError: the policy refuses what changed, or versions are kept under the earlier type.
    """
    stored = plan.previous.shape if plan.previous else None
    if work.reset or stored is None or not stored.seen:
        return plan
    where = f"{work.connector}/{work.table}"
    changes = column_changes(stored.seen, columns, stored.columns)
    back = {c.name: c for c in stored.kept}
    changes = [
        ColumnChange("changed", back[c.new.name], c.new)
        if c.kind == "added" and c.new and c.new.name in back and back[c.new.name].arrow_type != c.new.arrow_type
        else c
        for c in changes
    ]
    decision = ShapeDecision(shape=plan.shape)
    _drifted(decision, work, plan.table.model_copy(update={"columns": tuple(columns)}), changes, where)
    widened = "; ".join(c.text for c in changes if c.kind == "widened" and c.new in decision.retype)
    if widened:
        _require_no_history(decision.shape, work, widened, where)
    full = "; ".join(filter(None, [decision.full, widened]))
    update: dict[str, object] = {"shape": decision.shape, "drift": decision.drift}
    if full and plan.mode != "full":
        update |= {"mode": "full", "low": None, "reason": "; ".join(filter(None, [plan.reason, full]))}
    return plan.model_copy(update=update)


def _mended(
    previous: Watermark | None, before: TableShape, decision: ShapeDecision, renamed: dict[str, str]
) -> Watermark | None:
    """The stored watermark after Bronze and Silver were brought under the new names and types."""
    if previous is None:
        return None
    new = {c.name: c for c in decision.shape.seen}
    retyped = {c.name for c in decision.retype}
    seen = []
    for column in before.seen:
        name = renamed.get(column.name, column.name)
        seen.append(new[name] if name in retyped else column.model_copy(update={"name": name}))
    cursor = renamed.get(previous.cursor, previous.cursor) if previous.cursor else None
    kind = new[cursor].arrow_type if cursor in retyped else previous.cursor_type
    shape = before.model_copy(update={"seen": tuple(seen)})
    return previous.model_copy(update={"cursor": cursor, "cursor_type": kind, "shape": shape})


def _wanted(
    work: TableSync, table: SourceTable, before: TableShape | None, renamed: dict[str, str], where: str
) -> TableShape:
    names = [c.name for c in table.columns]
    choice = work.columns if work.columns is not None else (before.columns if before else ColumnChoice())
    aliases = {old: renamed.get(new, new) for old, new in (before.renamed if before else {}).items()} | renamed
    if work.columns is not None:  # it may know a column by an earlier name: that column stays protected
        choice = _with_aliases(choice, aliases, names)
    known = {*names, *(c.name for c in before.seen), *_named(before.columns)} if before else set(names)
    if unknown := sorted(_named(choice) - known):
        raise UnsupportedTableError(
            f"the choice of columns names what is not there: {', '.join(unknown[:10])}",
            where=where,
            remedy="Correct --include, --exclude, --hash or --mask: nothing is read meanwhile.",
        )
    text = work.row_filter if work.row_filter is not None else (before.row_filter if before else "")
    if text:
        text = RowFilter.parse(text).renamed(renamed).resolved(names).sql()
    chosen = {c.name for c in chosen_columns(TableShape(columns=choice), table.columns)}
    if not chosen and table.columns:
        raise UnsupportedTableError("no column is left to sync", where=where, remedy="Correct --include or --exclude.")
    key = tuple(work.key or table.primary_key or (before.key if before else ()))
    lost = [name for name in key if name in names and (name not in chosen or name in choice.mask)]
    if lost and work.key:
        raise UnsupportedTableError(
            f"the key names columns that are excluded or masked: {', '.join(lost)}", where=where, remedy="Hash them."
        )
    write = work.write or (before.write if before else "merge")
    return TableShape(
        write=write,
        drift=work.drift or (before.drift if before else "evolve"),
        columns=choice,
        row_filter=text,
        key=() if lost else key,
        seen=table.columns,
        kept=before.kept if before else (),
        epoch=before.epoch if before else "",
        converts=before.converts if before else {},
        renamed=aliases,
    )


def _named(choice: ColumnChoice) -> set[str]:
    return {*choice.include, *choice.exclude, *choice.hash, *choice.mask}


def _require_protected(changes: Sequence[ColumnChange], choice: ColumnChoice, table: SourceTable, where: str) -> None:
    """Refuse a new column that may be a protected one under another name, where the source does not tell."""
    protected = {*choice.exclude, *choice.hash, *choice.mask}
    gone = [c.old.name for c in changes if c.kind == "dropped" and c.old and c.old.name in protected]
    chosen = {c.name for c in chosen_columns(TableShape(columns=choice), table.columns)} - protected
    came = [c.new.name for c in changes if c.kind == "added" and c.new and c.new.name in chosen]
    if gone and came:
        raise SchemaDriftError(
            f"{', '.join(gone)}, excluded, hashed or masked, is gone, and {', '.join(came)} came: it may be the same "
            "under another name",
            where=where,
            remedy="Choose the columns anew with --include, --exclude, --hash or --mask, naming only those that are "
            "there.",
        )


def _differences(decision: ShapeDecision, before: TableShape, shape: TableShape) -> None:
    """What the asked-for shape changes of the stored one."""
    named = {
        f"Silver is kept as {shape.write} now, it was {before.write}": before.write != shape.write,
        "another choice of columns was asked for": before.columns != shape.columns,
        "the key of hashed columns is another one": None not in (before.hash_key, shape.hash_key)
        and before.hash_key != shape.hash_key,
        f"the key is now {', '.join(shape.key) or 'none'}, it was {', '.join(before.key) or 'none'}": before.key
        != shape.key
        and bool(before.key),
    }
    reasons = [reason for reason, differs in named.items() if differs]
    decision.anew = bool(reasons)
    if before.row_filter != shape.row_filter:
        reasons.append("the row filter is another one")
    decision.full = "; ".join(reasons)


def _drifted(
    decision: ShapeDecision, work: TableSync, table: SourceTable, changes: Sequence[ColumnChange], where: str
) -> None:
    chosen = {c.name for c in chosen_columns(decision.shape, table.columns)}
    choice = decision.shape.columns
    mine = [c for c in changes if _concerns(c, chosen, choice)]
    decision.drift = tuple(change.text for change in mine)
    if not mine:
        return
    told = "; ".join(decision.drift)
    if decision.shape.drift == "freeze":
        raise SchemaDriftError(
            f"the source's columns changed: {told}",
            where=where,
            remedy=f"Take it over with --drift evolve, or: headrace sync {work.connector} {work.table} --reset",
        )
    protected = {*choice.hash, *choice.mask}
    decision.retype = tuple(c.new for c in mine if c.kind == "widened" and c.new and c.new.name not in protected)
    decision.added = tuple(c.new.name for c in mine if c.kind == "added" and c.new)
    gone = tuple(c.old for c in mine if c.kind == "dropped" and c.old)
    if lost := [c.name for c in gone if c.name in decision.shape.key]:
        raise SchemaDriftError(
            f"the key column {', '.join(lost)} was dropped at the source",
            where=where,
            remedy=f"Name another key, and run: headrace sync {work.connector} {work.table} --reset --key ...",
        )
    kept = [c for c in decision.shape.kept if c.name not in chosen]
    kept += [c.model_copy(update={"arrow_type": "string"}) if c.name in protected else c for c in gone]
    decision.shape = decision.shape.model_copy(update={"kept": tuple({c.name: c for c in kept}.values())})
    _incompatible(decision, work, mine, where)


def _incompatible(decision: ShapeDecision, work: TableSync, mine: Sequence[ColumnChange], where: str) -> None:
    """Changes that the stored type cannot take: read in full under the new type, or converted to the stored one."""
    shape = decision.shape
    changed = [c for c in mine if c.kind in ("changed", "replaced")]
    if shape.drift == "quarantine":
        stored = {
            c.new.name: c.old.arrow_type
            for c in changed
            if c.new and c.old and c.new.name not in shape.columns.hash and c.new.arrow_type != c.old.arrow_type
        }
        decision.shape = shape.model_copy(update={"converts": stored | shape.converts})
        changed = [c for c in changed if c.kind == "replaced" or (c.new and c.new.name not in stored)]
    if changed:
        told = "; ".join(c.text for c in changed)
        _require_no_history(shape, work, told, where)
        decision.full = "; ".join(filter(None, [decision.full, told]))


def _require_no_history(shape: TableShape, work: TableSync, told: str, where: str) -> None:
    if shape.write in ("scd2", "append"):
        raise SchemaDriftError(
            f"{told}; the versions kept in Silver have the earlier one",
            where=where,
            remedy="Keep the type with --drift quarantine, or start the history anew: "
            f"headrace sync {work.connector} {work.table} --reset",
        )


def _concerns(change: ColumnChange, chosen: set[str], choice: ColumnChoice) -> bool:
    if change.new is not None:
        return change.new.name in chosen
    assert change.old is not None
    return change.old.name not in choice.exclude and (not choice.include or change.old.name in choice.include)


def _with_aliases(choice: ColumnChoice, aliases: dict[str, str], names: Sequence[str]) -> ColumnChoice:
    def named(part: Sequence[str]) -> tuple[str, ...]:
        both = [n for name in part for n in (name, aliases.get(name, name)) if n in names or name not in aliases]
        return tuple(dict.fromkeys(both))

    return ColumnChoice.model_validate({part: named(getattr(choice, part)) for part in ColumnChoice.model_fields})


def _renamed_choice(choice: ColumnChoice, names: dict[str, str]) -> ColumnChoice:
    renamed = {
        part: tuple(names.get(name, name) for name in getattr(choice, part)) for part in ColumnChoice.model_fields
    }
    return ColumnChoice.model_validate(renamed)


def _renamed_shape(shape: TableShape, names: dict[str, str]) -> TableShape:
    return shape.model_copy(
        update={
            "columns": _renamed_choice(shape.columns, names),
            "key": tuple(names.get(name, name) for name in shape.key),
            "row_filter": RowFilter.parse(shape.row_filter).renamed(names).sql() if shape.row_filter else "",
            "converts": {names.get(name, name): kind for name, kind in shape.converts.items()},
        }
    )


__all__ = ["ShapeDecision", "decide_shape", "drift_of_reading"]
