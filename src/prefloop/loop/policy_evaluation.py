"""Evaluations of policies in a workspace: finds models and prompts, evaluates, keeps the rows. Knows no formulas.

Prompts are the contexts of held-out conversations, or with `is_sandbox` fresh ones of the tiny world that are in no
comparison of the workspace; there the known preference judges too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prefloop.errors import DataError
from prefloop.evals import (
    BestOfEvaluation,
    PolicyEvaluation,
    evaluate_best_of,
    evaluate_policy,
    logp_accuracy,
    people_win_rate,
)
from prefloop.evals.replies import KnownPreference
from prefloop.loop.data import Context, evenly, split, stored_pairs
from prefloop.loop.runs import load_policy, load_preference_model
from prefloop.models.language import window_tokens
from prefloop.models.responses import same_tokens
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import Gold, Population, draw_prompts, is_harmful, world
from prefloop.sandbox.limits import known_pairs
from prefloop.schema import Mode, PreferencePair, SamplingSettings
from prefloop.store import Store
from prefloop.workspace import Workspace

_SANDBOX_SEED = 5_000_011
"""Added to the seed of prompts of the tiny world, so that no training run draws the same ones."""
_MOST_COMPARISONS = 1000
HELD_OUT_SHARE = 0.1
"""Of the conversations, as `prefloop train policy` keeps them from its prompts."""


class Compared(NamedTuple):
    """An evaluation and the description of its prompts."""

    evaluation: PolicyEvaluation
    data: str


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


def compare_policies(
    workspace: Workspace,
    store: Store,
    model: str,
    base: str,
    preference_models: Sequence[str],
    *,
    prompts: int,
    max_response_tokens: int,
    seed: int,
    is_sandbox: bool,
    device: str = "auto",
) -> Compared:
    """`prefloop eval policy`: one reply of each to held-out prompts, and what held-out comparisons say of both.

    Errors:
        DataError: nothing to take prompts from, no scorer, or a policy with another tokenizer than its base.
    """
    policy, start = (load_policy(workspace, store, name, device) for name in (model, base))
    if not same_tokens(policy.renderer, start.renderer):
        raise DataError(f"{model!r} and {base!r} have different tokenizers; name the base that the policy came from.")
    scorers = {name: load_preference_model(workspace, store, name, device) for name in preference_models}
    found = evaluation_prompts(store, prompts, seed, is_sandbox=is_sandbox)
    evaluation = evaluate_policy(
        TorchSampler(policy.model, policy.renderer, model),
        TorchSampler(start.model, start.renderer, base),
        found.contexts,
        scorers,
        policy.renderer,
        gold=found.gold,
        reference=start.model,
        settings=SamplingSettings(max_response_tokens=max_response_tokens),
        room_tokens=window_tokens(policy.model) - max_response_tokens,
        clusters=found.clusters,
        modes=[mode.value for mode in found.modes],
        seed=seed,
    )
    ids = {snapshot.name: snapshot.id for snapshot in store.snapshots()}
    update: dict[str, object] = {}
    if model in ids and base in ids:
        update["people"] = people_win_rate(store.pairs(), ids[model], ids[base])
    held_out: Sequence[PreferencePair]
    if is_sandbox:  # judged afresh: PMs of a round have seen every comparison of the workspace
        sampler, people = TorchSampler(start.model, start.renderer, base), Population(seed=seed).traits()
        held_out = [known.pair for known in known_pairs(sampler, start.renderer, world(), found.contexts, people, seed)]
    else:
        held_out = split(stored_pairs(store), HELD_OUT_SHARE).held_out
    if held_out:
        update["logp_accuracy"] = logp_accuracy(
            policy.model,
            start.model,
            policy.renderer,
            evenly(held_out, _MOST_COMPARISONS),
            scorers,
            min([window_tokens(policy.model), *(scorer.max_tokens for scorer in scorers.values())]),
        )
    evaluation = evaluation.model_copy(update=update)
    data = f"{_source(is_sandbox)}, base {base}"
    if model in ids:
        store.add_eval_results(evaluation.results(ids[model], data))
    return Compared(evaluation, data)


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
    device: str = "auto",
) -> BestOfEvaluation:
    """`prefloop eval best-of`: the curve of `model` picked by `picker`, and policies set beside it.

    Errors:
        DataError: nothing to take prompts from, or a policy with another tokenizer.
    """
    start = load_policy(workspace, store, model, device)
    others: dict[str, TorchSampler] = {}
    for name in policies:
        other = load_policy(workspace, store, name, device)
        if not same_tokens(start.renderer, other.renderer):
            raise DataError(f"{name!r} and {model!r} have different tokenizers; evaluate each by itself.")
        others[name] = TorchSampler(other.model, other.renderer, name)
    found = evaluation_prompts(store, prompts, seed, is_sandbox=is_sandbox)
    evaluation = evaluate_best_of(
        TorchSampler(start.model, start.renderer, model),
        found.contexts,
        picker,
        {name: load_preference_model(workspace, store, name, device) for name in dict.fromkeys((picker, *judges))},
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
