"""What Alembic runs for every command: on the connection it is given, inside the transaction that is open there."""

from __future__ import annotations

from alembic import context

from cluster.database.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
