"""An index for the newest comparisons of a study: the monitor asks for them every few seconds."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_comparison_study_id_id", "comparison", ["study_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_comparison_study_id_id", "comparison")
