"""Evaluations of policies in a workspace: finds models and prompts, evaluates, keeps the rows. Knows no formulas.

Prompts are the contexts of held-out conversations, or with `is_sandbox` fresh ones of the tiny world that are in no
comparison of the workspace; there the known preference judges too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefloop.errors import ConfigError, DataError
from prefloop.evals import (
    BestOfEvaluation,
    PolicyEvaluation,
    evaluate_best_of,
    evaluate_policy,
    logp_accuracy,
    people_win_rate,
)
from prefloop.evals.replies import KnownPreference
from prefloop.loop.assistants import Assistant, load_assistant, resolve_model
from prefloop.loop.data import Context, evenly, stored_pairs
from prefloop.loop.held_out import HeldOut, held_out
from prefloop.models.devices import device_named
from prefloop.models.language import window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.reading import ReplyReader, reads_whole, unread_prompts
from prefloop.models.responses import same_tokens
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import Gold, Population, draw_prompts, is_harmful, world
from prefloop.sandbox.limits import known_pairs
from prefloop.schema import Mode, PreferencePair, SamplingSettings
from prefloop.stats import best_of_kl_bound
from prefloop.store import Store
from prefloop.workspace import Workspace

_SANDBOX_SEED = 5_000_011
"""Added to the seed of prompts of the tiny world, so that no training run draws the same ones."""
_MOST_COMPARISONS = 1000


class Compared(NamedTuple):
    """An evaluation, the description of its prompts, and sentences that a reader must know."""

    evaluation: PolicyEvaluation
    data: str
    notes: tuple[str, ...]


class BestOf(NamedTuple):
    """The same of a best-of-n evaluation."""

    evaluation: BestOfEvaluation
    data: str
    notes: tuple[str, ...]


class EvaluationPrompts(NamedTuple):
    """Contexts, the mode and the conversation (a cluster) of each, and a known preference where there is one."""

    contexts: list[Context]
    modes: list[Mode]
    clusters: list[str]
    gold: KnownPreference | None

    def at(self, places: Sequence[int]) -> EvaluationPrompts:
        """Those at some places."""
        return EvaluationPrompts(
            [self.contexts[place] for place in places],
            [self.modes[place] for place in places],
            [self.clusters[place] for place in places],
            self.gold,
        )


def sandbox_prompts(store: Store, count: int, seed: int) -> EvaluationPrompts:
    """Fresh contexts of the tiny world, of which none is in a comparison of the workspace."""
    known = {pair.context for pair in store.pairs()}
    contexts = draw_prompts(world(), seed + _SANDBOX_SEED, count, exclude=known)
    modes = [Mode.RED_TEAM if is_harmful(world(), context) else Mode.HELPFUL for context in contexts]
    return EvaluationPrompts(contexts, modes, [str(place) for place in range(count)], Gold(world()))


def prompts_of_pairs(pairs: Sequence[PreferencePair], count: int) -> EvaluationPrompts:
    """At most `count` different contexts of held-out comparisons.

    Errors:
        DataError: no comparisons.
    """
    if not pairs:
        raise DataError("The workspace holds no held-out comparisons to take prompts from; import or collect some.")
    first = {pair.context: pair for pair in reversed(pairs)}
    taken = evenly([pair for pair in pairs if first[pair.context] is pair], count)
    return EvaluationPrompts(
        [pair.context for pair in taken], [pair.mode for pair in taken], [pair.conversation_id for pair in taken], None
    )


def compare_policies(
    workspace: Workspace,
    store: Store,
    model: str,
    base: str,
    preference_models: Sequence[str],
    *,
    prompts: int,
    max_response_tokens: int | None = None,
    seed: int,
    is_sandbox: bool,
    device: str = "auto",
) -> Compared:
    """`prefloop eval policy`: one reply of each to held-out prompts, and what held-out comparisons say of both.

    A snapshot answers as it is shown: after its example prompt, under its sampling settings, with the best of its k.

    Args:
        max_response_tokens: of both; None takes each snapshot's own.

    Errors:
        ConfigError: nothing scores.
        DataError: nothing to take prompts from, or a policy with another tokenizer than its base.
    """
    if not preference_models and not is_sandbox:
        raise ConfigError(
            "Nothing scores the replies; name a preference model with --pm, or in a workspace of the tiny world give "
            "--sandbox, and its known preference scores."
        )
    policy, start = (load_assistant(workspace, store, name, device) for name in (model, base))
    if not same_tokens(policy.renderer, start.renderer):
        raise DataError(f"{model!r} and {base!r} have different tokenizers; name the base that the policy came from.")
    paths = {name: resolve_model(workspace, store, Path(name)) for name in preference_models}
    judges = {name: PreferenceModel.load(path).to(device_named(device)) for name, path in paths.items()}
    scorers = {name: ReplyReader(judge) for name, judge in judges.items()}
    unseen = _unseen(workspace, store, paths, is_sandbox)
    found = sandbox_prompts(store, prompts, seed) if is_sandbox else prompts_of_pairs(unseen.pairs, prompts)
    settings = _settings([policy, start], max_response_tokens)
    found, notes = _readable(found, [policy, start], judges, settings)
    room = min(one.room_tokens(settings.max_response_tokens) for one in (policy, start))
    evaluation = evaluate_policy(
        policy.sampler(found.contexts, room),
        start.sampler(found.contexts, room),
        found.contexts,
        scorers,
        policy.renderer,
        gold=found.gold,
        reference=start.model if start.is_plain else None,
        settings=settings,
        room_tokens=room,
        clusters=found.clusters,
        modes=[mode.value for mode in found.modes],
        seed=seed,
    )
    ids = {snapshot.name: snapshot.id for snapshot in store.snapshots()}
    update: dict[str, object] = {"policy_shown": policy.shown, "base_shown": start.shown}
    if evaluation.kl is None:
        update["kl_note"] = _kl_note(policy, start)
    if policy.snapshot.best_of_k > 1:
        update["kl_bound"] = best_of_kl_bound(policy.snapshot.best_of_k)
    if model in ids and base in ids:
        update["people"] = people_win_rate(store.pairs(), ids[model], ids[base])
    pairs = unseen.pairs
    if is_sandbox:  # judged afresh: PMs of a round have seen every comparison of the workspace
        weights, people = TorchSampler(start.model, start.renderer, base), Population(seed=seed).traits()
        pairs = [known.pair for known in known_pairs(weights, start.renderer, world(), found.contexts, people, seed)]
    if pairs and not (policy.snapshot.prompt or start.snapshot.prompt):
        try:
            update["logp_accuracy"] = logp_accuracy(
                policy.model,
                start.model,
                policy.renderer,
                evenly(pairs, _MOST_COMPARISONS),
                judges,
                min(window_tokens(one.model) for one in (policy, start)),
                is_read=lambda pair: all(reads_whole(judge, pair) for judge in judges.values()),
            )
        except DataError as error:  # the rest stands without it
            notes = (*notes, str(error))
    evaluation = evaluation.model_copy(update=update)
    data = f"{_source(is_sandbox)}, base {base}"
    if model in ids:
        store.add_eval_results(evaluation.results(ids[model], data))
    return Compared(evaluation, data, (*unseen.notes, *notes, *_cut_notes(scorers)))


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
    max_response_tokens: int | None = None,
    seed: int,
    is_sandbox: bool,
    device: str = "auto",
) -> BestOf:
    """`prefloop eval best-of`: the curve of `model` picked by `picker`, and policies set beside it.

    A snapshot answers as it is shown, so the best of n of one that shows the best of 4 has 4n replies behind it.

    Errors:
        DataError: nothing to take prompts from, or a policy with another tokenizer.
    """
    start = load_assistant(workspace, store, model, device)
    others = {name: load_assistant(workspace, store, name, device) for name in policies}
    for name, other in others.items():
        if not same_tokens(start.renderer, other.renderer):
            raise DataError(f"{name!r} and {model!r} have different tokenizers; evaluate each by itself.")
    paths = {name: resolve_model(workspace, store, Path(name)) for name in dict.fromkeys((picker, *judges))}
    unseen = _unseen(workspace, store, paths, is_sandbox)
    found = sandbox_prompts(store, prompts, seed) if is_sandbox else prompts_of_pairs(unseen.pairs, prompts)
    settings = _settings([start, *others.values()], max_response_tokens)
    scoring = {name: PreferenceModel.load(path).to(device_named(device)) for name, path in paths.items()}
    scorers = {name: ReplyReader(one) for name, one in scoring.items()}
    found, notes = _readable(found, [start, *others.values()], scoring, settings)
    room = min(one.room_tokens(settings.max_response_tokens) for one in (start, *others.values()))
    evaluation = evaluate_best_of(
        start.sampler(found.contexts, room),
        found.contexts,
        picker,
        scorers,
        start.renderer,
        samples=samples,
        gold=found.gold,
        policies={name: other.sampler(found.contexts, room) for name, other in others.items()},
        beside=beside,
        reference=start.model if others and start.is_plain else None,
        settings=settings,
        room_tokens=room,
        clusters=found.clusters,
        seed=seed,
    )
    shown = {name: one.shown for name, one in {model: start, **others}.items() if one.shown}
    evaluation = evaluation.model_copy(update={"shown": shown})
    data = _source(is_sandbox)
    if any(snapshot.name == model for snapshot in store.snapshots()):
        store.add_eval_results(evaluation.results(store.snapshot(model).id, data))
    return BestOf(evaluation, data, (*unseen.notes, *notes, *_cut_notes(scorers)))


def _unseen(workspace: Workspace, store: Store, paths: Mapping[str, Path], is_sandbox: bool) -> HeldOut:
    """Held-out comparisons of the workspace; in the sandbox everything is fresh, so none are needed."""
    return HeldOut((), ()) if is_sandbox else held_out(workspace, store, stored_pairs(store), paths)


def _readable(
    found: EvaluationPrompts,
    assistants: Sequence[Assistant],
    judges: Mapping[str, PreferenceModel],
    settings: SamplingSettings,
) -> tuple[EvaluationPrompts, tuple[str, ...]]:
    """The prompts that every PM can read with a reply of full length, and a note for each PM that cannot read some.

    PMs that pick the shown reply of a best-of-k snapshot are asked too.

    Errors:
        DataError: one of them can read none.
    """
    pickers = {one.picker_name: one.picker for one in assistants if one.picker is not None}
    notes, renderer, tokens = [], assistants[0].renderer, settings.max_response_tokens
    for name, judge in {**pickers, **judges}.items():
        unread = set(unread_prompts(judge, renderer, found.contexts, tokens))
        if len(unread) == len(found.contexts):
            raise DataError(
                f"{name} reads {judge.max_tokens} tokens, too few for the last turn of any of the {len(unread)} "
                f"prompts with a reply of {tokens}; lower --max-response-tokens, or take one with a longer window."
            )
        if unread:
            notes.append(
                f"{len(unread):,} of {len(found.contexts):,} prompts are left out, because {name} reads "
                f"{judge.max_tokens} tokens, too few for their last turn with a reply of {tokens}."
            )
            kept = [place for place in range(len(found.contexts)) if place not in unread]
            found = found.at(kept)
    return found, tuple(notes)


def _cut_notes(scorers: Mapping[str, ReplyReader]) -> tuple[str, ...]:
    """A note for each PM that did not read the end of some replies."""
    return tuple(
        f"{name} did not read the end of {scorer.cut_replies:,} replies, which are longer in its own tokens than the "
        f"{scorer.preference_model.max_tokens} that it reads."
        for name, scorer in scorers.items()
        if scorer.cut_replies
    )


def _settings(assistants: Sequence[Assistant], max_response_tokens: int | None) -> SamplingSettings:
    """What all are asked for; each has its own settings below that, and its own length where none is given."""
    own = [assistant.snapshot.sampling.max_response_tokens for assistant in assistants]
    windows = [window_tokens(assistant.model) for assistant in assistants]
    return SamplingSettings(max_response_tokens=min(max_response_tokens or max(own), min(windows) - 1))


def _kl_note(policy: Assistant, base: Assistant) -> str:
    """Why the KL is not measured."""
    if not base.is_plain:
        return f"How likely {base.snapshot.name} finds another's reply is not known: its own are {base.shown}."
    if policy.shown:
        return f"How likely {policy.snapshot.name} finds its own replies is not known: they are {policy.shown}."
    return "Some replies were cut at a stop string, and how likely such a reply is, is not known."


def _source(is_sandbox: bool) -> str:
    return "sandbox prompts" if is_sandbox else "held-out prompts"
