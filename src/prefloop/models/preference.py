"""The preference model (PM): one raw score for a reply in its context. Knows no training and no store.

A PM is a Hugging Face folder that `AutoModelForSequenceClassification` loads with one label; its score is read at the
end token that closes the reply (paper A.2), the same here as in the plain class. A PM from elsewhere is read where the
plain class reads it, which may be another token (docs/decisions/011-padding-and-the-place-of-the-score.md). Causal
models go through tries, so that what two sequences share is computed once; encoders (BERT, DeBERTa) and models whose
exactness in a trie is not proven when they are loaded compute each sequence alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.foreign import plain_reply_end, say_how_it_is_read
from prefloop.models.head import head_logps
from prefloop.models.language import (
    load_config,
    load_fresh_classifier,
    load_language_model,
    load_tokenizer,
    load_weights,
    make_room_for_padding,
    save_model,
    window_tokens,
)
from prefloop.models.trie import PackedBatch, pack, packed_hidden, runs_flat, settle
from prefloop.models.unshared import GroupedBatch, group, grouped_scores, one_label_head
from prefloop.models.windows import long_rope_from, plain_window
from prefloop.render import Renderer
from prefloop.schema import Message, PreferencePair

__all__ = ["EncodedPair", "EncodedReply", "FittedScores", "PreferenceModel", "conversation_key"]

_log = logging.getLogger(__name__)

_CLASSIFIER = "ForSequenceClassification"
# In config.json: how the conversations that it learned from were written, the most tokens of one, and what stands
# behind a reply up to the token at which its score is read (where that is not the end token alone).
_FORMAT, _WINDOW, _REPLY_END = "conversation_format", "max_context_tokens", "reply_end_ids"
_LONG_ROW, _SHORT_ROW = 2048, 256
_TOKENS_A_FORWARD = 16_384  # of the sequences before sharing; bounds the memory of scoring


class EncodedReply(NamedTuple):
    """Ids of a context and its reply up to where it is read, and how many of the oldest turns were dropped to fit."""

    ids: list[int]
    dropped_turns: int


class EncodedPair(NamedTuple):
    """Both sides of a comparison, over the same context."""

    chosen: list[int]
    rejected: list[int]
    dropped_turns: int


class FittedScores(NamedTuple):
    """Raw scores of both replies of the pairs that fit, the places of those, and the turns dropped to make them fit."""

    kept: list[int]
    chosen: list[float]
    rejected: list[float]
    dropped_turns: int


def conversation_key(pair: PreferencePair) -> str:
    """What pairs of one conversation have in common: its id, or its first user turn where there is no id."""
    return pair.conversation_id or next((turn.text for turn in pair.context if turn.role == "user"), "")


class PreferenceModel:
    """A sequence-classification model with one label, and the renderer of its tokenizer. A `Scorer`.

    Args:
        model: loaded by `AutoModelForSequenceClassification`, with one label.
        renderer: its pad token becomes the model's, so that the plain class finds the end of a padded row; an embedding
            that does not reach it grows.
        row_tokens: budget of a packed row; None takes a long one where attention follows the branches of the tries and
            a short one where it goes over whole rows under a mask.
        max_tokens: longest sequence; defaults to the model's window.
        reply_end_ids: what stands behind a reply's text, to where its score is read; defaults to the end token.

    Errors:
        ModelError: no head with one label, or a renderer that writes conversations otherwise than the model learned
            them.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        *,
        row_tokens: int | None = None,
        max_tokens: int | None = None,
        reply_end_ids: Sequence[int] | None = None,
    ) -> None:
        self.model: Any = model.eval()  # dropout stays off, in training too
        self.head: torch.nn.Linear = one_label_head(model)
        if self.head.bias is not None:
            self.head.bias.requires_grad_(False)  # it moves both sides of a comparison alike
        make_room_for_padding(model, renderer.pad_id)
        self.trunk: Any = model.base_model
        self.renderer: Renderer = renderer
        self.reply_end_ids: tuple[int, ...] = (renderer.end_id,) if reply_end_ids is None else tuple(reply_end_ids)
        self._wanted_row_tokens, self._wanted_max_tokens = row_tokens, max_tokens
        self._settle()
        made_with = getattr(model.config, _FORMAT, None)
        if made_with not in (None, renderer.format):
            raise ModelError(
                f"The preference model was trained on conversations written as {made_with} and its tokenizer now "
                f"writes them as {renderer.format}; put back the tokenizer and chat template that it was saved with."
            )

    def _settle(self) -> None:
        """How beginnings are shared and how long rows and sequences may be, on the device of now."""
        self.shares_beginnings: bool = self._can_share()
        self.row_tokens: int = self._wanted_row_tokens or (_LONG_ROW if runs_flat(self.trunk) else _SHORT_ROW)
        plain = not self.shares_beginnings
        self.window_tokens: int = (
            plain_window(self.model, self.renderer.tokenizer) if plain else window_tokens(self.model)
        )
        wanted = self._wanted_max_tokens
        self.max_tokens: int = self.window_tokens if wanted is None else min(wanted, self.window_tokens)

    def to(self, device: torch.device | str) -> PreferenceModel:
        """Moves the model; how it shares beginnings and how long its rows are is decided anew there."""
        device = torch.device(device)
        if device != self.device:
            self.model.to(device)
            self._settle()
        return self

    def _can_share(self) -> bool:
        """Whether beginnings are shared: a causal model, whose exactness is tried out here and now."""
        if self.head is not getattr(self.model, "score", None) or self.head.bias is not None:
            return False  # an encoder, or a head that is not read at the last token alone
        try:
            settle(self.trunk, self._wanted_max_tokens)
        except ModelError as error:
            _log.warning("%s Until then each sequence is computed by itself: exact, and slower.", error)
            return False
        return True

    @staticmethod
    def is_at(path: str | Path) -> bool:
        """Whether the folder or hub id holds a sequence classifier (a PM) rather than a language model.

        Errors:
            ModelError: it holds no model at all.
        """
        return _architecture(load_config(path)).endswith(_CLASSIFIER)

    @classmethod
    def load(cls, path: str | Path, *, row_tokens: int | None = None, max_tokens: int | None = None) -> PreferenceModel:
        """A PM from a Hugging Face folder or hub id.

        Args:
            max_tokens: instead of the most that it was trained on, which is the default.

        Errors:
            ModelError: there is none, or it is not a PM (a plain language model has no trained head).
        """
        config = load_config(path)
        reply_end, is_known = getattr(config, _REPLY_END, None), getattr(config, _FORMAT, None) is not None
        is_ours = is_known and reply_end is None
        # What was made elsewhere finds the place of its score by its own padding, be that its end.
        renderer = Renderer(load_tokenizer(path), pad_id=None if is_ours else getattr(config, "pad_token_id", None))
        architecture = _architecture(config)
        if not architecture.endswith(_CLASSIFIER) or config.num_labels != 1:
            raise ModelError(
                f"{path} holds a {architecture or 'model of unknown kind'} with num_labels = "
                f"{config.num_labels}; a preference model is a ...{_CLASSIFIER} with num_labels = 1."
            )
        model = load_weights(AutoModelForSequenceClassification, path)
        if not is_known:
            reply_end = plain_reply_end(model, renderer)
            if renderer.layout != "own":  # our headers are written in one way, and read at the end token
                say_how_it_is_read(str(path), renderer, reply_end)
        window = getattr(config, _WINDOW, None) if max_tokens is None else max_tokens
        if window is not None and (not isinstance(window, int) or window < 1):
            raise ModelError(
                f"{path} has {_WINDOW} = {window!r} in its config.json, which is no number of tokens; mend it."
            )
        return cls(model, renderer, row_tokens=row_tokens, max_tokens=window, reply_end_ids=reply_end)

    @classmethod
    def from_language_model(
        cls, path: str | Path, seed: int, *, row_tokens: int | None = None, max_tokens: int | None = None
    ) -> PreferenceModel:
        """The trunk of a causal language model or an encoder under a fresh head, normal with std 1 / sqrt(hidden + 1).

        The first loss is near ln 2, and further from it the further apart the hidden states of two sides lie: on 150
        real pairs 0.68 to 0.77 for fresh trunks of width 32 to 384, 0.72 to 0.92 for the built-in language model.
        """
        renderer = Renderer(load_tokenizer(path))
        model = load_fresh_classifier(path, seed)
        head = one_label_head(model)
        hidden = head.in_features
        weight = torch.randn(1, hidden, generator=torch.Generator().manual_seed(seed)) / (hidden + 1) ** 0.5
        with torch.no_grad():
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.zero_()
        return cls(model, renderer, row_tokens=row_tokens, max_tokens=max_tokens)

    def output_embedding(self, start: str | Path) -> Float[Tensor, "vocabulary hidden"]:
        """What turns hidden states into logits: the trunk's own embedding where the two are tied, else `start`'s.

        Errors:
            ConfigError: an encoder, which predicts no next token; or they are not tied, and `start` is a PM, which has
                none.
        """
        if not self.shares_beginnings:
            raise ConfigError(
                f"{type(self.model).__name__} has no language-model loss here, because it is no causal model that "
                "shares beginnings; set language_weight to 0."
            )
        if self.model.config.tie_word_embeddings:
            tied: Tensor = self.trunk.get_input_embeddings().weight
            return tied
        if self.is_at(start):
            raise ConfigError(
                f"{start} is a preference model without an output embedding; start from its language model, or set "
                "language_weight to 0."
            )
        kept: Tensor = load_language_model(start).model.get_output_embeddings().weight.detach()
        return kept.to(self.device)

    def save(self, path: Path) -> Path:
        """Writes a plain Hugging Face folder, tokenizer beside, whole or not at all."""
        config = self.model.config
        setattr(config, _FORMAT, self.renderer.format)
        setattr(config, _WINDOW, self.max_tokens)
        if self.reply_end_ids != (self.renderer.end_id,):
            setattr(config, _REPLY_END, list(self.reply_end_ids))
        return save_model(self.model, self.renderer.tokenizer, path)

    def set_scale(self, scores: Sequence[float]) -> None:
        """Notes mean and population standard deviation of reference scores in the config, under OpenRLHF's names.

        Raw scores stay what they are; OpenRLHF, asked to normalise, and `normalised` take (score - mean) / std. Scores
        that do not differ give no scale: none is noted.
        """
        values = torch.tensor(scores, dtype=torch.float64)
        std = values.std(correction=0).item() if len(scores) else 0.0
        is_scale = 0 < std < float("inf")
        self.model.config.mean, self.model.config.std = (values.mean().item(), std) if is_scale else (None, None)

    def normalised(self, scores: Sequence[float]) -> list[float]:
        """Scores less the mean of the reference samples, in their standard deviations.

        Errors:
            ModelError: the model has no such scale (`set_scale`).
        """
        mean, std = (getattr(self.model.config, name, None) for name in ("mean", "std"))
        if mean is None or std is None:
            raise ModelError("The preference model has no mean and std in its config.json; train it again to set them.")
        return [(score - mean) / std for score in scores]

    @property
    def room_tokens(self) -> int:
        """The most tokens that a context and the text of a reply may have."""
        return self.max_tokens - len(self.reply_end_ids)

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows; a policy of the same tokenizer may have more, of which none is text."""
        return int(self.trunk.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def closed(self, text_ids: Sequence[int]) -> list[int]:
        """A reply's text, and behind it what is read to its score."""
        return [*text_ids, *self.reply_end_ids]

    def encode(self, conversation: Sequence[Message]) -> EncodedReply:
        """Ids of a conversation that ends with the reply to score; the oldest turns go when it is too long.

        Errors:
            DataError: it does not end with an assistant turn, or the reply and the turn before it do not fit.
        """
        if not conversation or conversation[-1].role != "assistant":
            raise DataError("A conversation to score must end with an assistant turn.")
        reply = self.closed(self.renderer.text_ids(conversation[-1].text))
        fitted = self.renderer.fit(conversation[:-1], self.max_tokens - len(reply))
        return EncodedReply(fitted.ids + reply, fitted.dropped_turns)

    def encode_pair(self, pair: PreferencePair) -> EncodedPair:
        """Ids of both sides; turns are dropped for the longer one, so that both keep the same context.

        Errors:
            DataError: the longer reply and the turn before it do not fit.
        """
        chosen, rejected = (self.closed(self.renderer.text_ids(text)) for text in (pair.chosen, pair.rejected))
        fitted = self.renderer.fit(pair.context, self.max_tokens - max(len(chosen), len(rejected)))
        return EncodedPair(fitted.ids + chosen, fitted.ids + rejected, fitted.dropped_turns)

    def pack(self, sequences: Sequence[Sequence[int]]) -> PackedBatch | GroupedBatch:
        """Packs id lists for `forward_packed`, on the model's device: as tries, or each by itself."""
        if not self.shares_beginnings:
            return group(sequences, self.renderer.pad_id, long_rope_from(self.model.config)).to(self.device)
        return pack(sequences, self.row_tokens).to(self.device)

    def forward_packed(self, batch: PackedBatch | GroupedBatch) -> Float[Tensor, " sequence"]:
        """The score of each sequence, with gradient. The head is computed in fp32."""
        if isinstance(batch, GroupedBatch):
            return grouped_scores(self.model, batch)
        hidden = packed_hidden(self.trunk, batch, batch.read_index)
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = hidden.float() @ self.head.weight[0].float()
        return scores

    def forward_packed_with_language(
        self, batch: PackedBatch | GroupedBatch, sequences: Sequence[int], output: Float[Tensor, "vocabulary hidden"]
    ) -> tuple[Float[Tensor, " sequence"], Float[Tensor, ""]]:
        """Scores as `forward_packed`, and the language-model loss of some of the sequences from the same pass.

        The loss is the sum over `sequences` of their mean loss in nats a token, the first token left out; what they
        share is computed once. `output` is the output embedding of the language model.
        """
        assert isinstance(batch, PackedBatch), "output_embedding refuses models that share no beginnings"
        paths = [batch.token_index[index][1:] for index in sequences]
        shares = torch.cat([torch.full(path.shape, 1 / len(path), device=path.device) for path in paths])
        tokens, place = torch.cat(paths).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        weights = torch.zeros(len(tokens), device=shares.device).index_add(0, place, shares)
        width = batch.ids.shape[1]
        before = tokens - tokens % width + batch.parents.flatten()[tokens]
        hidden = packed_hidden(self.trunk, batch, torch.cat([batch.read_index, before]))
        logps = head_logps(output, hidden[len(batch.read_index) :], batch.ids.flatten()[tokens])
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = hidden[: len(batch.read_index)].float() @ self.head.weight[0].float()
            return scores, -(weights @ logps)

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """Raw scores of the last assistant turn of each conversation."""
        return self.score_ids([self.encode(conversation).ids for conversation in conversations])

    def score_pairs(self, pairs: Sequence[PreferencePair]) -> FittedScores:
        """Scores both replies of each pair over the same context; pairs that do not fit are left out."""
        kept, ids, dropped = [], [], 0
        for place, pair in enumerate(pairs):
            try:
                both = self.encode_pair(pair)
            except DataError:
                continue
            kept.append(place)
            ids += [both.chosen, both.rejected]
            dropped += both.dropped_turns
        scores = self.score_ids(ids)
        return FittedScores(kept, scores[0::2], scores[1::2], dropped)

    def none_fits(self, what: str, setting: str = "max_context_tokens") -> DataError:
        """The error that none of `what` fits, with the limit that binds: the setting, or the model's own window."""
        if self.max_tokens < self.window_tokens:
            return DataError(f"None of {what} fits {setting} = {self.max_tokens}; raise it.")
        return DataError(
            f"None of {what} fits the {self.window_tokens} tokens that the start model reads; take shorter ones, or a "
            "model with a longer window."
        )

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores of id lists that are `closed`. What common beginnings cost is paid once."""
        scores = [0.0] * len(sequences)
        order = list(range(len(sequences)))  # relatives side by side, or else equal lengths
        order.sort(key=lambda index: list(sequences[index]) if self.shares_beginnings else [len(sequences[index])])
        with torch.no_grad():  # and not in inference mode: split weights that are gathered in it cannot learn again
            for part in _parts(order, sequences):
                batch = self.pack([sequences[index] for index in part])
                for index, value in zip(part, self.forward_packed(batch).tolist(), strict=True):
                    scores[index] = value
        return scores


def _parts(order: Sequence[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs of `order` with a bounded number of tokens."""
    parts: list[list[int]] = []
    room = 0
    for index in order:
        if not parts or len(sequences[index]) > room:
            parts.append([])
            room = _TOKENS_A_FORWARD
        parts[-1].append(index)
        room -= len(sequences[index])
    return parts


def _architecture(config: Any) -> str:
    names = getattr(config, "architectures", None) or [""]
    return str(names[0])
