"""Tokens of OAuth connectors, and logins that were begun."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connectors", sa.Column("oauth", sa.JSON(), nullable=True))
    op.add_column("connectors", sa.Column("oauth_claimed_until", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "oauth_flows",
        sa.Column("state_hash", sa.String(64), primary_key=True),
        sa.Column("connector", sa.String(63), nullable=False),
        sa.Column("person", sa.String(255), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("verifier", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
