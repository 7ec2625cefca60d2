"""The page of preference models' evaluations. Knows the numbers of `PreferenceEvaluation`, not how they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefloop.evals.preference import PreferenceEvaluation, ScoredPair
from prefloop.evals.preference_difference import PreferenceDifference
from prefloop.evals.slices import MODE_AND_TRANCHE
from prefloop.report import (
    Reply,
    Report,
    Tile,
    Transcript,
    calibration_plot,
    curve_plot,
    format_number,
    histogram_plot,
    interval_plot,
)
from prefloop.schema import Interval

__all__ = ["add_preference_sections", "write_preference_report", "write_preference_reports"]


def write_preference_report(evaluation: PreferenceEvaluation, path: Path, name: str, data: str = "") -> Path:
    """One HTML page, and its numbers as JSON beside it. `name` is the model's, `data` says which pairs."""
    return write_preference_reports({name: evaluation}, path, data)


def write_preference_reports(
    evaluations: Mapping[str, PreferenceEvaluation],
    path: Path,
    data: str = "",
    notes: Sequence[str] = (),
    differences: Sequence[PreferenceDifference] = (),
) -> Path:
    """One page for one or several models on the same comparisons; several are compared before each is shown alone.

    Args:
        notes: sentences of warning that stand first.
        differences: of every two of the models.
    """
    first = next(iter(evaluations.values()))
    names = ", ".join(evaluations)
    report = Report(
        f"Preference model{'s' if len(evaluations) > 1 else ''} {names}",
        f"Evaluated on {format_number(first.pairs)} held-out comparisons from "
        f"{format_number(first.conversations)} conversations{f' ({data})' if data else ''}. Intervals are 95%, "
        "clustered by conversation.",
    )
    for note in notes:
        report.paragraph(note, "warning")
    if len(evaluations) > 1:
        _comparison(report, evaluations)
        _differences(report, differences)
    for name, evaluation in evaluations.items():
        add_preference_sections(report, evaluation, f"{name}: " if len(evaluations) > 1 else "")
    return report.write(path)


def _comparison(report: Report, evaluations: Mapping[str, PreferenceEvaluation]) -> None:
    """The transfer matrix, and the models' calibration in one plot."""
    report.section(
        "Transfer",
        "Accuracy of each model (row) on each kind of comparison (column). Below 0.5 a model prefers what people did "
        "not: with training on one mode alone that is usual on the other (paper 5.1).",
    )
    by = "group" if any("group" in one.slices for one in evaluations.values()) else MODE_AND_TRANCHE
    kinds = list(dict.fromkeys(name for one in evaluations.values() for name in one.slices.get(by, ())))
    rows = [
        [name, one.accuracy, *(one.slices.get(by, {}).get(kind) for kind in kinds)] for name, one in evaluations.items()
    ]
    report.table(["model", "all", *kinds], rows, "Accuracy by model and kind of comparison")
    for kind in kinds if len(kinds) > 1 else []:
        values = {name: value for name, one in evaluations.items() if (value := one.slices[by].get(kind))}
        report.plot(
            interval_plot(
                values, title=f"Accuracy on {kind}", x_label="accuracy", reference=0.5, reference_label="chance"
            )
        )
    curves = {
        name: [(one.mean_difference, one.accuracy) for one in evaluation.calibration.bins]
        for name, evaluation in evaluations.items()
    }
    report.plot(calibration_plot(curves, title="Accuracy against the score difference, all models"))


def _differences(report: Report, differences: Sequence[PreferenceDifference]) -> None:
    if not differences:
        return
    report.section(
        "Differences",
        "Taken comparison by comparison, so that what both models get wrong cancels out: an interval that leaves 0 out "
        "tells the two apart, also where those of their accuracies overlap.",
    )
    kinds = list(differences[0].accuracy)
    rows: list[list[str | Interval]] = [
        [f"{one.one} less {one.other}", *(one.accuracy[kind] for kind in kinds), one.loss] for one in differences
    ]
    report.table(["models", *kinds, "loss"], rows, "Difference in accuracy by kind of comparison, and in loss (nats)")


def add_preference_sections(report: Report, evaluation: PreferenceEvaluation, before: str = "") -> Report:
    """Accuracy, slices, calibration, scores and worst errors, as sections of any report; titles begin with `before`."""
    report.section(
        f"{before}Accuracy", "A pair is right when the preferred reply has the higher score; equal scores count half."
    )
    report.tiles(_tiles(evaluation))
    if evaluation.dropped_pairs:
        report.paragraph(f"{evaluation.dropped_pairs} pairs were left out: longer than the model's window.", "warning")
    if evaluation.dropped_turns:
        report.paragraph(f"{evaluation.dropped_turns} oldest turns of pairs were left out to fit them into the window.")
    report.plot(
        interval_plot(
            _beside(evaluation),
            title="Accuracy beside what is known without the model",
            x_label="accuracy",
            reference=0.5,
            reference_label="chance",
        )
    )
    for sentence in evaluation.unknown:
        report.paragraph(sentence)
    report.section(
        f"{before}Where it is good", "Accuracy by the properties of a comparison. Small slices have wide intervals."
    )
    for kind, values in evaluation.slices.items():
        if _is_worth_a_plot(kind, evaluation):
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
    report.section(f"{before}Calibration", _temperature_sentence(evaluation))
    report.plot(calibration_plot({"this model": curve}, title="Accuracy against the score difference"))
    report.section(f"{before}Scores", "Raw scores of both replies. Scores of different models have no common zero.")
    report.plot(
        histogram_plot(
            evaluation.scores_by_tranche,
            title="Scores by tranche" if "tranche" in evaluation.slices else "Scores",
            x_label="score (log-odds, no zero)",
        )
    )
    if evaluation.differences:
        report.plot(
            histogram_plot(
                {"all pairs": evaluation.differences},
                title="Score differences",
                x_label="score of the preferred reply less that of the other (log-odds)",
            ),
            "What stands left of 0 is wrong.",
        )
    if evaluation.above_threshold:
        _thresholds(report, evaluation)
    report.section(f"{before}Worst errors", "The pairs that the model has wrong with the most confidence.")
    if not evaluation.worst:
        return report.paragraph("There is none.")
    return report.transcripts([_transcript(number, item) for number, item in enumerate(evaluation.worst, 1)])


def _thresholds(report: Report, evaluation: PreferenceEvaluation) -> None:
    report.plot(
        curve_plot(
            {"this model": [(one.threshold, one.accuracy) for one in evaluation.above_threshold]},
            title="Accuracy among high scores",
            x_label="both scores at least this far above the mean score (log-odds)",
            y_label="accuracy (share of pairs)",
            reference=0.5,
            reference_label="chance",
        ),
        "Training a policy moves replies to high scores. Where accuracy falls to the right, the model knows least "
        "there (paper 3.3).",
    )


def _is_worth_a_plot(kind: str, evaluation: PreferenceEvaluation) -> bool:
    """A property with several values; both mode and tranche only where that tells more than each alone."""
    values = evaluation.slices[kind]
    if kind == MODE_AND_TRANCHE:
        return len(values) > max(len(evaluation.slices[part]) for part in ("mode", "tranche"))
    return len(values) > 1


def _beside(evaluation: PreferenceEvaluation) -> dict[str, Interval]:
    """The model's accuracy, what it must beat, and what nobody is expected to beat."""
    shown = {
        "this model": evaluation.accuracy,
        "always the longer reply": evaluation.longer_reply,
        "always the shorter reply": evaluation.shorter_reply,
    }
    if evaluation.words is not None:
        shown["TF-IDF regression"] = evaluation.words
    if (agreement := evaluation.agreement) is not None:
        if agreement.model is not None:
            shown["this model, judged twice"] = agreement.model
        shown |= {"a second worker": agreement.two_workers, "ceiling by agreement": agreement.ceiling}
    return shown


def _tiles(evaluation: PreferenceEvaluation) -> list[Tile]:
    tiles = [
        Tile("Accuracy", evaluation.accuracy),
        Tile("Above the better length baseline", evaluation.above_length),
        Tile("Loss", evaluation.loss, "nats; chance is 0.693"),
        Tile("Calibration error", evaluation.calibration.calibration_error, _plain_error(evaluation)),
    ]
    if evaluation.above_words is not None:
        tiles.insert(2, Tile("Above the TF-IDF regression", evaluation.above_words, "trained on the training pairs"))
    if evaluation.expected_accuracy is not None and evaluation.best_possible is not None:
        tiles.append(Tile("Expected accuracy", evaluation.expected_accuracy, "under the known choice probabilities"))
        tiles.append(Tile("Best possible", evaluation.best_possible, "of a scorer that knows them"))
    if evaluation.share_of_best is not None:
        tiles.append(Tile("Share of the way to the best", evaluation.share_of_best, "0 is chance, 1 the best possible"))
    return tiles


def _plain_error(evaluation: PreferenceEvaluation) -> str:
    plain = evaluation.calibration.plain_error
    return "" if plain is None else f"{format_number(plain)} with what noise adds"


def _temperature_sentence(evaluation: PreferenceEvaluation) -> str:
    temperature = evaluation.temperature
    if temperature is None:
        return "No temperature is best: all pairs are right, or no more are right than wrong."
    said = "the model is calibrated within the interval"
    if temperature.low > 1:
        said = "the model is over-confident"
    elif temperature.high < 1:
        said = "the model is under-confident"
    elif temperature.high > 10 * temperature.low:
        said = "these comparisons cannot tell whether the model is calibrated"
    low, value, high = (format_number(part) for part in (temperature.low, temperature.value, temperature.high))
    return f"The fitted temperature is {value} [{low}, {high}]: {said}."


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
