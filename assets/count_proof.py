"""What the counts of one sync prove: rows of the source's snapshot, staged, in Bronze and live in Silver."""

from __future__ import annotations

from assets.errors import MismatchError
from assets.sync import CommitInfo, Manifest, TableSync


def compare_counts(work: TableSync, manifest: Manifest, bronze: CommitInfo, live: int) -> None:
    """Raises MismatchError: rows were lost or doubled between the source, staging, Bronze and Silver."""
    if manifest.mode == "full":
        read = manifest.source_rows if manifest.source_rows is not None else manifest.rows_read
        counts = {
            "source": read - (manifest.rows_quarantined if manifest.source_rows is not None else 0),
            "staged": manifest.rows_read,
            "Bronze": bronze.rows_total,
        }
        if manifest.shape.write != "append":
            counts["Silver"] = live
    else:
        staged = manifest.rows_read + manifest.rows_deleted + manifest.rows_filled
        counts = {"staged": staged, "Bronze": staged if bronze.repeated else bronze.rows_added}
    if len(set(counts.values())) > 1:
        remedy = "Sync the table again with --mode full."
        if manifest.mode == "full":
            remedy = (
                "Sync the table again. If they differ each time, it changes by itself while it is read, as a view of "
                "random rows or of the present moment does: no copy can equal it."
            )
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise MismatchError(
            f"row counts differ: {told}",
            where=f"{work.connector}/{work.table}",
            remedy=remedy,
        )


def proven(work: TableSync, manifest: Manifest, live: int) -> tuple[bool | None, str]:
    """Whether Silver has the rows that the source had in the snapshot, by count, and what to say of it.

    Args:
        live: Silver's live rows; where it appends, those that say of no key that it is gone, and of a table that is
            followed by its log the live keys.

    Raises:
        MismatchError: they differ though deletes were looked for.
    """
    reason = "; ".join(filter(None, [manifest.reason, *manifest.drift]))
    if manifest.rows_quarantined:
        aside = f"{manifest.rows_quarantined} rows were set aside in the quarantine table"
        return False, "; ".join(filter(None, [reason, aside]))
    if manifest.mode == "full":  # compared already
        return True, reason
    if manifest.source_rows is None:
        return None, reason
    if manifest.shape.write == "append" and manifest.mode != "cdc":  # older versions and deletes are rows of their own
        equal = live >= manifest.source_rows
        missing = "Silver has fewer rows than the source; sync with --mode full"
        return equal, reason if equal else missing
    if live == manifest.source_rows:
        return True, reason
    if manifest.mode == "cdc" or (work.deletes == "keys" and not manifest.shape.converts):
        raise MismatchError(
            f"row counts differ: source {manifest.source_rows}, Silver {live}",
            where=f"{work.connector}/{work.table}",
            remedy="Sync the table again with --mode full. If they differ then as well after later syncs, "
            f"the key ({', '.join(manifest.key)}) does not tell rows apart: name another with --key.",
        )
    why = "rows were deleted or changed their key; sync with --deletes keys"
    if manifest.shape.converts:
        why = "rows were deleted (sync with --deletes keys), or are in the quarantine table"
    return False, f"Silver has {live} live rows, the source {manifest.source_rows}: {why}"
