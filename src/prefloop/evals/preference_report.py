"""The page of one preference model's evaluation. Knows the numbers of `PreferenceEvaluation`, not how they came."""

from __future__ import annotations

from pathlib import Path

from prefloop.evals.preference import PreferenceEvaluation, ScoredPair
from prefloop.report import (
    Reply,
    Report,
    Tile,
    Transcript,
    calibration_plot,
    format_number,
    histogram_plot,
    interval_plot,
)

__all__ = ["add_preference_sections", "write_preference_report"]


def write_preference_report(evaluation: PreferenceEvaluation, path: Path, name: str, data: str = "") -> Path:
    """One HTML page, and its numbers as JSON beside it. `name` is the model's, `data` says which pairs."""
    report = Report(
        f"Preference model {name}",
        f"Evaluated on {format_number(evaluation.pairs)} held-out comparisons from "
        f"{format_number(evaluation.conversations)} conversations{f' ({data})' if data else ''}. Intervals are 95%, "
        "clustered by conversation.",
    )
    add_preference_sections(report, evaluation)
    return report.write(path)


def add_preference_sections(report: Report, evaluation: PreferenceEvaluation) -> Report:
    """Accuracy, slices, calibration, score histogram and worst errors, as sections of any report."""
    report.section(
        "Accuracy", "A pair is right when the preferred reply has the higher score; equal scores count half."
    )
    report.tiles(_tiles(evaluation))
    if evaluation.dropped_pairs:
        report.paragraph(f"{evaluation.dropped_pairs} pairs were left out: longer than the model's window.", "warning")
    report.plot(
        interval_plot(
            {
                "this model": evaluation.accuracy,
                "always the longer reply": evaluation.longer_reply,
                "always the shorter reply": evaluation.shorter_reply,
            },
            title="Accuracy against the length baselines",
            x_label="accuracy",
            reference=0.5,
            reference_label="chance",
        )
    )
    report.section("Where it is good", "Accuracy by the properties of a comparison. Small slices have wide intervals.")
    for kind, values in evaluation.slices.items():
        if len(values) > 1:
            report.plot(
                interval_plot(
                    values,
                    title=f"Accuracy by {kind}",
                    x_label="accuracy",
                    reference=evaluation.accuracy.value,
                    reference_label="all pairs",
                )
            )
    single = [f"{kind}: {next(iter(values))}" for kind, values in evaluation.slices.items() if len(values) == 1]
    if single:
        report.paragraph(f"The same for all pairs: {'; '.join(single)}.")
    curve = [(one.mean_difference, one.accuracy) for one in evaluation.calibration.bins]
    report.section("Calibration", _temperature_sentence(evaluation))
    report.plot(calibration_plot({"this model": curve}, title="Accuracy against the score difference"))
    report.section("Scores", "Raw scores of both replies. Scores of different models have no common zero.")
    report.plot(
        histogram_plot(evaluation.scores_by_tranche, title="Scores by tranche", x_label="score (log-odds, no zero)")
    )
    report.section("Worst errors", "The pairs that the model has wrong with the most confidence.")
    if not evaluation.worst:
        return report.paragraph("There is none.")
    return report.transcripts([_transcript(number, item) for number, item in enumerate(evaluation.worst, 1)])


def _tiles(evaluation: PreferenceEvaluation) -> list[Tile]:
    tiles = [
        Tile("Accuracy", evaluation.accuracy),
        Tile("Above the better length baseline", evaluation.above_length),
        Tile("Loss", evaluation.loss, "nats; chance is 0.693"),
        Tile("Calibration error", evaluation.calibration.calibration_error),
    ]
    if evaluation.expected_accuracy is not None and evaluation.best_possible is not None:
        tiles.append(Tile("Expected accuracy", evaluation.expected_accuracy, "under the known choice probabilities"))
        tiles.append(Tile("Best possible", evaluation.best_possible, "of a scorer that knows them"))
    if evaluation.share_of_best is not None:
        tiles.append(Tile("Share of the way to the best", evaluation.share_of_best, "0 is chance, 1 the best possible"))
    return tiles


def _temperature_sentence(evaluation: PreferenceEvaluation) -> str:
    temperature = evaluation.temperature
    if temperature is None:
        return "No temperature is best: all pairs are right, or no more are right than wrong."
    kind = "calibrated within the interval"
    if temperature.low > 1:
        kind = "over-confident"
    elif temperature.high < 1:
        kind = "under-confident"
    low, value, high = (format_number(part) for part in (temperature.low, temperature.value, temperature.high))
    return f"The fitted temperature is {value} [{low}, {high}]: the model is {kind}."


def _transcript(number: int, item: ScoredPair) -> Transcript:
    place = item.pair.comparison_id or f"turn {item.pair.turn}"
    return Transcript(
        title=f"{number}. {place}: difference {format_number(item.difference)}",
        context=item.pair.context,
        replies=[
            Reply("Preferred by the person", item.pair.chosen, f"score {format_number(item.score_chosen)}"),
            Reply("Preferred by the model", item.pair.rejected, f"score {format_number(item.score_rejected)}"),
        ],
    )
