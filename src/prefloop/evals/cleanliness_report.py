"""The page of what cleanliness is worth. Knows its numbers and the page builder, no model and no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.evals.cleanliness import Cleanliness, Treatment
from prefloop.report import Cell, Reply, Report, Transcript, format_interval, interval_plot
from prefloop.schema import Message

__all__ = ["write_cleanliness_report"]

_SHOWN = 12


def write_cleanliness_report(
    found: Cleanliness, suspected: Sequence[Mapping[str, Any]], path: Path, title: str
) -> Path:
    """Writes the page and its numbers as JSON beside it.

    Args:
        suspected: the pairs whose labels an out-of-fold PM doubts most, worst first.

    Errors:
        UserError: the folder cannot be written.
    """
    page = Report(
        title,
        f"PMs trained on the same comparisons with more or fewer wrong labels, tested on the same {found.held_out} "
        f"held-out pairs; {len(found.seeds)} seed{'' if len(found.seeds) == 1 else 's'}.",
    )
    _treatments(page, found.treatments)
    _curve(page, found)
    if found.suspicions:
        page.section("Suspected pairs", "Those that a PM of the other folds gives the least chance of being right.")
        page.table(
            ["labels flipped", "suspected", "of these flipped", "of the flipped suspected"],
            [(f"{one.flipped:.0%}", one.suspected, one.precision, one.recall) for one in found.suspicions],
            "One row a seed",
        )
    if suspected:
        page.section("Pairs to read", "Labels as they came that an out-of-fold PM doubts most. The PM may be wrong.")
        page.transcripts([_transcript(number, one) for number, one in enumerate(suspected[:_SHOWN], start=1)])
    return page.write(path, data={**found.model_dump(mode="json"), "suspected_pairs": list(suspected)})


def _treatments(page: Report, treatments: Sequence[Treatment]) -> None:
    page.section("What each treatment is worth")
    page.plot(
        interval_plot({one.name: one.accuracy for one in treatments}, title="Held-out accuracy", x_label="accuracy"),
        "Intervals are clustered by conversation; differences, below, are taken pair by pair and so much surer.",
    )
    rows: list[list[Cell]] = [
        [one.name, one.pairs, one.accuracy, one.beside if one.change else "", one.change, one.predicted]
        for one in treatments
    ]
    columns = ["treatment", "pairs", "accuracy", "beside", "change", "predicted"]
    page.table(columns, rows, "Realised and predicted change")
    if any(one.gold for one in treatments):
        rows = [[one.name, one.gold, one.gold_change] for one in treatments]
        page.table(["treatment", "value of the replies it picks", "change"], rows, "Known preference of the tiny world")


def _curve(page: Report, found: Cleanliness) -> None:
    if found.curve is None:
        page.paragraph(f"Nothing could be predicted. {found.curve_unknown}")
        return
    page.paragraph(
        f"Accuracy rises by {format_interval(found.curve.slope)} for each unit of ln(training pairs). A label flipped "
        "with chance e carries (1 - 2e)^2 of the information of a right one; the predictions follow from these two."
    )


def _transcript(number: int, one: Mapping[str, Any]) -> Transcript:
    return Transcript(
        f"{number}. Chance of the label {one['chance_of_label']:.2g}",
        [Message.model_validate(message) for message in one["context"]],
        [Reply("Preferred", one["chosen"]), Reply("The other", one["rejected"])],
    )
