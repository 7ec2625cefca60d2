"""Evaluations of policies in a workspace: finds models and prompts, evaluates, keeps the rows. Knows no formulas.

Prompts are the contexts of held-out conversations, or with `is_sandbox` fresh ones of the tiny world that are in no
comparison of the workspace; there the known preference judges too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prefloop.errors import DataError
from prefloop.evals import BestOfEvaluation, evaluate_best_of
from prefloop.evals.replies import KnownPreference
from prefloop.loop.data import Context, evenly, split, stored_pairs
from prefloop.loop.runs import load_preference_model, resolve_model
from prefloop.models.language import load_language_model, window_tokens
from prefloop.models.responses import same_tokens
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import Gold, draw_prompts, is_harmful, world
from prefloop.schema import Mode, SamplingSettings
from prefloop.store import Store
from prefloop.workspace import Workspace

_SANDBOX_SEED = 5_000_011
"""Added to the seed of prompts of the tiny world, so that no training run draws the same ones."""
HELD_OUT_SHARE = 0.1
"""Of the conversations, as `prefloop train policy` keeps them from its prompts."""


class EvaluationPrompts(NamedTuple):
    """Contexts, the mode and the conversation (a cluster) of each, and a known preference where there is one."""

    contexts: list[Context]
    modes: list[Mode]
    clusters: list[str]
    gold: KnownPreference | None


def evaluation_prompts(store: Store, count: int, seed: int, *, is_sandbox: bool) -> EvaluationPrompts:
    """At most `count` different contexts that nobody trained on.

    Errors:
        DataError: the workspace holds no comparisons to take contexts from.
    """
    if is_sandbox:
        known = {pair.context for pair in store.pairs()}
        contexts = draw_prompts(world(), seed + _SANDBOX_SEED, count, exclude=known)
        modes = [Mode.RED_TEAM if is_harmful(world(), context) else Mode.HELPFUL for context in contexts]
        return EvaluationPrompts(contexts, modes, [str(place) for place in range(count)], Gold(world()))
    held_out = split(stored_pairs(store), HELD_OUT_SHARE).held_out
    if not held_out:
        raise DataError("The workspace holds no held-out comparisons to take prompts from; import or collect some.")
    first = {pair.context: pair for pair in reversed(held_out)}
    pairs = evenly([pair for pair in held_out if first[pair.context] is pair], count)
    return EvaluationPrompts(
        [pair.context for pair in pairs], [pair.mode for pair in pairs], [pair.conversation_id for pair in pairs], None
    )


def best_of(
    workspace: Workspace,
    store: Store,
    model: str,
    picker: str,
    judges: Sequence[str],
    policies: Sequence[str],
    *,
    prompts: int,
    samples: int,
    beside: int,
    max_response_tokens: int,
    seed: int,
    is_sandbox: bool,
) -> BestOfEvaluation:
    """`prefloop eval best-of`: the curve of `model` picked by `picker`, and policies set beside it.

    Errors:
        DataError: nothing to take prompts from, or a policy with another tokenizer.
    """
    start = load_language_model(resolve_model(workspace, store, Path(model)))
    others: dict[str, TorchSampler] = {}
    for name in policies:
        other = load_language_model(resolve_model(workspace, store, Path(name)))
        if not same_tokens(start.renderer, other.renderer):
            raise DataError(f"{name!r} and {model!r} have different tokenizers; evaluate each by itself.")
        others[name] = TorchSampler(other.model, other.renderer, name)
    found = evaluation_prompts(store, prompts, seed, is_sandbox=is_sandbox)
    evaluation = evaluate_best_of(
        TorchSampler(start.model, start.renderer, model),
        found.contexts,
        picker,
        {name: load_preference_model(workspace, store, name) for name in dict.fromkeys((picker, *judges))},
        start.renderer,
        samples=samples,
        gold=found.gold,
        policies=others,
        beside=beside,
        reference=start.model if others else None,
        settings=SamplingSettings(max_response_tokens=max_response_tokens),
        room_tokens=window_tokens(start.model) - max_response_tokens,
        clusters=found.clusters,
        seed=seed,
    )
    if any(snapshot.name == model for snapshot in store.snapshots()):
        store.add_eval_results(evaluation.results(store.snapshot(model).id, _source(is_sandbox)))
    return evaluation


def _source(is_sandbox: bool) -> str:
    return "sandbox prompts" if is_sandbox else "held-out prompts"
