"""Practice turns; care for red-team workers: topic opt-outs, breaks, how people feel."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("practice_answer", "topic_opt_out", "conversation_topic", "care_break", "feelings_asked", "feelings")


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


def upgrade() -> None:
    op.create_table(
        "practice_answer",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("is_right", sa.Boolean(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_practice_answer_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_practice_answer_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_practice_answer")),
    )
    op.create_table(
        "topic_opt_out",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("topics", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_topic_opt_out_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_topic_opt_out_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_topic_opt_out")),
    )
    op.create_table(
        "conversation_topic",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_conversation_topic_conversation_id_conversation")
        ),
        sa.PrimaryKeyConstraint("conversation_id", name=op.f("pk_conversation_topic")),
    )
    op.create_table(
        "care_break",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("exposure_minutes", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('taken', 'declined')", name=op.f("ck_care_break_kind")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_care_break_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_care_break_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_care_break")),
    )
    op.create_table(
        "feelings_asked",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("tasks", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_feelings_asked_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_feelings_asked_study_id_study")),
        sa.PrimaryKeyConstraint("worker_id", "study_id", "tasks", name=op.f("pk_feelings_asked")),
    )
    op.create_table(
        "feelings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_feelings_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feelings")),
    )
    op.create_index("ix_practice_answer_worker_id_study_id", "practice_answer", ["worker_id", "study_id"])
    op.create_index("ix_topic_opt_out_worker_id_study_id", "topic_opt_out", ["worker_id", "study_id"])
    op.create_index("ix_care_break_worker_id_study_id", "care_break", ["worker_id", "study_id"])
    op.create_index(op.f("ix_feelings_study_id"), "feelings", ["study_id"])
    for table in TABLES:
        for statement in _refuse_changes(table):
            op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
