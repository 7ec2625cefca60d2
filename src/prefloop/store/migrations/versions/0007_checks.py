"""Checks (gold, calibration, repeated items); overlap by more than two; announcements; arrivals from platforms."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("check_item", "check_shown", "check_answer", "announcement", "arrival")
APPEND_ONLY = ("check_shown", "check_answer", "announcement", "arrival")


def _refuse_changes(table: str) -> list[str]:
    if op.get_bind().dialect.name == "postgresql":  # the function is the first migration's
        return [
            f"""CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse_change()"""
        ]
    return [
        f"""CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"""
        for verb in ("update", "delete")
    ]


def _refers(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=op.f(f"fk_{table}_{column}_{other}"))


def upgrade() -> None:
    op.add_column("study", sa.Column("overlap_judges", sa.Integer(), nullable=False, server_default="2"))
    op.create_table(
        "check_item",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("answer_a", sa.Text(), nullable=False),
        sa.Column("answer_b", sa.Text(), nullable=False),
        sa.Column("pick", sa.Text(), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("pick IN ('a', 'b', 'same')", name=op.f("ck_check_item_pick")),
        _refers("check_item", "study_id", "study"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_check_item")),
    )
    op.create_table(
        "check_shown",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=True),
        sa.Column("comparison_id", sa.Text(), nullable=True),
        sa.Column("is_swapped", sa.Boolean(), nullable=False),
        sa.Column("shown_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('gold', 'calibration', 'repeat')", name=op.f("ck_check_shown_kind")),
        _refers("check_shown", "study_id", "study"),
        _refers("check_shown", "worker_id", "worker"),
        _refers("check_shown", "item_id", "check_item"),
        _refers("check_shown", "comparison_id", "comparison"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_check_shown")),
    )
    op.create_table(
        "check_answer",
        sa.Column("check_id", sa.Text(), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("input_device", sa.Text(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        _refers("check_answer", "check_id", "check_shown"),
        sa.PrimaryKeyConstraint("check_id", name=op.f("pk_check_answer")),
    )
    op.create_table(
        "announcement",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False),
        _refers("announcement", "study_id", "study"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_announcement")),
    )
    op.create_table(
        "arrival",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("external_study_id", sa.Text(), nullable=False),
        sa.Column("external_session_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False),
        _refers("arrival", "worker_id", "worker"),
        _refers("arrival", "study_id", "study"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arrival")),
    )
    op.create_index(op.f("ix_check_item_study_id"), "check_item", ["study_id"])
    op.create_index("ix_check_shown_study_id_worker_id", "check_shown", ["study_id", "worker_id"])
    op.create_index("uq_check_shown_item", "check_shown", ["worker_id", "item_id"], unique=True)
    op.create_index("uq_check_shown_comparison", "check_shown", ["worker_id", "comparison_id"], unique=True)
    op.create_index(op.f("ix_announcement_study_id"), "announcement", ["study_id"])
    op.create_index("ix_arrival_study_id", "arrival", ["study_id"])
    op.create_index(
        "uq_arrival_session",
        "arrival",
        ["platform", "external_id", "external_study_id", "external_session_id", "study_id"],
        unique=True,
    )
    for table in APPEND_ONLY:
        for statement in _refuse_changes(table):
            op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    op.drop_column("study", "overlap_judges")
