"""Run by Alembic. Uses the connection that `upgrade` hands over and its transaction."""

from __future__ import annotations

from alembic import context

from studio.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
