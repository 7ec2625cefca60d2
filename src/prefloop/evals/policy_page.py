"""The page of a policy's evaluation. Knows its numbers, not how they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefloop.evals.policy import PolicyEvaluation
from prefloop.report import Cell, Reply, Report, Tile, Transcript, format_number, interval_plot

__all__ = ["write_policy_page"]


def write_policy_page(
    evaluation: PolicyEvaluation, path: Path, name: str, base: str, data: str = "", notes: Sequence[str] = ()
) -> Path:
    """One HTML page, and its numbers as JSON beside it.

    Args:
        name, base: of the two models.
        notes: sentences that a reader must know.
    """
    report = Report(
        f"Policy {name} beside {base}",
        f"One reply of each to {format_number(evaluation.prompts)} prompts{f' ({data})' if data else ''}, as people "
        "are shown it. Intervals are 95%, clustered by conversation.",
    )
    tiles = [
        Tile(f"wins by {scorer}", rate, f"over {base}, ties half") for scorer, rate in evaluation.win_rates.items()
    ]
    if evaluation.people is not None:
        tiles.append(Tile("wins by people", evaluation.people, "of their judgments between the two"))
    if evaluation.kl is not None:
        tiles.append(Tile(f"KL to {base}", evaluation.kl, "nats a reply"))
    elif evaluation.kl_bound is not None:
        tiles.append(Tile("KL to its own single replies", evaluation.kl_bound, "nats at most: log k - (k-1)/k"))
    tiles.append(Tile("reply length", evaluation.policy.tokens, f"tokens; {base} {evaluation.base.tokens.value:.1f}"))
    report.tiles(tiles)
    shown = {name: evaluation.policy_shown, base: evaluation.base_shown}
    said = [*notes, *(f"Replies of {one} are {what}." for one, what in shown.items() if what), evaluation.kl_note]
    if any(said):
        report.bullets([sentence for sentence in said if sentence])
    if evaluation.people is None:
        report.paragraph(
            "People have not compared these two snapshots, so their win rate is not known; collect judgments in a "
            "study with compare = 'distinct'."
        )
    _scores(report, evaluation, name, base)
    _variety(report, evaluation, name, base)
    _logps(report, evaluation, name, base)
    _samples(report, evaluation, name, base)
    return report.write(path)


def _scores(report: Report, evaluation: PolicyEvaluation, name: str, base: str) -> None:
    report.section(
        "Scores",
        "Raw scores of each preference model (PM); a PM's zero is its own, so columns compare and rows do not. A PM "
        "that the policy was trained against overrates it: what counts is what the others say.",
    )
    report.table(
        ["scorer", name, base, f"{name} less {base}", "win rate"],
        [
            [
                scorer,
                evaluation.policy.scores[scorer],
                evaluation.base.scores[scorer],
                evaluation.differences[scorer],
                rate,
            ]
            for scorer, rate in evaluation.win_rates.items()
        ],
        "Mean scores, their differences prompt by prompt, and win rates",
    )
    report.table(
        ["scorer", name, base],
        [
            [scorer, evaluation.policy.length_correlation[scorer], evaluation.base.length_correlation[scorer]]
            for scorer in evaluation.win_rates
        ],
        "Correlation of a reply's tokens with its score",
    )
    if len(evaluation.modes) > 1:
        _modes(report, evaluation, name, base)


def _modes(report: Report, evaluation: PolicyEvaluation, name: str, base: str) -> None:
    report.section(
        "Helpful and harmless prompts apart",
        "The paper's Figure 14: a policy can be far up on one kind of prompt and hardly moved on the other.",
    )
    parts = {f"{_MODES.get(mode, mode)} prompts": part for mode, part in evaluation.modes.items()}
    for scorer, whole in evaluation.differences.items():
        report.plot(
            interval_plot(
                {**{kind: part.differences[scorer] for kind, part in parts.items()}, "all prompts": whole},
                title=f"{name} less {base}, by {scorer}",
                x_label=f"difference of the scores (units of {scorer})",
                reference=0.0,
            )
        )
    report.plot(
        interval_plot(
            {f"{kind}, by {scorer}": rate for kind, part in parts.items() for scorer, rate in part.win_rates.items()},
            title=f"Win rate of {name} over {base}",
            x_label="share of prompts, ties half",
            reference=0.5,
        )
    )
    report.table(
        ["prompts", "scorer", name, base, f"{name} less {base}", "win rate"],
        [
            [f"{kind} ({part.prompts})", scorer, part.policy[scorer], part.base[scorer], part.differences[scorer], rate]
            for kind, part in parts.items()
            for scorer, rate in part.win_rates.items()
        ],
    )


_MODES = {"helpful": "helpful", "red_team": "harmless (red-team)"}


def _variety(report: Report, evaluation: PolicyEvaluation, name: str, base: str) -> None:
    report.section("Length and variety", "Training narrows what a policy says (paper 4.6): entropy falls first.")
    mine, other = evaluation.policy, evaluation.base
    rows: list[list[Cell]] = [
        ["tokens of a reply", mine.tokens, other.tokens],
        ["share of replies that ended by themselves", mine.stopped, other.stopped],
        ["entropy (nats a token)", mine.entropy, other.entropy],
        ["likeness of two replies (Jaccard of words)", mine.self_similarity, other.self_similarity],
    ]
    for size, share in mine.distinct.items():
        rows.append([f"different runs of {size} words / all of them", share, other.distinct[size]])
    report.table(["", name, base], rows)


def _logps(report: Report, evaluation: PolicyEvaluation, name: str, base: str) -> None:
    found = evaluation.logp_accuracy
    if found is None:
        return
    report.section(
        "Held-out comparisons by log-probability",
        f"Share of {format_number(found.pairs)} comparisons in which the better reply has the higher mean "
        f"log-probability a token (paper Figure 34). The PMs' accuracies on the same comparisons are the ceilings. "
        f"{format_number(found.dropped_long)} comparisons were too long for the window.",
    )
    lines = {name: found.policy, base: found.base, **{f"PM {pm}": value for pm, value in found.ceilings.items()}}
    for group in found.policy:
        report.plot(
            interval_plot(
                {line: values[group] for line, values in lines.items()},
                title=f"Accuracy on held-out comparisons: {_MODES.get(group, group)}",
                x_label="share of comparisons",
                reference=0.5,
                reference_label="chance",
            )
        )


def _samples(report: Report, evaluation: PolicyEvaluation, name: str, base: str) -> None:
    def note(scores: Mapping[str, float]) -> str:
        return ", ".join(f"{scorer} {value:.2f}" for scorer, value in scores.items())

    report.section("Replies side by side").transcripts(
        [
            Transcript(
                sample.context[-1].text,
                sample.context,
                [
                    Reply(name, sample.policy, note(sample.scores_policy)),
                    Reply(base, sample.base, note(sample.scores_base)),
                ],
            )
            for sample in evaluation.samples
        ]
    )
