"""The page that tells a round: what was collected, the preference models, the policy, the comparison on the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.evals import PreferenceEvaluation, add_preference_sections
from prefloop.loop.evaluation import evaluation_file
from prefloop.report import Reply, Report, Tile, Transcript, interval_plot
from prefloop.schema import Interval, Message
from prefloop.train.policy_report import add_score_plots
from prefloop.train.snapshots import PolicySnapshot

if TYPE_CHECKING:
    from prefloop.loop.steps import Bench


def write_round_report(bench: Bench) -> Path:
    """Writes `round-N.html` into the workspace, and its numbers as JSON beside it."""
    facts, start, new = bench.round.facts, bench.snapshot("start_id"), bench.snapshot("new_id")
    people = "simulated workers of the tiny world" if bench.is_sandbox else "invited people"
    page = Report(
        f"Round {bench.round.number}",
        f"From {start.name} to {new.name}, judged by {people}. Intervals are 95%.",
    )
    page.tiles(_tiles(bench))
    _collected(page, bench)
    if bench.is_sandbox:
        _preference_models(page, bench)
    page.section(
        "Policy",
        "PPO against PM a, watched by PM b, which never sees the training and picks the snapshot to deploy.",
    )
    snapshots = [PolicySnapshot.model_validate(row) for row in facts["policy_snapshots"]]
    best = next(snapshot for snapshot in snapshots if snapshot.episodes == facts["policy_best_episodes"])
    add_score_plots(page, snapshots, best)
    page.paragraph(f"The run's own page with length, entropy, KL and alarms: {facts['policy_report']}")
    if facts["elo"]:
        page.section("On the page", "Both snapshots answered every turn side by side; people judged blind.")
        ratings = {name: Interval.model_validate(rating) for name, rating in facts["elo"].items()}
        page.plot(
            interval_plot(ratings, title="Elo of both snapshots", x_label=f"Elo ({start.name} = 0)", reference=0.0)
        )
    if bench.is_sandbox:
        _known_truth(page, facts["policy"])
    page.section("Time").table(["step", "seconds"], [[name, seconds] for name, seconds in facts["seconds"].items()])
    return page.write(bench.workspace.path / f"round-{bench.round.number}.html", {"facts": facts})


def _tiles(bench: Bench) -> list[Tile]:
    facts, new = bench.round.facts, bench.snapshot("new_id")
    tiles = [Tile("snapshot to deploy", new.name, f"{facts['policy_best_episodes']:,} episodes of PPO")]
    if new.name in facts["elo"]:
        rating = Interval.model_validate(facts["elo"][new.name])
        tiles.append(Tile("Elo", rating, "start = 0", "good" if rating.low > 0 else "warning"))
    if bench.is_sandbox:
        pm, policy = facts["pm"], facts["policy"]
        rate = Interval.model_validate(policy["gold_win_rate"])
        best = pm["best_possible"]["value"]
        tiles += [
            Tile("PM accuracy", Interval.model_validate(pm["accuracy_a"]), f"best possible {best:.3f}"),
            Tile("gold win rate", rate, f"n {rate.n:,} prompts", "good" if rate.low > 0.5 else "warning"),
        ]
    return tiles


def _collected(page: Report, bench: Bench) -> None:
    rows: list[list[Any]] = []
    for study_id in (*bench.round.facts["study_ids"], *bench.round.facts["elo_study_ids"]):
        study, progress = bench.store.study(study_id), bench.store.progress(study_id)
        counts = {state.value: count for state, count in progress.comparisons.items()}
        rows.append(
            [
                study.name,
                study.mode.value,
                counts.get("judged", 0),
                counts.get("void", 0),
                progress.judgments,
                progress.workers,
            ]
        )
    page.section("Collected", f"What the judgments are worth: {bench.round.facts['quality_report']}")
    page.table(["study", "mode", "comparisons", "void", "judgments", "workers"], rows)


def _preference_models(page: Report, bench: Bench) -> None:
    pm = bench.round.facts["pm"]
    page.section(
        "Preference models",
        f"Expected accuracy under the known choice probabilities, on {pm['pairs']:,} held-out pairs of the starting "
        "snapshot's replies. Pre-training (PMP) knows what was asked for and nothing else of the preference.",
    )
    page.plot(
        interval_plot(
            {
                "by length alone": Interval.model_validate(pm["length_only"]),
                "PM pre-training alone": Interval.model_validate(pm["accuracy_pmp"]),
                "PM a (trains the policy)": Interval.model_validate(pm["accuracy_a"]),
                "PM b (watches)": Interval.model_validate(pm["accuracy_b"]),
                "best possible": Interval.model_validate(pm["best_possible"]),
            },
            title="Accuracy of preference models",
            x_label="expected accuracy (share of judgments)",
            reference=0.5,
        )
    )
    file = evaluation_file(bench, "a")
    add_preference_sections(page, PreferenceEvaluation.model_validate_json(file.read_text(encoding="utf-8")))


def _known_truth(page: Report, policy: dict[str, Any]) -> None:
    page.section(
        "Against the known preference",
        f"One reply of each snapshot to {policy['prompts']:,} held-out prompts; the known preference decides.",
    )
    rates = {
        "all prompts": policy["gold_win_rate"],
        "helpful prompts": policy["gold_win_rate_helpful"],
        "harmful prompts": policy["gold_win_rate_harmless"],
    }
    page.plot(
        interval_plot(
            {name: Interval.model_validate(rate) for name, rate in rates.items() if rate},
            title="Win rate of the new snapshot over its start",
            x_label="share of prompts won (ties half)",
            reference=0.5,
        )
    )
    page.transcripts(
        [
            Transcript(
                f"Prompt {index + 1}",
                [Message.model_validate(message) for message in example["context"]],
                [
                    Reply("before", example["before"], f"known worth {example['gold_before']:.1f}"),
                    Reply("after", example["after"], f"known worth {example['gold_after']:.1f}"),
                ],
            )
            for index, example in enumerate(policy["examples"])
        ]
    )
