"""What a snapshot shows: the same tokens as its parts give when they are put together by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from prefloop.models.language import new_llama, train_tokenizer
from prefloop.models.sampling import TorchSampler
from prefloop.models.snapshot_sampling import SnapshotSampler
from prefloop.render import Renderer
from prefloop.schema import Message, Sample, SamplingSettings, Snapshot

WORDS = "mend the blue cup how does river sing ask kind tree for bread"
CONTEXTS = [[Message(role="user", text=text)] for text in ("mend the cup", "how does river", "ask")]
EXAMPLES = (Message(role="user", text="sing"), Message(role="assistant", text="kind bread"))
ASKED = SamplingSettings(max_response_tokens=8)
WINDOW = 64


@pytest.fixture(scope="module")
def weights() -> tuple[Any, Renderer]:
    renderer = Renderer(train_tokenizer([WORDS] * 50, 320))
    model = new_llama(renderer.tokenizer, hidden=32, layers=2, heads=4, window_tokens=WINDOW, seed=0).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    return model, renderer


class Letters:
    """A scorer that likes one letter and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Sequence[Message]] = []

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        self.seen += conversations
        return [float(conversation[-1].text.count("e")) for conversation in conversations]


def ids(renderer: Renderer) -> list[list[int]]:
    return [renderer.context_ids(context) for context in CONTEXTS]


def shown(weights: tuple[Any, Renderer], picker: Letters | None = None, **fields: Any) -> SnapshotSampler:
    snapshot = Snapshot(name="shown", hash="", path="", **fields)
    return SnapshotSampler(*weights, snapshot, CONTEXTS, WINDOW - 8, picker)


def plain(weights: tuple[Any, Renderer], prompts: list[list[int]], n: int) -> list[list[Sample]]:
    return TorchSampler(*weights, "plain").sample(prompts, n, ASKED, 3)


def test_a_plain_snapshot_is_its_weights(weights: tuple[Any, Renderer]) -> None:
    prompts = ids(weights[1])
    assert shown(weights).sample(prompts, 2, ASKED, 3) == plain(weights, prompts, 2)


def test_an_example_prompt_stands_before_every_context(weights: tuple[Any, Renderer]) -> None:
    renderer = weights[1]
    behind = [renderer.context_ids([*EXAMPLES, *context]) for context in CONTEXTS]
    found = shown(weights, prompt=EXAMPLES).sample(ids(renderer), 1, ASKED, 3)
    assert found == plain(weights, behind, 1)
    assert found != plain(weights, ids(renderer), 1)


def test_the_best_of_k_is_what_the_pm_likes_most_of_each_k(weights: tuple[Any, Renderer]) -> None:
    renderer, picker = weights[1], Letters()
    prompts = ids(renderer)
    drawn = plain(weights, prompts, 8)
    found = shown(weights, picker, best_of_k=4, prompt=(), preference_model_id="pm").sample(prompts, 2, ASKED, 3)
    for row, candidates in zip(found, drawn, strict=True):
        for reply, four in zip(row, (candidates[:4], candidates[4:]), strict=True):
            counts = [renderer.decode(sample.ids).count("e") for sample in four]
            assert reply.ids == four[counts.index(max(counts))].ids
            assert all(math.isnan(logp) for logp in reply.logps)  # nobody knows how likely a pick is
    assert [len(conversation) for conversation in picker.seen] == [2] * 24


def test_the_pm_does_not_read_the_example_prompt(weights: tuple[Any, Renderer]) -> None:
    picker = Letters()
    shown(weights, picker, best_of_k=2, prompt=EXAMPLES, preference_model_id="pm").sample(ids(weights[1]), 1, ASKED, 3)
    assert [conversation[0].text for conversation in picker.seen[::2]] == [context[0].text for context in CONTEXTS]


def test_settings_are_the_snapshots_and_a_length_the_shorter_one(weights: tuple[Any, Renderer]) -> None:
    prompts = ids(weights[1])
    greedy = SamplingSettings(temperature=0.0, max_response_tokens=3)
    found = shown(weights, sampling=greedy).sample(prompts, 2, ASKED, 3)
    expected = TorchSampler(*weights, "plain").sample(prompts, 2, greedy, 99)
    assert [[one.ids for one in row] for row in found] == [[one.ids for one in row] for row in expected]
    assert all(math.isnan(logp) for row in found for one in row for logp in one.logps)
    long = shown(weights, sampling=SamplingSettings(max_response_tokens=40)).sample(prompts, 1, ASKED, 3)
    assert max(len(row[0].ids) for row in long) <= 8


def test_a_stop_string_is_not_shown(weights: tuple[Any, Renderer]) -> None:
    renderer = weights[1]
    prompts = ids(renderer)
    texts = [renderer.decode(row[0].ids) for row in plain(weights, prompts, 1)]
    stop = texts[0][3]
    found = shown(weights, sampling=SamplingSettings(stop=(stop,))).sample(prompts, 1, ASKED, 3)
    for text, (reply,) in zip(texts, found, strict=True):
        said = renderer.decode(reply.ids)
        assert text.startswith(said)
        assert stop not in said
        if stop in text:
            assert (reply.finish_reason, reply.ids[-1]) == ("stop", renderer.end_id)
            assert all(math.isnan(logp) for logp in reply.logps)
