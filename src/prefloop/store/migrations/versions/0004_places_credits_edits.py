"""Places in a study with a target, credited time, reports; edits and pacing of a comparison."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY = ("time_credit", "worker_report")
_LIVE = "import_digest IS NULL AND state <> 'void'"
_NO_EDIT = "import_digest IS NULL AND edit_of IS NULL AND state <> 'void'"

# What a study has already keeps its places, also above its target.
_TAKE_PLACES = """
INSERT INTO study_place (study_id, number, comparison_id, taken_at)
SELECT study_id, ROW_NUMBER() OVER (PARTITION BY study_id ORDER BY id), id, created_at FROM comparison
WHERE state <> 'void' AND import_digest IS NULL
AND study_id IN (SELECT id FROM study WHERE target_comparisons IS NOT NULL)
"""


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _refuse_changes(table: str) -> list[str]:
    if _is_postgresql():  # the function is the first migration's
        return [
            f"""CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse_change()"""
        ]
    return [
        f"""CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"""
        for verb in ("update", "delete")
    ]


def _refuse_places_above_the_target() -> list[str]:
    above = "NEW.number > (SELECT target_comparisons FROM study WHERE id = NEW.study_id)"
    if _is_postgresql():
        return [
            f"""CREATE FUNCTION refuse_place() RETURNS trigger AS $$
            BEGIN
              IF {above} THEN RAISE EXCEPTION 'the study is full' USING ERRCODE = 'check_violation'; END IF;
              RETURN NEW;
            END $$ LANGUAGE plpgsql""",
            """CREATE TRIGGER study_place_is_within_target BEFORE INSERT ON study_place
            FOR EACH ROW EXECUTE FUNCTION refuse_place()""",
        ]
    return [
        f"""CREATE TRIGGER study_place_is_within_target BEFORE INSERT ON study_place
        WHEN {above} BEGIN SELECT RAISE(ABORT, 'the study is full'); END"""
    ]


def _live_index(condition: str) -> None:
    op.drop_index("uq_comparison_live", "comparison")
    op.create_index(
        "uq_comparison_live",
        "comparison",
        ["conversation_id", "turn"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )


def upgrade() -> None:
    op.add_column("comparison", sa.Column("pacing", sa.Text(), nullable=True))
    op.add_column("comparison", sa.Column("edit_of", sa.Text(), nullable=True))
    op.create_index("uq_comparison_edit_of", "comparison", ["edit_of"], unique=True)
    _live_index(_NO_EDIT)
    op.create_table(
        "study_place",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("comparison_id", sa.Text(), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_place_study_id_study")),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_study_place_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("study_id", "number", name=op.f("pk_study_place")),
        sa.UniqueConstraint("comparison_id", name=op.f("uq_study_place_comparison_id")),
    )
    op.create_index(
        "ix_study_place_free",
        "study_place",
        ["study_id"],
        sqlite_where=sa.text("comparison_id IS NULL"),
        postgresql_where=sa.text("comparison_id IS NULL"),
    )
    op.create_table(
        "time_credit",
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("credited_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_time_credit_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_time_credit_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_time_credit_study_id_study")),
        sa.PrimaryKeyConstraint("comparison_id", name=op.f("pk_time_credit")),
    )
    op.create_index(op.f("ix_time_credit_study_id"), "time_credit", ["study_id"])
    op.create_table(
        "worker_report",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("comparison_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('harmful', 'personal', 'broken', 'other')", name=op.f("ck_worker_report_kind")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_worker_report_worker_id_worker")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_worker_report_study_id_study")),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_worker_report_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker_report")),
    )
    op.create_index(op.f("ix_worker_report_study_id"), "worker_report", ["study_id"])
    op.execute(_TAKE_PLACES)
    triggers = [*_refuse_places_above_the_target(), *(one for table in APPEND_ONLY for one in _refuse_changes(table))]
    for statement in triggers:
        op.execute(statement)


def downgrade() -> None:
    for table in ("worker_report", "time_credit", "study_place"):
        op.drop_table(table)
    if _is_postgresql():
        op.execute("DROP FUNCTION refuse_place()")
    op.drop_index("uq_comparison_edit_of", "comparison")
    _live_index(_LIVE)
    for column in ("edit_of", "pacing"):
        op.drop_column("comparison", column)
