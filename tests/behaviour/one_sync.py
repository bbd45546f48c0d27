"""``python -m tests.behaviour.one_sync TABLE RUN_GROUP``: one sync of ``shop`` in a process that may be killed."""

from __future__ import annotations

import sys

from assets.settings import Settings
from assets.steps import SyncSteps
from assets.sync import TableSync


def main(table: str, run_group: str) -> int:
    steps = SyncSteps.from_settings(Settings())
    work = TableSync(connector="shop", table=table, run_group=run_group, deletes="keys")
    manifest = steps.extract(work, steps.open_window(work), 1)
    bronze = steps.commit_bronze(work, manifest)
    silver = steps.merge_silver(work, manifest)
    result = steps.record(work, steps.verify(work, manifest, bronze, silver))
    return 0 if result.equal else 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
