"""The first tables, and the triggers that keep judgments and events as they were written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("judgment", "event")


def _refuse_changes(table: str) -> list[str]:
    if op.get_bind().dialect.name == "postgresql":
        return [
            """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$""",
            f"""CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
        ]
    return [
        f"""CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"""
        for verb in ("update", "delete")
    ]


def upgrade() -> None:
    op.create_table(
        "eval_result",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("evaluation", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("clusters", sa.Integer(), nullable=True),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("low", sa.Float(), nullable=False),
        sa.Column("high", sa.Float(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eval_result")),
    )
    with op.batch_alter_table("eval_result", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_eval_result_model_id"), ["model_id"], unique=False)

    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_object_id"), ["object_id"], unique=False)

    op.create_table(
        "round",
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_round")),
    )
    with op.batch_alter_table("round", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_round_number"), ["number"], unique=False)

    op.create_table(
        "snapshot",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("best_of_k", sa.Integer(), nullable=False),
        sa.Column("preference_model_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('policy', 'preference_model')", name=op.f("ck_snapshot_kind")),
        sa.CheckConstraint("state IN ('registered', 'deployed', 'retired')", name=op.f("ck_snapshot_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot")),
        sa.UniqueConstraint("name", name=op.f("uq_snapshot_name")),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("tranche", sa.Text(), nullable=False),
        sa.Column("continue_with", sa.Text(), nullable=False),
        sa.Column("overlap", sa.Float(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("turns_per_conversation", sa.Integer(), nullable=False),
        sa.Column("target_comparisons", sa.Integer(), nullable=True),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("instructions_version", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("compare", sa.Text(), nullable=False),
        sa.CheckConstraint("mode IN ('helpful', 'red_team')", name=op.f("ck_study_mode")),
        sa.CheckConstraint("state IN ('open', 'paused', 'closed')", name=op.f("ck_study_state")),
        sa.CheckConstraint("tranche IN ('base', 'rejection_sampled', 'online')", name=op.f("ck_study_tranche")),
        sa.CheckConstraint("overlap >= 0 AND overlap <= 1", name=op.f("ck_study_overlap")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.CheckConstraint("role IN ('worker', 'researcher')", name=op.f("ck_worker_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "conversation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("import_digest", sa.Text(), nullable=True),
        sa.CheckConstraint("mode IN ('helpful', 'red_team')", name=op.f("ck_conversation_mode")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_conversation_study_id_study")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_conversation_worker_id_worker")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation")),
        sa.UniqueConstraint("import_digest", name=op.f("uq_conversation_import_digest")),
    )
    with op.batch_alter_table("conversation", schema=None) as batch_op:
        batch_op.create_index("ix_conversation_worker_id_study_id", ["worker_id", "study_id"], unique=False)

    op.create_table(
        "invitation",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("role IN ('worker', 'researcher')", name=op.f("ck_invitation_role")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_invitation_study_id_study")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_invitation")),
    )
    op.create_table(
        "response",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("snapshot_id", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("sampling", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_token_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("finish_reason IN ('stop', 'length', 'error')", name=op.f("ck_response_finish_reason")),
        sa.CheckConstraint(
            "state IN ('pending', 'streaming', 'done', 'error', 'void')", name=op.f("ck_response_state")
        ),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshot.id"], name=op.f("fk_response_snapshot_id_snapshot")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_response")),
    )
    op.create_table(
        "session",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_session_worker_id_worker")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_session")),
    )
    op.create_table(
        "study_share",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("snapshot_id", sa.Text(), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshot.id"], name=op.f("fk_study_share_snapshot_id_snapshot")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_share_study_id_study")),
        sa.PrimaryKeyConstraint("study_id", "revision", "place", name=op.f("pk_study_share")),
    )
    op.create_table(
        "acceptance",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["invitation.digest"], name=op.f("fk_acceptance_digest_invitation")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_acceptance_worker_id_worker")),
        sa.PrimaryKeyConstraint("digest", "place", name=op.f("pk_acceptance")),
    )
    op.create_table(
        "message",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("import_digest", sa.Text(), nullable=True),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant')", name=op.f("ck_message_role")),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_message_conversation_id_conversation")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["message.id"], name=op.f("fk_message_parent_id_message")),
        sa.ForeignKeyConstraint(["response_id"], ["response.id"], name=op.f("fk_message_response_id_response")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        sa.UniqueConstraint("import_digest", name=op.f("uq_message_import_digest")),
        sa.UniqueConstraint("response_id", name=op.f("uq_message_response_id")),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_message_conversation_id"), ["conversation_id"], unique=False)
        batch_op.create_index(
            "uq_message_root",
            ["conversation_id"],
            unique=True,
            sqlite_where=sa.text("parent_id IS NULL"),
            postgresql_where=sa.text("parent_id IS NULL"),
        )

    op.create_table(
        "score",
        sa.Column("preference_model_id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["response_id"], ["response.id"], name=op.f("fk_score_response_id_response")),
        sa.PrimaryKeyConstraint("preference_model_id", "response_id", name=op.f("pk_score")),
    )
    op.create_table(
        "comparison",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("context_message_id", sa.Text(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("response_a_id", sa.Text(), nullable=False),
        sa.Column("response_b_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("tranche", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("void_reason", sa.Text(), nullable=True),
        sa.Column("interface_version", sa.Text(), nullable=False),
        sa.Column("instructions_version", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("overlap_draw", sa.Float(), nullable=False),
        sa.Column("import_digest", sa.Text(), nullable=True),
        sa.CheckConstraint("mode IN ('helpful', 'red_team')", name=op.f("ck_comparison_mode")),
        sa.CheckConstraint("state IN ('open', 'judged', 'void')", name=op.f("ck_comparison_state")),
        sa.CheckConstraint("tranche IN ('base', 'rejection_sampled', 'online')", name=op.f("ck_comparison_tranche")),
        sa.CheckConstraint("response_a_id <> response_b_id", name=op.f("ck_comparison_two_responses")),
        sa.CheckConstraint("turn >= 1", name=op.f("ck_comparison_turn")),
        sa.ForeignKeyConstraint(
            ["context_message_id"], ["message.id"], name=op.f("fk_comparison_context_message_id_message")
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_comparison_conversation_id_conversation")
        ),
        sa.ForeignKeyConstraint(["response_a_id"], ["response.id"], name=op.f("fk_comparison_response_a_id_response")),
        sa.ForeignKeyConstraint(["response_b_id"], ["response.id"], name=op.f("fk_comparison_response_b_id_response")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_comparison_study_id_study")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_comparison_worker_id_worker")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
        sa.UniqueConstraint("import_digest", name=op.f("uq_comparison_import_digest")),
        sa.UniqueConstraint("response_a_id", name=op.f("uq_comparison_response_a_id")),
        sa.UniqueConstraint("response_b_id", name=op.f("uq_comparison_response_b_id")),
    )
    with op.batch_alter_table("comparison", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_comparison_conversation_id"), ["conversation_id"], unique=False)
        batch_op.create_index("ix_comparison_study_id_state", ["study_id", "state"], unique=False)
        batch_op.create_index(
            "uq_comparison_live",
            ["conversation_id", "turn"],
            unique=True,
            sqlite_where=sa.text("import_digest IS NULL AND state <> 'void'"),
            postgresql_where=sa.text("import_digest IS NULL AND state <> 'void'"),
        )

    op.create_table(
        "continuation",
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.CheckConstraint("side IN ('a', 'b')", name=op.f("ck_continuation_side")),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_continuation_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_continuation_message_id_message")),
        sa.PrimaryKeyConstraint("comparison_id", name=op.f("pk_continuation")),
        sa.UniqueConstraint("message_id", name=op.f("uq_continuation_message_id")),
    )
    op.create_table(
        "import_text",
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("text_a", sa.Text(), nullable=False),
        sa.Column("text_b", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_import_text_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("comparison_id", name=op.f("pk_import_text")),
    )
    op.create_table(
        "judgment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("clicked", sa.Text(), nullable=False),
        sa.Column("preferred", sa.Text(), nullable=False),
        sa.Column("reason_tags", sa.JSON(), nullable=False),
        sa.Column("revises", sa.Text(), nullable=True),
        sa.Column("interface_version", sa.Text(), nullable=False),
        sa.Column("instructions_version", sa.Text(), nullable=False),
        sa.Column("input_device", sa.Text(), nullable=False),
        sa.Column("shown_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_token_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("both_done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("clicked IN ('a', 'b')", name=op.f("ck_judgment_clicked")),
        sa.CheckConstraint("preferred IN ('a', 'b')", name=op.f("ck_judgment_preferred")),
        sa.CheckConstraint("grade >= 1 AND grade <= 8", name=op.f("ck_judgment_grade")),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_judgment_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["revises"], ["judgment.id"], name=op.f("fk_judgment_revises_judgment")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_judgment_worker_id_worker")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgment")),
        sa.UniqueConstraint("revises", name=op.f("uq_judgment_revises")),
    )
    with op.batch_alter_table("judgment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_judgment_comparison_id"), ["comparison_id"], unique=False)
        batch_op.create_index(
            "uq_judgment_first",
            ["comparison_id", "worker_id"],
            unique=True,
            sqlite_where=sa.text("revises IS NULL"),
            postgresql_where=sa.text("revises IS NULL"),
        )

    op.create_table(
        "lease",
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparison.id"], name=op.f("fk_lease_comparison_id_comparison")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_lease_study_id_study")),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_lease_worker_id_worker")),
        sa.PrimaryKeyConstraint("comparison_id", name=op.f("pk_lease")),
        sa.UniqueConstraint("study_id", "worker_id", name=op.f("uq_lease_study_id_worker_id")),
    )
    for table in APPEND_ONLY:
        for statement in _refuse_changes(table):
            op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in APPEND_ONLY:
            op.execute(f"DROP TRIGGER {table}_is_append_only ON {table}")
        op.execute("DROP FUNCTION refuse_change()")
    op.drop_table("lease")
    with op.batch_alter_table("judgment", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_judgment_first", sqlite_where=sa.text("revises IS NULL"), postgresql_where=sa.text("revises IS NULL")
        )
        batch_op.drop_index(batch_op.f("ix_judgment_comparison_id"))

    op.drop_table("judgment")
    op.drop_table("import_text")
    op.drop_table("continuation")
    with op.batch_alter_table("comparison", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_comparison_live",
            sqlite_where=sa.text("import_digest IS NULL AND state <> 'void'"),
            postgresql_where=sa.text("import_digest IS NULL AND state <> 'void'"),
        )
        batch_op.drop_index("ix_comparison_study_id_state")
        batch_op.drop_index(batch_op.f("ix_comparison_conversation_id"))

    op.drop_table("comparison")
    op.drop_table("score")
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_message_root", sqlite_where=sa.text("parent_id IS NULL"), postgresql_where=sa.text("parent_id IS NULL")
        )
        batch_op.drop_index(batch_op.f("ix_message_conversation_id"))

    op.drop_table("message")
    op.drop_table("acceptance")
    op.drop_table("study_share")
    op.drop_table("session")
    op.drop_table("response")
    op.drop_table("invitation")
    with op.batch_alter_table("conversation", schema=None) as batch_op:
        batch_op.drop_index("ix_conversation_worker_id_study_id")

    op.drop_table("conversation")
    op.drop_table("worker")
    op.drop_table("study")
    op.drop_table("snapshot")
    with op.batch_alter_table("round", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_round_number"))

    op.drop_table("round")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_event_object_id"))

    op.drop_table("event")
    with op.batch_alter_table("eval_result", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_eval_result_model_id"))

    op.drop_table("eval_result")
