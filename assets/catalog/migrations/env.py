"""Alembic's entry point. The caller passes its open connection; there is no ``alembic.ini``."""

from __future__ import annotations

from alembic import context

from assets.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
