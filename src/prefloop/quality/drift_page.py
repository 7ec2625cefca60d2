"""The part of the quality page on change: by week, study and snapshot. Knows nouns, no store."""

from __future__ import annotations

from prefloop.quality.drift import Drift, DriftPart
from prefloop.report import Cell, Report, curve_plot

_MEASURES = {
    "agreement": "workers agree",
    "side_a": "clicks on A",
    "longer": "longer preferred",
    "weakest": "middle grades",
}


def add_drift(page: Report, drift: Drift) -> None:
    """Adds the section, if there are two parts of any kind."""
    kinds = {"week": drift.weeks, "study": drift.studies, "snapshot": drift.snapshots}
    shown = {by: parts for by, parts in kinds.items() if len(parts) > 1}
    page.section(
        "Drift",
        "The same numbers by week, study and snapshot. Snapshots change the task, so read them beside the weeks.",
    )
    if not shown:
        page.paragraph("All judgments are of one week, one study and no two snapshots; nothing is known of change.")
        return
    if "week" in shown:
        curves = {
            name: [
                (float(number), interval)
                for number, part in enumerate(drift.weeks, start=1)
                if (interval := getattr(part, measure).interval) is not None
            ]
            for measure, name in _MEASURES.items()
        }
        drawn = {name: points for name, points in curves.items() if points}
        if drawn:
            title = "Judging by week"
            page.plot(curve_plot(drawn, title=title, x_label="week of collection", y_label="share", reference=0.5))
    for by, parts in shown.items():
        last = ["its reply won"] if by == "snapshot" else []
        page.table(
            [by, "judgments", *_MEASURES.values(), "decision (s)", *last],
            [_row(part, bool(last)) for part in parts],
            f"By {by}",
        )


def _row(part: DriftPart, is_snapshot: bool) -> list[Cell]:
    measures = [getattr(part, measure).interval for measure in _MEASURES]
    last = [part.preferred.interval] if is_snapshot else []
    return [part.name, part.judgments, *measures, part.decision_seconds.interval, *last]
