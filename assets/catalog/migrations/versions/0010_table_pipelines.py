"""Which pipeline syncs a table, which tells whether it is late; indexes of lists of runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("table_states", sa.Column("pipeline", sa.String(length=63), nullable=True))
    op.execute(
        "UPDATE table_states SET pipeline = (SELECT r.pipeline FROM runs r WHERE r.run_group = table_states.run_group)"
    )
    op.create_index(op.f("ix_table_states_pipeline"), "table_states", ["pipeline"])
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.create_index("ix_runs_connector_started_at", "runs", ["connector", "started_at"])
    op.create_index("ix_runs_status_started_at", "runs", ["status", "started_at"])
