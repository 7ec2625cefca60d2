"""Measures what a diagnosis needs: samples the start and the end of a run and asks every PM. Names no cause.

Knows models and texts; what the run logged and what people judged comes in as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from prefloop.errors import DataError
from prefloop.evals.diagnosis.replies import (
    best_of,
    commonest_share,
    far_share,
    mahalanobis,
    pair_agreement,
    repeated_share,
    within_prompt_correlation,
)
from prefloop.models.language import LanguageModel, window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt, encode_prompts, reply_logps, same_tokens, score_replies
from prefloop.models.sampling import TorchSampler
from prefloop.models.trie import pack, packed_hidden
from prefloop.render import Renderer
from prefloop.schema import Interval, Message, PreferencePair, Sample, SamplingSettings
from prefloop.stats import clustered_mean, clustered_share
from prefloop.stats.intervals import Floats

SAMPLES = 16
"""Replies of the start to each prompt: best of 16."""
_END_SAMPLES = 4
MOST_PAIRS = 300
"""Pairs that are read at most where a rough share will do."""


class Judge(NamedTuple):
    """A PM and its name; the first of a list is the one trained against."""

    name: str
    model: PreferenceModel


class _Replies(NamedTuple):
    """(prompt, sample) replies of one policy and their scores by judge."""

    samples: list[list[Sample]]
    texts: list[str]
    scores: dict[str, Floats]

    @property
    def tokens(self) -> Floats:
        return np.array([[float(len(sample.ids)) for sample in row] for row in self.samples])

    @property
    def stopped(self) -> list[bool]:
        return [sample.finish_reason == "stop" for row in self.samples for sample in row]


def measure_replies(
    start: LanguageModel,
    end: LanguageModel,
    judges: Sequence[Judge],
    prompts: Sequence[Prompt],
    max_response_tokens: int,
    training_pairs: Sequence[PreferencePair],
    seed: int = 0,
    gold: Callable[[Sequence[Message], str], float] | None = None,
) -> dict[str, Any]:
    """Fields of `Evidence` that rest on fresh replies of the start and the end of a run.

    Args:
        judges: the PM trained against, then those that watch.
        prompts: fitted to the windows of the start and the judges.
        training_pairs: some of what the first was trained on; its distance to the replies is not known without.

    Errors:
        DataError: the end has another tokenizer than the start and can answer none of the prompts.
    """
    settings = SamplingSettings(max_response_tokens=max_response_tokens)
    prompts, prompts_end = _for_both(start, end, judges, prompts, max_response_tokens)
    first = _drawn(start, judges, prompts, SAMPLES, settings, seed)
    last = _drawn(end, judges, prompts_end, _END_SAMPLES, settings, seed + 1)
    train, *watching = judges
    base = first.scores[train.name]
    fields: dict[str, Any] = {
        "tokens": (_mean(first.tokens), _mean(last.tokens)),
        "stopped": (clustered_share(first.stopped), clustered_share(last.stopped)),
        "repeated": (repeated_share(first.texts), repeated_share(last.texts)),
        "commonest": (commonest_share(first.texts), commonest_share(last.texts)),
    }
    spread = {judge.name: float(first.scores[judge.name].std()) for judge in judges}
    if spread[train.name] > 0:
        z = {name: values / (spread[name] or 1.0) for name, values in first.scores.items()}
        z_last = {name: values / (spread[name] or 1.0) for name, values in last.scores.items()}
        rises = {name: clustered_mean(z_last[name].mean(1) - z[name].mean(1)) for name in z}
        fields |= {
            "rise": rises[train.name],
            "held_out_rises": {judge.name: rises[judge.name] for judge in watching},
            "best_of_16": best_of(z[train.name], z[train.name]),
            "best_of_16_held_out": {judge.name: best_of(z[judge.name], z[train.name]) for judge in watching},
            "score_spread": float(last.scores[train.name].std() / spread[train.name]),
            "length_correlation": within_prompt_correlation(base, first.tokens),
        }
        agreed = {judge.name: pair_agreement(base, first.scores[judge.name]) for judge in watching}
        fields["agreement"] = {name: value for name, value in agreed.items() if value is not None}
        others = [within_prompt_correlation(first.scores[judge.name], first.tokens) for judge in watching]
        known = [value.value for value in others if value is not None]
        fields["length_correlation_held_out"] = float(np.mean(known)) if known else None
        if len(watching) > 1:
            fields["held_out_agreement"] = pair_agreement(*(first.scores[judge.name] for judge in watching[:2]))
        if gold is not None:
            golds = np.array(
                [
                    [gold(prompt.messages, start.renderer.decode(sample.ids)) for sample in row]
                    for prompt, row in zip(prompts, first.samples, strict=True)
                ]
            )
            fields["gold"] = pair_agreement(base, golds)
    if training_pairs:
        fields["start_quality"] = _quality(train.model, training_pairs, base)
    if training_pairs and train.model.shares_beginnings:
        fields["far"] = _far(train.model, training_pairs, prompts, first, last, start.renderer, end.renderer)
    return fields


def pair_accuracy(judge: PreferenceModel, pairs: Sequence[PreferencePair]) -> Interval | None:
    """How often the PM, as it reads conversations now, prefers the chosen reply (a tie counts half).

    Pairs that do not fit its window are left out; None where none fits.
    """
    scored = judge.score_pairs(pairs)
    if not scored.kept:
        return None
    better = 0.5 + 0.5 * np.sign(np.subtract(scored.chosen, scored.rejected))
    return clustered_share(better, [pairs[place].conversation_id or str(place) for place in scored.kept])


def measure_layout(model: LanguageModel, contexts: Sequence[Sequence[Message]]) -> Interval | None:
    """Nats a token that the other way of writing conversations would save the policy; below 0: its own is right.

    The other way is plain "Human:" and "Assistant:" headers, or for a tokenizer that has lost its template and still
    has our header tokens, those. The assistant's turns in the contexts are read, the texts being the same in both.
    None where there is no other way, or no two assistant turns to read that fit the window both ways.
    """
    other = model.renderer.other_layout()
    if other is None:
        return None
    renderers, window = (model.renderer, other), window_tokens(model.model)
    turns = (
        (context[:place], message.text)
        for context in contexts
        for place, message in enumerate(context)
        if message.role == "assistant" and message.text and place > 0
    )
    fitting = (
        (context, text)
        for context, text in turns
        if all(len(one.context_ids(context)) + len(one.text_ids(text)) <= window for one in renderers)
    )
    if len(read := list(islice(fitting, MOST_PAIRS))) < 2:
        return None
    losses = [_losses(model.model, renderer, read) for renderer in renderers]
    return clustered_mean(losses[0] - losses[1])


def _losses(model: Any, renderer: Renderer, turns: Sequence[tuple[Sequence[Message], str]]) -> Floats:
    """Mean negative log-likelihood of the text of each turn, nats a token."""
    prompts = [renderer.context_ids(context) for context, _ in turns]
    replies = [renderer.text_ids(text) for _, text in turns]
    logps = reply_logps(model, prompts, replies).numpy()
    ends = np.cumsum([len(reply) for reply in replies])
    return np.array([-part.mean() for part in np.split(logps, ends[:-1])])


def _for_both(
    start: LanguageModel,
    end: LanguageModel,
    judges: Sequence[Judge],
    prompts: Sequence[Prompt],
    max_response_tokens: int,
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that both can answer, as each reads them: the same ids where they write the same tokens."""
    if same_tokens(start.renderer, end.renderer):
        return list(prompts), list(prompts)
    alike = [judge.model.room_tokens for judge in judges if same_tokens(judge.model.renderer, end.renderer)]
    room = min([window_tokens(end.model) - 1, *alike]) - max_response_tokens
    found = encode_prompts(end.renderer, [prompt.messages for prompt in prompts], room)
    return [prompts[place] for place in found.places], found.prompts


def _drawn(
    policy: LanguageModel,
    judges: Sequence[Judge],
    prompts: Sequence[Prompt],
    n: int,
    settings: SamplingSettings,
    seed: int,
) -> _Replies:
    """`prompts`: as this policy reads them."""
    sampler = TorchSampler(policy.model, policy.renderer, "policy")
    samples = sampler.sample([prompt.ids for prompt in prompts], n, settings, seed)
    flat = [sample for row in samples for sample in row]
    asked = [prompt for prompt in prompts for _ in range(n)]
    return _Replies(
        samples,
        [policy.renderer.decode(sample.ids) for sample in flat],
        {
            judge.name: np.array(score_replies(judge.model, policy.renderer, asked, flat)).reshape(len(prompts), n)
            for judge in judges
        },
    )


def _quality(judge: PreferenceModel, pairs: Sequence[PreferencePair], scores: Floats) -> Interval | None:
    """How the start's replies score beside those that the PM was trained on, in deviations of these."""
    scored = judge.score_pairs(pairs[:MOST_PAIRS])
    known = [*scored.chosen, *scored.rejected]
    spread = float(np.std(known)) if known else 0.0
    return clustered_mean((scores.mean(1) - np.mean(known)) / spread) if spread > 0 else None


def _both_sides(judge: PreferenceModel, pairs: Sequence[PreferencePair]) -> Iterator[list[int]]:
    """Chosen, rejected, chosen, rejected ... as the PM learned from them; it learned from none that does not fit."""
    for pair in pairs:
        with suppress(DataError):
            both = judge.encode_pair(pair)
            yield from (both.chosen, both.rejected)


def _replies_read(judge: PreferenceModel, conversations: Iterable[Sequence[Message]]) -> Iterator[list[int]]:
    """Sampled replies as the PM reads them; those that do not fit are left out."""
    for conversation in conversations:
        with suppress(DataError):
            yield judge.encode(conversation).ids


def _mean(values: Floats) -> Interval:
    return clustered_mean(values.mean(1))


def _far(
    judge: PreferenceModel,
    pairs: Sequence[PreferencePair],
    prompts: Sequence[Prompt],
    first: _Replies,
    last: _Replies,
    start: Renderer,
    end: Renderer,
) -> tuple[Interval, Interval] | None:
    """Share of the start's and the end's replies that lie beyond 99% of the PM's training data, at its last layer.

    Half of the training replies make the cloud, the other half say how far its own kind lies from it.
    """
    points = _activations(judge, list(_both_sides(judge, pairs[:MOST_PAIRS])))
    if len(points) < 4 * points.shape[1] or len(points) < 100:
        return None
    order = np.random.default_rng(0).permutation(len(points))
    cloud, own = points[order[::2]], points[order[1::2]]
    limit = float(np.quantile(mahalanobis(own, cloud), 0.99))

    def distances(replies: _Replies, renderer: Renderer) -> Floats:
        told = [
            (*prompt.messages, Message(role="assistant", text=renderer.decode(sample.ids)))
            for prompt, row in zip(prompts, replies.samples, strict=True)
            for sample in row[:_END_SAMPLES]
        ]
        return mahalanobis(_activations(judge, list(_replies_read(judge, told))), cloud)

    both = distances(first, start), distances(last, end)
    return (far_share(both[0], limit), far_share(both[1], limit)) if min(map(len, both)) else None


@torch.inference_mode()
def _activations(judge: PreferenceModel, sequences: Sequence[list[int]]) -> Floats:
    """Hidden states at the token where the score is read: (sequence, hidden)."""
    parts = [np.empty((0, judge.head.in_features))]
    for start in range(0, len(sequences), 64):
        batch = pack(sequences[start : start + 64], judge.row_tokens).to(judge.device)
        parts.append(packed_hidden(judge.trunk, batch, batch.read_index).float().cpu().numpy())
    return np.concatenate(parts).astype(np.float64)
