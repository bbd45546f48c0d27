"""The state of each table, one row a table; answers kept by idempotency key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_FILL = """
INSERT INTO table_states (connector, table_name, status, run_group, mode, rows_read, error, error_type, started_at,
  completed_at, rows, bytes, equal, watermark, succeeded_at, synced_from, changed_at)
SELECT l.connector, l.table_name, l.status, l.run_group, l.mode, l.rows_read, l.error, l.error_type, l.started_at,
  l.completed_at, g.rows_silver, g.bytes, g.equal, g.watermark_after, g.completed_at, g.started_at,
  COALESCE(l.completed_at, l.started_at)
FROM (SELECT *, row_number() OVER (PARTITION BY connector, table_name ORDER BY started_at DESC, id DESC) AS place
      FROM table_runs) l
LEFT JOIN (SELECT *, row_number() OVER (PARTITION BY connector, table_name ORDER BY started_at DESC, id DESC) AS place
      FROM table_runs WHERE status = 'succeeded') g
  ON g.connector = l.connector AND g.table_name = l.table_name AND g.place = 1
WHERE l.place = 1
"""


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "table_states",
        sa.Column("connector", sa.String(length=63), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("run_group", sa.String(length=255), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=True),
        sa.Column("rows_read", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("started_at", instant, nullable=False),
        sa.Column("completed_at", instant, nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("equal", sa.Boolean(), nullable=True),
        sa.Column("watermark", sa.Text(), nullable=True),
        sa.Column("succeeded_at", instant, nullable=True),
        sa.Column("synced_from", instant, nullable=True),
        sa.Column("changed_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("connector", "table_name", name=op.f("pk_table_states")),
    )
    op.execute(_FILL)
    op.create_index(op.f("ix_table_states_status"), "table_states", ["status"])
    op.create_index(op.f("ix_table_states_changed_at"), "table_states", ["changed_at"])
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("caller", "key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"])
