"""The page of a best-of-n evaluation. Knows its numbers, not how they came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.evals.best_of import BestOfEvaluation
from prefloop.report import Report, Tile, curve_plot, format_number, interval_plot

__all__ = ["write_best_of_report"]

KL_IS_A_BOUND = (
    "log n - (n-1)/n bounds the KL to the sampled model from above and equals it only where no two replies have the "
    "same score; a small model repeats itself, so its true KL is less. log(N/k), what keeping the k best of N costs, "
    "is the paper's measure (4.3)."
)


def write_best_of_report(
    evaluation: BestOfEvaluation, path: Path, model: str, data: str = "", notes: Sequence[str] = ()
) -> Path:
    """One HTML page, and its numbers as JSON beside it. `notes` are sentences that a reader must know."""
    largest = evaluation.best[-1]
    report = Report(
        f"Best of n from {model}",
        f"{format_number(evaluation.samples)} replies to each of {format_number(evaluation.prompts)} prompts"
        f"{f' ({data})' if data else ''}, picked by {evaluation.picker}. Every point is estimated without bias from "
        "the same replies. Intervals are 95%, over prompts.",
    )
    report.tiles(
        [
            Tile(f"best of {largest.n}, {judge}", value, f"best of 1: {evaluation.best[0].scores[judge].value:.2f}")
            for judge, value in largest.scores.items()
        ]
    )
    if said := [*notes, *(f"Replies of {name} are {shown}." for name, shown in evaluation.shown.items())]:
        report.bullets(said)
    report.section("Scores", KL_IS_A_BOUND)
    for judge in largest.scores:
        points = [(point.n, point.scores[judge]) for point in evaluation.best]
        report.plot(
            curve_plot(
                {judge: points},
                title=f"Score by {judge} of the best of n",
                x_label="n",
                y_label=f"mean score by {judge}",
                log_x=True,
            ),
            "The picker's own score rises with n by construction; a judge's falls where the picker is fooled."
            if judge == evaluation.picker
            else "",
        )
    report.plot(
        curve_plot(
            {judge: [(point.n, point.win_rates[judge]) for point in evaluation.best] for judge in largest.win_rates},
            title="Win rate of the best of n against one other reply",
            x_label="n",
            y_label="share of prompts, ties half",
            reference=0.5,
            log_x=True,
        ),
        "At most n/(n+1) for the picker itself.",
    )
    judges = list(largest.scores)
    report.table(
        ["n", "KL bound (nats)", *judges, *(f"wins by {judge}" for judge in judges)],
        [
            [point.n, point.kl, *(point.scores[j] for j in judges), *(point.win_rates[j] for j in judges)]
            for point in evaluation.best
        ],
        "Best of n",
    )
    report.table(
        ["kept", "log(N/k) (nats)", *judges],
        [[f"{point.k} of {point.n}", point.kl, *(point.scores[j] for j in judges)] for point in evaluation.top],
        "The k best of all",
    )
    if evaluation.policies:
        report.section(
            "Policies beside it",
            f"One reply of each policy to the same prompts, less the best of {evaluation.policies[0].n}: above 0 the "
            "policy is better by that judge. KL is measured for the policies (k1; left out where nobody knows how "
            "likely a shown reply is) and bounded for best of n, so the two columns of nats are not the same measure.",
        )
        report.table(
            ["policy", "KL (nats)", *(f"{j}: score" for j in judges), *(f"{j}: less best of n" for j in judges)],
            [
                [one.name, one.kl, *(one.scores[j] for j in judges), *(one.differences[j] for j in judges)]
                for one in evaluation.policies
            ],
            "Scores",
        )
        report.plot(
            interval_plot(
                {f"{one.name}, by {judge}": one.win_rates[judge] for one in evaluation.policies for judge in judges},
                title=f"Win rate of one reply against the best of {evaluation.policies[0].n}",
                x_label="share of prompts, ties half",
                reference=0.5,
            )
        )
    return report.write(path)
