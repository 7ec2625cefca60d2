"""What stands around a study's chat tasks: its phases, who agreed to what, answers to questions, tasks done.

Knows nothing of pages. Nothing here is overwritten: phases are revisions, agreements and answers append-only rows.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import func, select

from prefloop.errors import StateError
from prefloop.schema import ComparisonState, now
from prefloop.store import study_tables, tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import one_row, row_of
from prefloop.store.views import Agreement, TaskAnswers
from prefloop.study import StudyPhases

AgreementKind = Literal["consent", "instructions"]


class Phases(Database):
    """The part of the store that knows what a worker sees and answers beside the chat."""

    def set_study_phases(self, study_id: str, phases: StudyPhases) -> StudyPhases:
        """What the study shows from now on; the earlier phases stay in the table.

        Errors:
            StateError: an own text changed and its version did not; who agreed to what could not be told any more.
        """
        checked_text(phases.model_dump_json(), "The study's phases")

        def work(unit: Unit) -> StudyPhases:
            table = study_tables.study_phases
            one_row(unit.connection, tables.study, study_id, "study", lock=True)
            rows = unit.connection.execute(
                select(table.c.revision, table.c.phases).where(table.c.study_id == study_id).order_by(table.c.revision)
            ).all()
            for row in rows:
                _refuse_two_texts_of_one_version(StudyPhases.load_values(row.phases), phases)
            revision = rows[-1].revision + 1 if rows else 1
            values = {"study_id": study_id, "revision": revision, "phases": phases.model_dump(mode="json")}
            unit.insert(table, {**values, "set_at": now()})
            unit.log("researcher", "study.phases", study_id, revision=revision, digest=phases.digest())
            return phases

        return self._write(work)

    def study_phases(self, study_id: str) -> StudyPhases:
        """What the study shows now; the defaults where nothing was set."""
        table = study_tables.study_phases
        statement = (
            select(table.c.phases).where(table.c.study_id == study_id).order_by(table.c.revision.desc()).limit(1)
        )
        with self._read() as connection:
            kept = connection.scalar(statement)
        return StudyPhases() if kept is None else StudyPhases.load_values(kept)

    def add_agreement(self, agreement: Agreement) -> Agreement:
        """Keeps that a worker agreed to a text; agreeing to the same version again changes nothing."""
        checked_text(agreement.text, "The text agreed to")

        def work(unit: Unit) -> Agreement:
            table = study_tables.agreement
            one_row(unit.connection, tables.worker, agreement.worker_id, "worker", lock=True)
            one_row(unit.connection, tables.study, agreement.study_id, "study")
            known = unit.connection.execute(
                select(table).where(
                    table.c.worker_id == agreement.worker_id,
                    table.c.study_id == agreement.study_id,
                    table.c.kind == agreement.kind,
                    table.c.version == agreement.version,
                )
            )
            row = known.mappings().first()
            if row is not None:
                return Agreement(**row)
            unit.insert(table, row_of(agreement))
            unit.log(agreement.worker_id, f"{agreement.kind}.agreed", agreement.study_id, version=agreement.version)
            return agreement

        return self._write(work)

    def agreements(self, worker_id: str, study_id: str) -> list[Agreement]:
        """What a worker agreed to in a study, oldest first."""
        table = study_tables.agreement
        statement = (
            select(table).where(table.c.worker_id == worker_id, table.c.study_id == study_id).order_by(table.c.id)
        )
        with self._read() as connection:
            return [Agreement(**row) for row in connection.execute(statement).mappings()]

    def add_task_answers(self, answers: TaskAnswers) -> TaskAnswers:
        """Keeps what a worker answered before or after an own conversation; the latest of a kind counts."""
        for value in answers.answers.values():
            checked_text(str(value), "An answer")

        def work(unit: Unit) -> TaskAnswers:
            conversation = one_row(unit.connection, tables.conversation, answers.conversation_id, "conversation")
            if conversation["worker_id"] != answers.worker_id:
                raise StateError(f"Conversation {answers.conversation_id} is another worker's; answer about your own.")
            unit.insert(study_tables.task_answers, row_of(answers))
            unit.log(
                answers.worker_id, f"task.{answers.kind}", answers.conversation_id, answered=sorted(answers.answers)
            )
            return answers

        return self._write(work)

    def task_answers(self, conversation_id: str) -> dict[str, TaskAnswers]:
        """The latest answers on a conversation by their kind, 'goal' and 'closing'."""
        table = study_tables.task_answers
        statement = select(table).where(table.c.conversation_id == conversation_id).order_by(table.c.id)
        with self._read() as connection:
            return {row["kind"]: TaskAnswers(**row) for row in connection.execute(statement).mappings()}

    def tasks_done(self, worker_id: str, study_id: str) -> int:
        """Conversations of a worker in a study that have ended with at least one judged comparison."""
        conversation, comparison = tables.conversation, tables.comparison
        judged = select(comparison.c.id).where(
            comparison.c.conversation_id == conversation.c.id, comparison.c.state == ComparisonState.JUDGED
        )
        statement = select(func.count()).where(
            conversation.c.worker_id == worker_id,
            conversation.c.study_id == study_id,
            conversation.c.ended_at.is_not(None),
            judged.exists(),
        )
        with self._read() as connection:
            return connection.scalar(statement) or 0


def _refuse_two_texts_of_one_version(old: StudyPhases, new: StudyPhases) -> None:
    for version, texts in (
        ("consent_version", ("consent",)),
        ("instructions_version", ("instructions", "full_instructions")),
    ):
        if getattr(old, version) != getattr(new, version):
            continue
        for name in texts:
            if getattr(old, name) and getattr(old, name) != getattr(new, name):
                raise StateError(
                    f"The text {name!r} changed and {version} is {getattr(new, version)!r} as before; "
                    f"give the new text a new {version}, so that it stays known who agreed to which."
                )
