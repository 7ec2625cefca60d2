"""Phases of a study, agreements, answers to questions; marked passages, sources and wishes of a judgment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY = ("agreement", "task_answers")


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
    # Plain ADD COLUMN: a batch would make SQLite's table anew and lose the triggers that keep judgments as they are.
    op.add_column("judgment", sa.Column("marks", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("judgment", sa.Column("is_checked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("judgment", sa.Column("checked_source", sa.Text(), nullable=False, server_default=""))
    op.add_column("judgment", sa.Column("go_on_with", sa.Text(), nullable=True))
    op.create_table(
        "study_phases",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("phases", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_phases_study_id_study")),
        sa.PrimaryKeyConstraint("study_id", "revision", name=op.f("pk_study_phases")),
    )
    op.create_table(
        "agreement",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("agreed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('consent', 'instructions')", name=op.f("ck_agreement_kind")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_agreement_study_id_study")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_agreement_worker_id_worker")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agreement")),
    )
    op.create_index("ix_agreement_worker_id_study_id", "agreement", ["worker_id", "study_id"])
    op.create_table(
        "task_answers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("questions", sa.JSON(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('goal', 'closing')", name=op.f("ck_task_answers_kind")),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_task_answers_conversation_id_conversation")
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_task_answers_worker_id_worker")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_answers")),
    )
    op.create_index(op.f("ix_task_answers_conversation_id"), "task_answers", ["conversation_id"])
    for table in APPEND_ONLY:
        for statement in _refuse_changes(table):
            op.execute(statement)


def downgrade() -> None:
    op.drop_table("task_answers")
    op.drop_table("agreement")
    op.drop_table("study_phases")
    for column in ("go_on_with", "checked_source", "is_checked", "marks"):
        op.drop_column("judgment", column)
