"""Pages of the gauges: scores against samples and sqrt(KL), their fits, where PMs part, where to stop (paper 4.2, 4.3).

Draws what `optimisation` found; computes nothing and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefloop.report import Cell, Marker, Report, Series, Tile, line_plot
from prefloop.report.pages import Tone
from prefloop.stats import RiseFit
from prefloop.train.gauges import HELD_OUT, TRAIN
from prefloop.train.optimisation import FORMS, Optimisation, Place, ScorerTrack

_ROOT_KL = "sqrt(KL to the start) (square root of nats)"
_LABELS = {TRAIN: "PM trained against", HELD_OUT: "held-out PM", "gold": "known preference"}


def write_optimisation_report(runs: Sequence[Optimisation], path: Path) -> Path:
    """One page on one or several runs, and the same facts as JSON beside it; returns the page's path."""
    report = Report(
        "Over-optimisation: " + ", ".join(run.name for run in runs),
        "Scores of policies along their distance from the start, by the PM that each is trained against and by PMs "
        "that only watch. Intervals are 95%, over evaluation prompts; those of fits take snapshots as independent.",
    )
    if len(runs) > 1:
        add_comparison(report, runs)
    for run in runs:
        add_optimisation(report, run, heading=run.name if len(runs) > 1 else "")
    return report.write(path, {"runs": [run.model_dump(mode="json") for run in runs]})


def add_optimisation(report: Report, run: Optimisation, heading: str = "", deployed: int | None = None) -> None:
    """The sections of one run.

    Args:
        deployed: the episodes of the snapshot that is to be deployed; it is marked beside the place to stop.
    """

    def titled(title: str) -> str:
        return f"{heading}: {title}" if heading else title[0].upper() + title[1:]

    report.section(titled("where to stop"))
    if run.advice is not None:
        stop = run.advice
        tone: Tone = "plain" if stop.is_end else "warning"
        report.tiles(
            [
                Tile("stop at", f"{stop.at.episodes:,} episodes", "by held-out PMs alone", tone),
                Tile("sqrt(KL) there", stop.at.root_kl, "square root of nats"),
                Tile("episodes per unit of sqrt(KL)", run.samples_per_root_kl, "over the whole run"),
            ]
        )
    if said := [*(run.advice.evidence if run.advice else ()), *run.notes]:
        report.bullets(said)
    distances = [place.root_kl for place in run.places]
    marked = _marked(run, deployed)
    report.section(
        titled("scores along the run"),
        "Where the PM that is trained against goes on rising and held-out ones do not, the policy fools its PM. Each "
        "line begins at 0; two scorers' units may differ. Early in training a score rises about linearly with sqrt(KL) "
        "(paper 4.3).",
    )
    for against, x, x_label, markers in (
        (
            "training",
            [float(place.episodes) for place in run.places],
            "RL samples (episodes)",
            [Marker(place.episodes, text) for text, place in marked],
        ),
        ("distance", distances, _ROOT_KL, [Marker(place.root_kl, text) for text, place in marked]),
    ):
        report.plot(
            line_plot(
                [_rises(track, x) for track in run.scorers],
                title=titled(f"rise of the scores against {against}"),
                x_label=x_label,
                y_label="mean score above the start's",
                markers=markers,
            )
        )
    report.section(
        titled("fits"),
        "Rises over d = sqrt(KL). The linear part is the longest beginning without a bend. Peaks are printed where the "
        "curve turns with 95% confidence.",
    )
    report.table(
        ["scorer", "role", "slope of the linear part", "R²", "up to d =", "parts from the trained PM at"],
        [_line_row(track) for track in run.scorers],
    )
    for form in FORMS:
        found = [(label(track), fit) for track in run.scorers for fit in track.forms if fit.form == form]
        curves = {name: _fitted(name, fit, distances) for name, fit in found}
        if curves:
            report.plot(
                line_plot(
                    [_points(track, distances) for track in run.scorers if label(track) in curves],
                    title=titled(f"rises fitted by {form}"),
                    x_label=_ROOT_KL,
                    y_label="mean score above the start's",
                    fitted=curves,
                )
            )
    report.table(
        ["scorer", "form", "a", "b", "R²", "peak at d =", "rise there", "within the run"],
        [
            [
                label(track),
                fit.form,
                fit.a,
                fit.b,
                fit.r_squared,
                fit.peak_root_kl,
                fit.peak_rise,
                "" if fit.peak_root_kl is None else "yes" if fit.peak_is_seen else "no, beyond it",
            ]
            for track in run.scorers
            for fit in track.forms
        ],
    )


def add_comparison(report: Report, runs: Sequence[Optimisation]) -> None:
    """Several runs side by side: distance against samples, and held-out rise against distance."""
    report.section("The runs beside each other")
    report.table(
        [
            "run",
            "episodes",
            "sqrt(KL) at the end",
            "episodes per unit of sqrt(KL)",
            "stop at (episodes)",
            "sqrt(KL) there",
        ],
        [
            [
                run.name,
                run.places[-1].episodes,
                run.places[-1].root_kl,
                run.samples_per_root_kl,
                None if run.advice is None else run.advice.at.episodes,
                None if run.advice is None else run.advice.at.root_kl,
            ]
            for run in runs
        ],
    )
    distances = [
        Series(run.name, [float(place.episodes) for place in run.places], [place.root_kl for place in run.places])
        for run in runs
    ]
    report.plot(
        line_plot(distances, title="Distance against training", x_label="RL samples (episodes)", y_label=_ROOT_KL),
        "What a unit of sqrt(KL) costs in samples: the paper leaves open what it depends on.",
    )
    for name in dict.fromkeys(track.name for run in runs for track in run.scorers):
        found = [(run, track) for run in runs if (track := run.scorer(name)) is not None]
        report.plot(
            line_plot(
                [_rises(track, [place.root_kl for place in run.places], run.name) for run, track in found],
                title=f"{_LABELS.get(name, name)}: rise against distance",
                x_label=_ROOT_KL,
                y_label="mean score above the start's",
            )
        )


def label(track: ScorerTrack) -> str:
    """What a scorer is called on a page."""
    return _LABELS.get(track.name, f"{track.name} (watches)")


def _marked(run: Optimisation, deployed: int | None) -> list[tuple[str, Place]]:
    """The places that a plot marks: where to stop, and the snapshot to deploy."""
    stop = None if run.advice is None else run.advice.at
    best = next((place for place in run.places if place.episodes == deployed), None)
    if stop is not None and stop == best:
        return [("stop here: the snapshot to deploy", stop)]
    return [(text, at) for text, at in (("stop here", stop), ("snapshot to deploy", best)) if at is not None]


def _fitted(name: str, fit: RiseFit, distances: Sequence[float]) -> Series:
    d = np.linspace(0.0, max(distances), 60)
    return Series(f"{name}: fit, R² {fit.r_squared:.2f}", d.tolist(), fit.rises(d).tolist())


def _points(track: ScorerTrack, x: Sequence[float]) -> Series:
    """Without bands, which would hide the curves that go through the points; the plots before have them."""
    return Series(label(track), x, [rise.value for rise in track.rises])


def _rises(track: ScorerTrack, x: Sequence[float], name: str = "") -> Series:
    """In order of x: the distance may shrink for a while, and a line that runs back cannot be read."""
    order = sorted(range(len(x)), key=lambda place: x[place])
    rises = [track.rises[place] for place in order]
    has_band = bool(rises[-1].n)
    return Series(
        name or label(track),
        [x[place] for place in order],
        [rise.value for rise in rises],
        [rise.low for rise in rises] if has_band else None,
        [rise.high for rise in rises] if has_band else None,
    )


def _line_row(track: ScorerTrack) -> list[Cell]:
    line, parted = track.linear, track.parted
    return [
        label(track),
        track.role,
        None if line is None else line.fit.slope,
        None if line is None else line.fit.r_squared,
        None if line is None else line.until_root_kl,
        "" if parted is None else f"{parted.episodes:,} episodes, d = {parted.root_kl:.2f}",
    ]
