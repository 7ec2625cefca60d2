"""The numbers of a round: Elo from the judgments, and in the sandbox what is measured against the known truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.evals import evaluate_elo, evaluate_preference
from prefloop.models.devices import device_named
from prefloop.models.language import LanguageModel, load_language_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.runs import write_json
from prefloop.sandbox import Gold, draw_prompts, world
from prefloop.sandbox.limits import known_pairs, limits, sample_replies
from prefloop.sandbox.prompts import Context, is_harmful
from prefloop.sandbox.tiny import PMP_MODEL, tiny_model
from prefloop.schema import EvalResult, Interval
from prefloop.stats import win_rate

if TYPE_CHECKING:
    from prefloop.loop.steps import Bench

_EXAMPLES = 8
"""Prompts whose replies before and after are shown in the report."""


def elo_table(bench: Bench) -> dict[str, Any]:
    """Elo of both snapshots with the start at 0, from the judgments of the compare step."""
    pairs = [pair for study in bench.round.facts["elo_study_ids"] for pair in bench.store.pairs(study_id=study)]
    if not pairs:
        return {}
    start, new = bench.snapshot("start_id"), bench.snapshot("new_id")
    rated = evaluate_elo(pairs, start.id, seed=bench.settings.seed)
    bench.store.add_eval_results(rated.results(bench.name("elo")))
    return {snapshot.name: rated.table.ratings[snapshot.id].model_dump(mode="json") for snapshot in (start, new)}


def sandbox_numbers(bench: Bench) -> dict[str, Any]:
    """PMs on held-out pairs of the start's replies, the new snapshot's gold win rate against the start, limits.

    Everything here is drawn from a seed of its own; contexts that anybody trained on are left out.
    """
    from prefloop.loop.steps import EVALUATION_SEED, population

    settings, seed = bench.settings.evaluation, bench.settings.seed + EVALUATION_SEED
    traits = population(bench.settings).traits()
    trained_on = {pair.context for pair in bench.store.pairs()}
    place = device_named("auto")
    start = load_language_model(bench.path("start_id")).to(place)
    contexts = draw_prompts(world(), seed, settings.pairs, exclude=trained_on)
    pairs = known_pairs(
        TorchSampler(start.model, start.renderer, "start"), start.renderer, world(), contexts, traits, seed
    )
    known = limits(pairs)
    pm: dict[str, Any] = {
        "pairs": known.pairs,
        "length_only": known.length_only.model_dump(mode="json"),
        "bag_of_words_way": known.bag_of_words_way,
    }
    for name, path in (("a", bench.path("pm_a_id")), ("b", bench.path("pm_b_id")), ("pmp", tiny_model(PMP_MODEL))):
        evaluation = evaluate_preference(
            PreferenceModel.load(path).to(place),
            [pair.pair for pair in pairs],
            choice_probabilities=[pair.probability for pair in pairs],
            store=None if name == "pmp" else bench.store,
            model_id=bench.round.facts.get(f"pm_{name}_id", PMP_MODEL),
            data="sandbox held-out",
            seed=bench.settings.seed,
        )
        write_json(evaluation_file(bench, name), evaluation.model_dump(mode="json"))
        assert evaluation.expected_accuracy is not None
        assert evaluation.best_possible is not None
        assert evaluation.share_of_best is not None
        pm |= {
            f"accuracy_{name}": evaluation.expected_accuracy.model_dump(mode="json"),
            f"way_{name}": evaluation.share_of_best.model_dump(mode="json"),
            "best_possible": evaluation.best_possible.model_dump(mode="json"),
        }
    prompts = draw_prompts(world(), seed + 1, settings.prompts, exclude=trained_on)
    return {"pm": pm, "policy": _policy_numbers(bench, start, prompts, seed)}


def _policy_numbers(bench: Bench, start: LanguageModel, prompts: Sequence[Context], seed: int) -> dict[str, Any]:
    """One reply of each snapshot to each held-out prompt; gold decides, ties count half."""
    gold = Gold(world())
    tokens = bench.settings.policy.max_response_tokens
    new = load_language_model(bench.path("new_id")).to(start.model.device)
    before, after = (
        [
            replies[0]
            for replies in sample_replies(
                TorchSampler(model.model, model.renderer, "x"), model.renderer, prompts, 1, seed + offset, tokens
            )
        ]
        for offset, model in ((2, start), (3, new))
    )
    golds = [(gold(p, old), gold(p, fresh)) for p, old, fresh in zip(prompts, before, after, strict=True)]
    outcomes = [0.5 if math.isclose(fresh, old) else float(fresh > old) for old, fresh in golds]
    rate = win_rate(outcomes, seed=seed)
    _keep(bench, "policy", bench.round.facts["new_id"], "policy_eval/gold_win_rate", rate)
    harmful = [is_harmful(world(), prompt) for prompt in prompts]
    right = [
        [gold.is_right(p, text) for p, text, is_red in zip(prompts, texts, harmful, strict=True) if not is_red]
        for texts in (before, after)
    ]
    return {
        "prompts": len(prompts),
        "gold_win_rate": rate.model_dump(mode="json"),
        "gold_win_rate_helpful": _part(outcomes, [not red for red in harmful], seed),
        "gold_win_rate_harmless": _part(outcomes, harmful, seed),
        "gold_before": sum(old for old, _ in golds) / len(golds),
        "gold_after": sum(fresh for _, fresh in golds) / len(golds),
        "right_content_before": sum(right[0]) / len(right[0]),
        "right_content_after": sum(right[1]) / len(right[1]),
        "examples": [
            {
                "context": [message.model_dump() for message in prompts[i]],
                "before": before[i],
                "after": after[i],
                "gold_before": golds[i][0],
                "gold_after": golds[i][1],
            }
            for i in range(min(_EXAMPLES, len(prompts)))
        ],
    }


def evaluation_file(bench: Bench, name: str) -> Path:
    """Where the evaluation of PM a, b or pmp is kept."""
    return bench.workspace.runs / f"{bench.name('pm')}-{name}-evaluation.json"


def _part(outcomes: Sequence[float], chosen: Sequence[bool], seed: int) -> dict[str, Any] | None:
    part = [outcome for outcome, is_in in zip(outcomes, chosen, strict=True) if is_in]
    return win_rate(part, seed=seed).model_dump(mode="json") if part else None


def _keep(bench: Bench, evaluation: str, model_id: str, metric: str, value: Interval) -> None:
    bench.store.add_eval_results(
        [EvalResult(evaluation=evaluation, model_id=model_id, metric=metric, value=value, data="sandbox held-out")]
    )
