"""Alembic's entry: runs the revisions on the connection that `upgrade` (or a test) hands over."""

from alembic import context

import prefloop.store.account_tables  # its tables join the same metadata
import prefloop.store.care_tables
import prefloop.store.check_tables
import prefloop.store.decision_tables
import prefloop.store.study_tables
import prefloop.store.turn_tables  # noqa: F401
from prefloop.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
