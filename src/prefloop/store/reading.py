"""Reading for training, evaluation and quality: judged comparisons, pairs, progress. Writes nothing.

Long reads go chunk by chunk in short transactions, by id, so that they never hold the database up.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, func, select

from prefloop.schema import ComparisonState, Judgment, Mode, PreferencePair, Tranche
from prefloop.store import study_tables, tables
from prefloop.store.database import Database
from prefloop.store.decisions import not_withdrawn, withdrawn
from prefloop.store.rows import (
    as_messages,
    conversation_from,
    is_no_edit,
    judgment_from,
    load_comparisons,
    load_paths,
    matching,
    one_row,
    rows_by,
    tree_message_from,
)
from prefloop.store.views import ComparisonRecord, ConversationRecord, JudgedComparison, StudyProgress, TaskAnswers

READ_CHUNK = 500
"""Comparisons in one read transaction."""


class Reading(Database):
    """The part of the store that others learn from."""

    def judged(
        self, mode: Mode | None = None, tranche: Tranche | None = None, study_id: str | None = None
    ) -> Iterator[JudgedComparison]:
        """Judged comparisons in order of id, each once for every worker's latest judgment. Never a void one."""
        for record in self.records(mode, tranche, study_id, state=ComparisonState.JUDGED):
            yield from judged_of(record)

    def pairs(
        self,
        mode: Mode | None = None,
        tranche: Tranche | None = None,
        study_id: str | None = None,
        drop_weakest: bool = True,
    ) -> Iterator[PreferencePair]:
        """Judged comparisons as training sees them; `drop_weakest` leaves out grades 4 and 5 (paper 2.2)."""
        for judged in self.judged(mode, tranche, study_id):
            if not (drop_weakest and judged.judgment.is_weakest):
                yield pair_of(judged)

    def records(
        self,
        mode: Mode | None = None,
        tranche: Tranche | None = None,
        study_id: str | None = None,
        state: ComparisonState | None = None,
    ) -> Iterator[ComparisonRecord]:
        """Comparisons with all that is known of them, in order of id (which is order of creation).

        Nothing by a worker who has withdrawn is among it.
        """
        table = tables.comparison
        wanted: list[ColumnElement[bool]] = matching(
            mode=(table.c.mode, mode),
            tranche=(table.c.tranche, tranche),
            study_id=(table.c.study_id, study_id),
            state=(table.c.state, state),
        )
        wanted.append(not_withdrawn(table.c.worker_id))
        after = ""
        while chunk := self._record_chunk([*wanted, table.c.id > after]):
            yield from chunk
            after = chunk[-1].comparison.id

    def _record_chunk(self, wanted: list[ColumnElement[bool]]) -> list[ComparisonRecord]:
        table = tables.comparison
        with self._read() as connection:
            statement = select(table).where(*wanted).order_by(table.c.id).limit(READ_CHUNK)
            rows = connection.execute(statement).mappings().all()
            comparisons, paths = load_comparisons(connection, rows), load_paths(connection, rows)
            ids, conversation_ids = [row["id"] for row in rows], [row["conversation_id"] for row in rows]
            answers: dict[str, list[TaskAnswers]] = {}
            answered = study_tables.task_answers
            for row in rows_by(connection, answered, answered.c.conversation_id, conversation_ids):
                answers.setdefault(row["conversation_id"], []).append(TaskAnswers(**row))
            conversations = {
                row["id"]: ConversationRecord(
                    conversation=conversation_from(row),
                    ended_at=row["ended_at"],
                    end_reason=row["end_reason"],
                    import_digest=row["import_digest"],
                    answers=tuple(sorted(answers.get(row["id"], ()), key=lambda one: one.id)),
                )
                for row in rows_by(connection, tables.conversation, tables.conversation.c.id, conversation_ids)
            }
            judgments: dict[str, list[Judgment]] = {}
            gone = set(connection.scalars(withdrawn()))
            for row in rows_by(connection, tables.judgment, tables.judgment.c.comparison_id, ids):
                if row["worker_id"] in gone:
                    continue
                judgments.setdefault(row["comparison_id"], []).append(judgment_from(row))
            texts = {
                row["comparison_id"]: (row["text_a"], row["text_b"])
                for row in rows_by(connection, study_tables.import_text, study_tables.import_text.c.comparison_id, ids)
            }
            links = rows_by(connection, tables.continuation, tables.continuation.c.comparison_id, ids)
            turns = rows_by(connection, tables.message, tables.message.c.id, [link["message_id"] for link in links])
        messages = {row["id"]: tree_message_from(row) for row in turns}
        went_on = {link["comparison_id"]: messages[link["message_id"]] for link in links}
        return [
            ComparisonRecord(
                conversation=conversations[comparison.conversation_id],
                path=tuple(path),
                comparison=comparison,
                judgments=tuple(sorted(judgments.get(comparison.id, ()), key=lambda judgment: judgment.id)),
                continuation=went_on.get(comparison.id),
                import_digest=row["import_digest"],
                import_texts=texts.get(comparison.id),
            )
            for row, comparison, path in zip(rows, comparisons, paths, strict=True)
        ]

    def progress(self, study_id: str) -> StudyProgress:
        """How far a study has come; edits of answers count for nothing here."""
        comparison, judgment, conversation = tables.comparison, tables.judgment, tables.conversation
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            states = connection.execute(
                select(comparison.c.state, func.count())
                .where(comparison.c.study_id == study_id, is_no_edit())
                .group_by(comparison.c.state)
            )
            counts = {ComparisonState(state): count for state, count in states}
            judgments, workers = connection.execute(
                select(
                    func.count().filter(judgment.c.revises.is_(None)),  # a chain of corrections counts once
                    func.count(judgment.c.worker_id.distinct()),
                )
                .join(comparison, comparison.c.id == judgment.c.comparison_id)
                .where(comparison.c.study_id == study_id, is_no_edit())
            ).one()
            conversations = connection.scalar(
                select(func.count()).select_from(conversation).where(conversation.c.study_id == study_id)
            )
        return StudyProgress(
            comparisons={state: counts.get(state, 0) for state in ComparisonState},
            judgments=judgments,
            workers=workers,
            conversations=conversations or 0,
        )


def judged_of(record: ComparisonRecord) -> Iterator[JudgedComparison]:
    """A judged comparison once for every judgment that nobody revised; nothing for an open or void one."""
    if record.comparison.state != ComparisonState.JUDGED:
        return
    revised = {judgment.revises for judgment in record.judgments}
    context = as_messages(record.path)
    for judgment in record.judgments:
        if judgment.id not in revised:
            yield JudgedComparison(comparison=record.comparison, judgment=judgment, context=context)


def pair_of(judged: JudgedComparison) -> PreferencePair:
    """The pair that a judged comparison teaches."""
    comparison, judgment = judged.comparison, judged.judgment
    chosen = comparison.response(judgment.preferred)
    rejected = comparison.response("b" if judgment.preferred == "a" else "a")
    return PreferencePair(
        context=judged.context,
        chosen=chosen.text,
        rejected=rejected.text,
        comparison_id=comparison.id,
        conversation_id=comparison.conversation_id,
        worker_id=judgment.worker_id,
        chosen_response_id=chosen.id,
        rejected_response_id=rejected.id,
        chosen_snapshot_id=chosen.snapshot_id,
        rejected_snapshot_id=rejected.snapshot_id,
        chosen_side=judgment.preferred,
        mode=comparison.mode,
        tranche=comparison.tranche,
        turn=comparison.turn,
        grade=judgment.grade,
    )
