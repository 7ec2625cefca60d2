"""The report of a policy run: scores against samples and against sqrt(KL), and how the run behaved.

Knows the rows of metrics and the snapshots, no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from prefloop.report import Cell, Marker, Report, Series, Tile, line_plot
from prefloop.runs import RunFolder, write_json
from prefloop.schema import Interval
from prefloop.train.optimisation import StopAdvice, read_optimisation
from prefloop.train.optimisation_report import add_optimisation
from prefloop.train.snapshots import PolicySnapshot

_CURVES = (
    ("kl/k1", "KL to the reference", "KL (nats per reply)"),
    ("reply/tokens", "Reply length", "tokens per reply"),
    ("policy/entropy", "Entropy of the policy", "entropy (nats per token)"),
    ("policy/clip_fraction", "Clipped ratios", "share of response tokens"),
    ("value/explained_variance", "Explained variance of the value model", "share of the returns' variance"),
)


def write_report(
    folder: RunFolder, name: str, snapshots: Sequence[PolicySnapshot], best: PolicySnapshot, alarms: Sequence[str]
) -> Path:
    """Writes `folder/report.html` and the same facts as `report.json`; returns the page's path."""
    report = Report(
        f"Policy run {name}",
        f"{len(snapshots) - 1} snapshots of a policy trained against a preference model (PM) and watched by a PM that "
        "training never sees. Intervals are 95%, over evaluation prompts.",
    )
    start, gauges = snapshots[0], read_optimisation(folder.path, name)
    report.tiles(
        [
            deploy_tile(best, gauges.advice),
            Tile("held-out PM score", best.score_held_out, f"start {start.score_held_out.value:.2f}"),
            Tile("KL to the start", best.kl, "nats per reply"),
            Tile("alarms", len(alarms), tone="warning" if alarms else "good"),
        ]
    )
    if alarms:
        report.section("Alarms").bullets(alarms)
    add_optimisation(report, gauges, deployed=best.episodes)
    write_json(folder.path / "optimisation.json", gauges.model_dump(mode="json"))
    rows = [row for row in folder.metrics() if "score/train" in row]
    report.section("The run", "Each point is one batch of replies, as sampled in training.")
    for metric, title, label in _CURVES:
        points = [(row["episodes"], row[metric]) for row in rows if math.isfinite(row.get(metric, math.nan))]
        if points:
            line = Series(title, [float(x) for x, _ in points], [y for _, y in points])
            report.plot(line_plot([line], title=title, x_label="RL samples (episodes)", y_label=label))
    has_gold = any(snapshot.score_gold is not None for snapshot in snapshots)
    columns = {name: cell for name, cell in _COLUMNS.items() if has_gold or name != _GOLD_COLUMN}
    columns |= {f"{name} (watches)": partial(_watching, name=name) for name in start.scores_watching}
    report.section("Snapshots").table(
        list(columns), [[cell(snapshot) for cell in columns.values()] for snapshot in snapshots]
    )
    return report.write(folder.path / "report.html")


def deploy_tile(best: PolicySnapshot, advice: StopAdvice | None) -> Tile:
    """The held-out PM's choice, and a warning where the stop advice, which counts KL too, would stop elsewhere."""
    if advice is None or advice.at.episodes == best.episodes:
        return Tile("snapshot to deploy", f"{best.episodes:,} episodes", "best held-out PM score")
    note = f"best held-out PM score; but see where to stop: {advice.at.episodes:,}"
    return Tile("snapshot to deploy", f"{best.episodes:,} episodes", note, tone="warning")


def add_score_plots(report: Report, snapshots: Sequence[PolicySnapshot], best: PolicySnapshot) -> None:
    """Scores against RL samples and against sqrt(KL): the paper's Figure 4."""
    marker_label = "snapshot to deploy"
    report.plot(
        line_plot(
            _scores(snapshots, lambda snapshot: snapshot.episodes),
            title="Score against training",
            x_label="RL samples (episodes)",
            y_label="mean score above the start's",
            markers=[Marker(best.episodes, marker_label)],
        ),
        "Where the PM that is trained against goes on rising and the held-out one does not, the policy fools its PM. "
        "Each line begins at 0; two scorers' units may differ.",
    )
    report.plot(
        line_plot(
            _scores(sorted(snapshots, key=root_kl), root_kl),
            title="Score against distance",
            x_label="sqrt(KL to the reference) (square root of nats)",
            y_label="mean score above the start's",
            markers=[Marker(root_kl(best), marker_label)],
        ),
        "Early in training the score rises about linearly with sqrt(KL) (paper 4.3).",
    )


def root_kl(snapshot: PolicySnapshot) -> float:
    """sqrt of the KL estimate; an estimate below 0 counts as 0."""
    return math.sqrt(max(snapshot.kl.value, 0.0))


def _scores(snapshots: Sequence[PolicySnapshot], at: Callable[[PolicySnapshot], float]) -> list[Series]:
    """Each score less the start's, since two PMs' scores differ by a constant (paper B.2)."""
    place = min(range(len(snapshots)), key=lambda i: snapshots[i].episodes)

    def series(name: str, values: Sequence[Interval]) -> Series:
        start = values[place].value
        return Series(
            name,
            [float(at(snapshot)) for snapshot in snapshots],
            [value.value - start for value in values],
            [value.low - start for value in values],
            [value.high - start for value in values],
        )

    lines = [
        series("PM trained against", [snapshot.score_train for snapshot in snapshots]),
        series("held-out PM", [snapshot.score_held_out for snapshot in snapshots]),
    ]
    golden = [snapshot.score_gold for snapshot in snapshots if snapshot.score_gold is not None]
    if len(golden) == len(snapshots):
        lines.append(series("known preference", golden))
    return lines


def _watching(snapshot: PolicySnapshot, name: str) -> Cell:
    return snapshot.scores_watching.get(name)


_GOLD_COLUMN = "gold"
_COLUMNS: dict[str, Callable[[PolicySnapshot], Cell]] = {
    "episodes": lambda snapshot: snapshot.episodes,
    "train PM": lambda snapshot: snapshot.score_train,
    "held-out PM": lambda snapshot: snapshot.score_held_out,
    _GOLD_COLUMN: lambda snapshot: snapshot.score_gold,
    "KL (nats)": lambda snapshot: snapshot.kl if max(abs(snapshot.kl.low), snapshot.kl.high) > 1e-4 else 0,
    "tokens": lambda snapshot: snapshot.reply_tokens,
    "ended": lambda snapshot: snapshot.stopped,
}
"""Of the table of snapshots; gold is the known preference, where there is one."""
