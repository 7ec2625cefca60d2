"""The page of scans: accuracy against data, size, mix or weight, transfer matrices. Knows the numbers of `scans`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefloop.evals.scans import ALL, ScanEvaluation, ScanPoint, x_of
from prefloop.report import (
    Cell,
    Report,
    Series,
    calibration_plot,
    curve_plot,
    format_interval,
    format_number,
    interval_plot,
)
from prefloop.schema import Interval

__all__ = ["write_scan_report"]

_X_LABELS = {
    "training_pairs": "comparisons trained on",
    "start": "parameters",
    "red_team_share": "share of red-team comparisons in training",
    "red_team_weight": "lambda: weight of red-team comparisons",
}
_LOGARITHMIC = ("training_pairs", "start", "red_team_weight", "learning_rate")


def write_scan_report(scans: Mapping[str, ScanEvaluation], path: Path, title: str, notes: Sequence[str] = ()) -> Path:
    """One page with a section a scan, and its numbers as JSON beside it."""
    first = next((scan for scan in scans.values() if scan.points), next(iter(scans.values())))
    report = Report(title, f"{_trainings(scans)} preference models. {_interval_sentence(first)}")
    for note in notes:
        report.paragraph(note)
    for name, scan in scans.items():
        report.section(name, _about(scan))
        if scan.failed:
            _failures(report, scan)
        if not scan.points:
            continue
        if all(x_of(scan.setting, point) is not None for point in scan.points):
            _curve(report, scan)
        _matrix(report, scan)
        if scan.calibration is not None:
            _scores(report, scan)
    return report.write(path)


def _trainings(scans: Mapping[str, ScanEvaluation]) -> str:
    return format_number(sum(_planned(scan) - len(scan.failed) for scan in scans.values()))


def _planned(scan: ScanEvaluation) -> int:
    values = {point.value for point in scan.points} | {one.value for one in scan.failed}
    return len(values) * len(scan.seeds) * scan.folds


def _interval_sentence(scan: ScanEvaluation) -> str:
    if scan.is_over_seeds:
        seeds = len(scan.seeds)
        return f"Intervals are 95%, Student's t over {seeds} seeds, each with judgments and held-out pairs of its own."
    return "Intervals are 95%, clustered by conversation; every model is tested on conversations that it has not seen."


def _about(scan: ScanEvaluation) -> str:
    seeds = ", ".join(map(str, scan.seeds))
    return (
        f"Accuracy on held-out pairs by {scan.setting}, seed{'s' if len(scan.seeds) > 1 else ''} {seeds}, "
        f"{scan.folds} fold{'s' if scan.folds > 1 else ''}. Below 0.5 a model prefers what people did not."
    )


def _failures(report: Report, scan: ScanEvaluation) -> None:
    count = len(scan.failed)
    report.paragraph(
        f"{count} of {_planned(scan)} trainings failed and stand in no number below: where some seeds of a value are "
        "left, its accuracy is that of the ones that went well.",
        "warning",
    )
    rows: list[list[Cell]] = [[str(one.value), one.seed, one.fold, one.reason] for one in scan.failed]
    report.table([scan.setting, "seed", "fold", "reason"], rows, "Trainings that failed")


def _curve(report: Report, scan: ScanEvaluation) -> None:
    kinds = [kind for kind in scan.points[0].accuracy if kind == ALL or " " not in kind]
    places = [x_of(scan.setting, point) for point in scan.points]
    curves = {
        kind: [
            (x, p.accuracy[kind])
            for x, p in zip(places, scan.points, strict=True)
            if x is not None and kind in p.accuracy
        ]
        for kind in kinds
    }
    lines: list[Series] = []
    caption = f"No line: {scan.not_fitted}" if scan.not_fitted else ""
    if scan.fit is not None:
        band = scan.fit.band
        lines.append(
            Series(
                "fitted line of all, with its band",
                [one.x for one in band],
                [one.y.value for one in band],
                [one.y.low for one in band],
                [one.y.high for one in band],
            )
        )
        caption = _fit_sentence(scan)
    is_near_chance = min(value.low for points in curves.values() for _, value in points) < 0.55
    label = _X_LABELS.get(scan.setting, scan.setting)
    report.plot(
        curve_plot(
            curves,
            title=f"Accuracy against {label}",
            x_label=label,
            y_label="accuracy (share of pairs)",
            reference=0.5 if is_near_chance else None,
            reference_label="chance" if is_near_chance else "",
            log_x=scan.setting in _LOGARITHMIC and all(x is not None and x > 0 for x in places),
            lines=lines,
        ),
        caption,
    )


def _fit_sentence(scan: ScanEvaluation) -> str:
    assert scan.fit is not None
    slope = scan.fit.line.slope
    over = (
        f"Slope and band are Student's t over the lines of {slope.clusters} seeds."
        if scan.fit.over == "seeds"
        else "All are tested on the same pairs, so slope and band come from resampled conversations: they hold which "
        "pairs were held out, and not what other training pairs would change; for that take several seeds with "
        "judgments of their own."
    )
    doubled = slope.model_copy(update={n: getattr(slope, n) * math.log(2) for n in ("value", "low", "high")})
    return (
        f"Accuracy rises by {format_interval(doubled)} with each doubling, by {format_number(slope.value)} with each "
        f"factor e (R squared {format_number(scan.fit.line.r_squared)}). The paper's models rise by 0.015 a factor e "
        f"of data and 0.007 of size (A.1). {over}"
    )


def _matrix(report: Report, scan: ScanEvaluation) -> None:
    kinds = list(dict.fromkeys(kind for point in scan.points for kind in point.accuracy))
    rows = [
        [str(p.value), p.training_pairs, p.parameters, *(p.accuracy.get(kind) for kind in kinds), p.loss]
        for p in scan.points
    ]
    report.table(
        [scan.setting, "pairs", "parameters", *kinds, "loss"], rows, "Accuracy by value and kind of comparison"
    )
    if not any(point.words for point in scan.points):
        return
    for heading, field in (("TF-IDF regression on the same training pairs", "words"), ("above it", "above_words")):
        table = [[str(p.value), *(_of(p, field).get(kind) for kind in kinds)] for p in scan.points]
        report.table([scan.setting, *kinds], table, f"Accuracy, {heading}")
    if any(isinstance(point.value, str) for point in scan.points):
        for kind in kinds:
            values = {f"{p.value}": p.accuracy[kind] for p in scan.points if kind in p.accuracy}
            values |= {f"{p.value}, TF-IDF": p.words[kind] for p in scan.points if kind in p.words}
            report.plot(
                interval_plot(
                    values, title=f"Accuracy on {kind}", x_label="accuracy", reference=0.5, reference_label="chance"
                )
            )


def _of(point: ScanPoint, field: str) -> Mapping[str, Interval]:
    values: Mapping[str, Interval] = getattr(point, field)
    return values


def _scores(report: Report, scan: ScanEvaluation) -> None:
    assert scan.calibration is not None
    last = str(scan.points[-1].value)
    curve = [(one.mean_difference, one.accuracy) for one in scan.calibration.bins]
    error = format_interval(scan.calibration.calibration_error)
    report.plot(
        calibration_plot({f"{scan.setting} {last}": curve}, title=f"Calibration at {scan.setting} {last}"),
        f"Calibration error {error}. Held-out pairs of all seeds together, clustered by conversation.",
    )
    if scan.above_threshold:
        report.plot(
            curve_plot(
                {f"{scan.setting} {last}": [(one.threshold, one.accuracy) for one in scan.above_threshold]},
                title=f"Accuracy among high scores at {scan.setting} {last}",
                x_label="both scores at least this far above the mean score (log-odds)",
                y_label="accuracy (share of pairs)",
                reference=0.5,
                reference_label="chance",
            )
        )
