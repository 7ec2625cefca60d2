"""Replies as a snapshot shows them: after its example prompt, under its own settings, the best of its k by its PM.

Responsible for making a served snapshot's replies outside of a server, so that an evaluation sees what people see.
Knows no store, no server and no evaluation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from prefloop.models.language import window_tokens
from prefloop.models.responses import encode_prompts
from prefloop.models.sampling import TorchSampler
from prefloop.render import Renderer
from prefloop.schema import Message, Sample, SamplingSettings, Scorer, Snapshot

__all__ = ["SnapshotSampler"]

_log = logging.getLogger(__name__)


class SnapshotSampler:
    """A `schema.Sampler` of what `snapshot` shows in answer to `contexts`.

    It is asked as its plain weights would be, by the ids of a context, and puts the example prompt before them itself.
    Temperature, top-p, top-k and stop strings are the snapshot's, whatever it is asked for; a reply gets the shorter of
    both lengths. The log-probabilities of a reply are NaN where nobody knows them: of the best of k, under top-p, top-k
    or temperature 0, and of a reply that a stop string cut.

    Args:
        model, renderer: the snapshot's weights and their tokenizer.
        contexts: all that will be asked; `room_tokens` is what each may take when it stands alone.
        picker: the PM of a best-of-k snapshot; it reads the conversation as the person does.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        snapshot: Snapshot,
        contexts: Sequence[Sequence[Message]],
        room_tokens: int,
        picker: Scorer | None = None,
    ) -> None:
        if (snapshot.best_of_k > 1) != (picker is not None):
            raise ValueError(f"a snapshot that shows the best of {snapshot.best_of_k} and its picker go together")
        self.snapshot = snapshot
        self._sampler = TorchSampler(model, renderer, snapshot.name)
        self._renderer, self._picker = renderer, picker
        self._window = window_tokens(model)
        self._messages: dict[tuple[int, ...], tuple[Message, ...]] = {}
        if snapshot.prompt or picker is not None:
            prompts = encode_prompts(renderer, contexts, room_tokens).prompts
            self._messages = {tuple(prompt.ids): prompt.messages for prompt in prompts}

    @property
    def version(self) -> str:
        """The snapshot's name."""
        return self.snapshot.name

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """`n` shown replies to each of the contexts.

        Errors:
            DataError: the example prompt and the last turn do not fit the window together.
        """
        own, k = self.snapshot.sampling, self.snapshot.best_of_k
        tokens = min(own.max_response_tokens, settings.max_response_tokens)
        settings = own.model_copy(
            update={"max_response_tokens": tokens, "stop": own.stop + self._renderer.reply_stops()}
        )
        drawn = self._sampler.sample(self._shown(prompt_ids, tokens), n * k, settings, seed)
        is_exact = k == 1 and settings.temperature > 0 and (settings.top_p, settings.top_k) == (1.0, 0)
        samples = [[self._ended(sample, settings.stop) for sample in row] for row in drawn]
        if not is_exact:
            samples = [[_unweighed(sample) for sample in row] for row in samples]
        return samples if self._picker is None else self._picked(prompt_ids, samples)

    def _shown(self, prompt_ids: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
        """What the model reads: the contexts behind the example prompt, cut to the window as a server does."""
        if not self.snapshot.prompt:
            return list(prompt_ids)
        room = self._window - min(tokens, self._window // 2)
        messages = [(*self.snapshot.prompt, *self._messages[tuple(ids)]) for ids in prompt_ids]
        fitted = [self._renderer.fit(conversation, room) for conversation in messages]
        if cut := sum(one.dropped_turns > 0 for one in fitted):
            _log.warning(
                "%s: %d of %d prompts do not fit the window behind the example prompt, so its oldest turns went.",
                self.snapshot.name,
                cut,
                len(fitted),
            )
        return [one.ids for one in fitted]

    def _ended(self, sample: Sample, stop: tuple[str, ...]) -> Sample:
        """A reply without the stop string that ended it: whole tokens, closed by the end token."""
        text = self._renderer.decode(sample.ids) if stop else ""
        place = min((text.index(string) for string in stop if string in text), default=-1)
        if place < 0:
            return sample
        kept = len(sample.ids)
        while kept and len(self._renderer.decode(sample.ids[:kept])) > place:
            kept -= 1
        return _unweighed(Sample([*sample.ids[:kept], self._renderer.end_id], [0.0] * (kept + 1), "stop"))

    def _picked(self, prompt_ids: Sequence[Sequence[int]], samples: list[list[Sample]]) -> list[list[Sample]]:
        """Of each k replies in turn the one that the PM scores highest."""
        assert self._picker is not None
        conversations = [
            (*self._messages[tuple(ids)], Message(role="assistant", text=self._renderer.decode(sample.ids)))
            for ids, row in zip(prompt_ids, samples, strict=True)
            for sample in row
        ]
        scores = iter(self._picker.score(conversations))
        k, picked = self.snapshot.best_of_k, []
        for row in samples:
            worth = [next(scores) for _ in row]
            groups = [range(start, start + k) for start in range(0, len(row), k)]
            picked.append([row[max(group, key=worth.__getitem__)] for group in groups])
        return picked


def _unweighed(sample: Sample) -> Sample:
    return sample._replace(logps=[math.nan] * len(sample.ids))
