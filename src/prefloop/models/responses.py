"""Replies as token ids after prompts: their log-probabilities under a policy, their scores under a PM.

Prompts that several replies share are computed once (through the trie), the language-model head runs on response
positions alone, and no vocabulary logits outlive a forward. Knows no training.

Legend
    episode   one prompt and one reply
    token     the response tokens of several episodes in a flat row, episode after episode
    response  the tokens of one episode in a right-padded row (see `padded`)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import DataError, ModelError
from prefloop.losses import sequence_kl, token_logps
from prefloop.models.head import head_logps
from prefloop.models.output_head import output_head
from prefloop.models.preference import PreferenceModel
from prefloop.models.reading import ReplyReader, unread_prompts
from prefloop.models.trie import PackedBatch, pack, packed_hidden, require_exact, runs_flat
from prefloop.render import Renderer
from prefloop.schema import Message, Sample

__all__ = [
    "EncodedPrompts",
    "PackedResponses",
    "Prompt",
    "ReadablePrompts",
    "all_logps",
    "encode_prompts",
    "kl_to_reference",
    "pack_responses",
    "padded",
    "readable_prompts",
    "reply_logps",
    "require_finite",
    "response_logps",
    "response_mask",
    "same_tokens",
    "score_replies",
    "token_parts",
]

_log = logging.getLogger(__name__)


class Prompt(NamedTuple):
    """A context that a policy answers, as messages and as ids."""

    messages: tuple[Message, ...]
    ids: list[int]


class EncodedPrompts(NamedTuple):
    """Prompts that fit, and the place of each among those given."""

    prompts: list[Prompt]
    places: list[int]


def encode_prompts(renderer: Renderer, prompts: Sequence[Sequence[Message]], room_tokens: int) -> EncodedPrompts:
    """Contexts with at most `room_tokens` ids each; the oldest turns go where one is longer.

    A prompt whose last turn alone is too long is left out, with a warning that counts them.

    Errors:
        DataError: no prompts, one that does not end with the person, or none that fits.
    """
    if not prompts:
        raise DataError("There are 0 prompts; give at least 1.")
    encoded = EncodedPrompts([], [])
    for index, messages in enumerate(prompts):
        if not messages or messages[-1].role == "assistant":
            raise DataError(f"Prompt {index} does not end with a user turn, so there is nothing to answer; drop it.")
        try:
            ids = renderer.fit(messages, room_tokens).ids
        except DataError:
            continue
        encoded.prompts.append(Prompt(tuple(messages), ids))
        encoded.places.append(index)
    if not encoded.prompts:
        raise DataError(
            f"The last turn of each of the {len(prompts)} prompts is longer than the {room_tokens} tokens that the "
            "window leaves; take shorter prompts, shorter replies or a model with a longer window."
        )
    if len(encoded.prompts) < len(prompts):
        _log.warning(
            "%d of %d prompts were left out: their last turn alone is longer than the %d tokens left for it.",
            len(prompts) - len(encoded.prompts),
            len(prompts),
            room_tokens,
        )
    return encoded


class ReadablePrompts(NamedTuple):
    """Prompts that policy and PMs can read, and how many were left out because of a PM, by its name."""

    prompts: list[Prompt]
    unread: dict[str, int]


def readable_prompts(
    renderer: Renderer,
    prompts: Sequence[Sequence[Message]],
    room_tokens: int,
    judges: Mapping[str, PreferenceModel],
    max_response_tokens: int,
) -> ReadablePrompts:
    """As `encode_prompts`, without those that a PM with another tokenizer cannot read before a reply of full length.

    A warning counts them. PMs of the policy's own tokens read the ids: `room_tokens` leaves them their room.

    Errors:
        DataError: as `encode_prompts`, or one of the PMs can read none of them.
    """
    kept, unread = list(prompts), dict[str, int]()
    for name, judge in judges.items():
        if same_tokens(judge.renderer, renderer):
            continue
        places = set(unread_prompts(judge, renderer, kept, max_response_tokens))
        if kept and len(places) == len(kept):
            raise DataError(
                f"{name} reads {judge.max_tokens} tokens, too few for the last turn of any of the {len(kept)} prompts "
                f"with a reply of {max_response_tokens}; lower max_response_tokens or take one with a longer window."
            )
        if places:
            unread[name] = len(places)
            _log.warning(
                "%d of %d prompts were left out: %s cannot read their last turn with a reply of %d tokens.",
                len(places),
                len(prompts),
                name,
                max_response_tokens,
            )
        kept = [messages for place, messages in enumerate(kept) if place not in places]
    return ReadablePrompts(encode_prompts(renderer, kept, room_tokens).prompts, unread)


@dataclass(frozen=True)
class PackedResponses:
    """Episodes as tries. `at` are the flat places whose hidden states predict the response tokens `ids`."""

    batch: PackedBatch
    at: Int[Tensor, " token"]
    ids: Int[Tensor, " token"]

    def to(self, device: torch.device | str) -> PackedResponses:
        """The same on another device."""
        return PackedResponses(self.batch.to(device), self.at.to(device), self.ids.to(device))


def pack_responses(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], row_tokens: int
) -> PackedResponses:
    """Packs episodes. The last token of a reply is predicted and never read, so it is not computed.

    Errors:
        DataError: a reply without tokens.
    """
    _require_tokens(responses)
    sequences = [[*prompt, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    batch = pack(sequences, row_tokens)
    places = [index[len(prompt) - 1 :] for index, prompt in zip(batch.token_index, prompts, strict=True)]
    return PackedResponses(batch, torch.cat(places), torch.tensor([token for ids in responses for token in ids]))


def _require_tokens(responses: Sequence[Sequence[int]]) -> None:
    if not all(responses):
        raise DataError("A reply has 0 tokens, so there is nothing to predict; sample at least 1.")


def response_logps(policy: Any, packed: PackedResponses) -> Float[Tensor, " token"]:
    """Log-probabilities (temperature 1) of the response tokens under a causal LM. Differentiable."""
    hidden = packed_hidden(policy.base_model, packed.batch, packed.at)  # (token, hidden)
    return head_logps(output_head(policy), hidden, packed.ids)


@torch.no_grad()
def all_logps(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    row_tokens: int,
    tokens_per_forward: int,
) -> Float[Tensor, " token"]:
    """Log-probabilities of all response tokens, without gradient, in parts of bounded size; on the CPU."""
    device = next(policy.parameters()).device
    parts = []
    for part in token_parts(prompts, responses, tokens_per_forward):
        packed = pack_responses([prompts[i] for i in part], [responses[i] for i in part], row_tokens).to(device)
        parts.append(response_logps(policy, packed).cpu())
    return torch.cat(parts)


@torch.no_grad()
def reply_logps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    row_tokens: int = 256,
    tokens_per_forward: int = 8192,
) -> Float[Tensor, " token"]:
    """As `all_logps`, of any causal model: one that cannot share beginnings exactly reads each episode by itself.

    Errors:
        DataError: a reply without tokens.
        ModelError: a reply holds a token that the model has no embedding for.
    """
    _require_tokens(replies)
    rows = model.get_input_embeddings().weight.shape[0]
    if (highest := max(map(max, replies))) >= rows:
        raise ModelError(
            f"A reply holds token {highest} and the model that is asked how likely it is has {rows} of them; take one "
            "with as many embeddings as the policy that replied."
        )
    if not runs_flat(model.base_model):
        episodes = list(zip(prompts, replies, strict=True))
        try:
            require_exact(model.base_model, max(len(prompt) + len(reply) for prompt, reply in episodes))
        except ModelError:
            return torch.cat([_logps_alone(model, *episode) for episode in episodes])
    return all_logps(model, prompts, replies, row_tokens=row_tokens, tokens_per_forward=tokens_per_forward)


def _logps_alone(model: Any, prompt: Sequence[int], reply: Sequence[int]) -> Float[Tensor, " token"]:
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([[*prompt, *reply[:-1]]], device=device), use_cache=False).logits
    return token_logps(logits[0, len(prompt) - 1 :], torch.tensor(reply, device=device)).cpu()


def kl_to_reference(
    reference: Any,
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    *,
    row_tokens: int = 256,
    tokens_per_forward: int = 8192,
) -> list[float]:
    """The k1 estimate of each reply's KL to a reference, nats, from the log-probabilities recorded while sampling.

    Valid for replies drawn at temperature 1 without top-p and top-k.
    """
    responses = [sample.ids for sample in samples]
    logp_reference = reply_logps(
        reference, prompts, responses, row_tokens=row_tokens, tokens_per_forward=tokens_per_forward
    )
    logp_policy = torch.tensor([logp for sample in samples for logp in sample.logps])
    is_response = response_mask(responses)
    kl: list[float] = sequence_kl(
        padded(logp_policy, is_response), padded(logp_reference, is_response), is_response
    ).k1.tolist()
    return kl


def response_mask(responses: Sequence[Sequence[int]]) -> Bool[Tensor, "batch response"]:
    """True on the tokens of each reply in right-padded rows."""
    lengths = torch.tensor([len(response) for response in responses])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def token_parts(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], tokens: int
) -> Iterator[list[int]]:
    """Runs of neighbouring episodes with at most `tokens` tokens, equal prompts counted once; a longer one is alone."""
    part: list[int] = []
    used = 0
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        needed = len(response) + (0 if part and prompts[part[-1]] is prompt else len(prompt))
        if part and used + needed > tokens:
            yield part
            part, used, needed = [], 0, len(prompt) + len(response)
        part.append(index)
        used += needed
    if part:
        yield part


def padded(
    values: Float[Tensor, " token"], is_response: Bool[Tensor, "batch response"]
) -> Float[Tensor, "batch response"]:
    """Flat tokens back in right-padded rows, 0 outside the mask."""
    rows = torch.zeros(is_response.shape, dtype=values.dtype, device=values.device)
    rows[is_response] = values
    return rows


def same_tokens(one: Renderer, other: Renderer) -> bool:
    """True where both renderers write a conversation with the same ids, so that ids need no decoding between them."""
    probe = [Message(role="user", text="A probe, of 2 turns."), Message(role="assistant", text="Fine!")]
    return (
        one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
        and one.end_id == other.end_id
        and one.conversation(probe).ids == other.conversation(probe).ids
    )


def score_replies(
    preference_model: PreferenceModel,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    who: str = "The preference model",
) -> list[float]:
    """Raw PM scores of sampled replies, read where the PM reads them; a reply that was cut off is closed.

    Where PM and policy share a tokenizer the sampled ids are scored as they are, otherwise their text. Ids beyond the
    tokenizer's, of which a policy has some where its makers rounded its vocabulary up, spell nothing: a PM that has
    fewer does not read them, as it would not read them in a text. A text that is
    too long in the PM's own tokens is read as far as its window goes (see `reading`), with a warning.

    Args:
        renderer: of the policy that sampled.
        who: what an error calls the preference model.

    Errors:
        ModelError: a score is not a finite number.
    """
    if same_tokens(preference_model.renderer, renderer):
        end, known = renderer.end_id, preference_model.vocabulary
        texts = [sample.ids[:-1] if sample.ids[-1:] == [end] else sample.ids for sample in samples]
        sequences = [
            prompt.ids + preference_model.closed([token for token in text if token < known])
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        if (longest := max(map(len, sequences))) > preference_model.max_tokens:
            raise ModelError(
                f"A prompt with its reply has {longest} tokens and the preference model reads "
                f"{preference_model.max_tokens}; lower max_response_tokens or train one with a longer window."
            )
        scores = preference_model.score_ids(sequences)
    else:
        reader = ReplyReader(preference_model)
        scores = reader.score(
            [
                (*prompt.messages, Message(role="assistant", text=renderer.decode(sample.ids)))
                for prompt, sample in zip(prompts, samples, strict=True)
            ]
        )
        if reader.cut_replies:
            _say_cut(who, preference_model.max_tokens)
    require_finite(scores, who)
    return scores


@cache
def _say_cut(who: str, max_tokens: int) -> None:
    """Once, and not at every batch."""
    _log.warning(
        "%s reads %d tokens, and some replies are longer in its own tokens: it does not read their end; lower "
        "max_response_tokens or take one with a longer window.",
        who,
        max_tokens,
    )


def require_finite(scores: Sequence[float], who: str) -> None:
    """Errors: ModelError where a score of the preference model that `who` names is not a finite number."""
    broken = [score for score in scores if not abs(score) < float("inf")]
    if broken:
        raise ModelError(
            f"{who} gives the score {broken[0]} to {len(broken)} of {len(scores)} replies; its weights are damaged or "
            "overflow: train it again."
        )
