"""What workers tell the researchers beside their judgments: reports on a pair or a study. Knows nothing of pages."""

from __future__ import annotations

from sqlalchemy import select

from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import one_row, row_of
from prefloop.store.turn_tables import worker_report
from prefloop.store.views import WorkerReport


class Reports(Database):
    """The part of the store that keeps workers' reports."""

    def add_report(self, report: WorkerReport) -> WorkerReport:
        """Keeps a report; NotFoundError where its worker, study or comparison does not exist."""
        checked_text(report.text, "The report")

        def work(unit: Unit) -> WorkerReport:
            one_row(unit.connection, tables.worker, report.worker_id, "worker")
            one_row(unit.connection, tables.study, report.study_id, "study")
            if report.comparison_id is not None:
                one_row(unit.connection, tables.comparison, report.comparison_id, "comparison")
            unit.insert(worker_report, row_of(report))
            unit.log(report.worker_id, "report.added", report.comparison_id or report.study_id, kind=report.kind)
            return report

        return self._write(work)

    def reports(self, study_id: str, before: str | None = None, limit: int = 100) -> list[WorkerReport]:
        """Reports of a study, newest first; those older than the id `before` where given."""
        statement = select(worker_report).where(worker_report.c.study_id == study_id)
        if before is not None:
            statement = statement.where(worker_report.c.id < before)
        with self._read() as connection:
            rows = connection.execute(statement.order_by(worker_report.c.id.desc()).limit(limit))
            return [WorkerReport(**row) for row in rows.mappings()]
