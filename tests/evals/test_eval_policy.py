"""A policy beside its base: by hand with scripted samplers, and with real models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from prefloop.errors import DataError
from prefloop.evals import write_policy_page
from prefloop.evals.policy import evaluate_policy
from prefloop.models.language import new_llama, train_tokenizer
from prefloop.models.sampling import TorchSampler
from prefloop.render import Renderer
from prefloop.schema import Message, Sample, SamplingSettings

WORDS = "mend the blue cup how does river sing ask kind tree for bread"
PROMPTS = [[Message(role="user", text=text)] for text in ("mend the cup", "how does", "ask the tree", "sing")]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train_tokenizer([WORDS] * 50, 320))


class Script:
    """A sampler that says what it was told to."""

    version = "script"

    def __init__(self, renderer: Renderer, replies: Sequence[str]) -> None:
        self.renderer, self.replies = renderer, replies

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        samples = []
        for reply in self.replies:
            ids = self.renderer.reply_ids(reply)
            samples.append([Sample(ids, [-1.0] * len(ids), "stop")] * n)
        return samples


class CountsWords:
    """A scorer that likes one word."""

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [float(conversation[-1].text.split().count("kind")) for conversation in conversations]


def gold(context: Sequence[Message], reply: str) -> float:
    return -float(len(reply))


def test_by_hand(renderer: Renderer) -> None:
    policy = Script(renderer, ["kind kind", "kind", "the tree", "kind bread"])
    base = Script(renderer, ["kind", "kind", "kind", "bread"])
    found = evaluate_policy(policy, base, PROMPTS, {"pm": CountsWords()}, renderer, gold=gold, samples_shown=2)
    assert found.prompts == 4
    # counts 2, 1, 0, 1 against 1, 1, 1, 0: win, tie, loss, win
    assert found.win_rates["pm"].value == (1 + 0.5 + 0 + 1) / 4
    assert found.policy.scores["pm"].value == 1.0
    assert found.base.scores["pm"].value == 0.75
    # lengths 9, 4, 8, 10 against 4, 4, 4, 5, shorter is better: loss, tie, loss, loss
    assert found.win_rates["gold"].value == 0.125
    assert found.policy.scores["gold"].value == -31 / 4
    assert found.policy.stopped.value == 1.0
    # words kind kind | kind | the tree | kind bread: 4 of 7 differ; pairs (kind kind), (the tree), (kind bread) all do
    distinct = found.policy.distinct[1]
    assert distinct is not None
    assert distinct.value == pytest.approx(4 / 7)
    assert found.policy.distinct[3] is None  # there is no run of three words
    # differences 1, 0, -1, 1
    assert found.differences["pm"].value == 0.25
    # the policy's scores 2, 1, 0, 1 and lengths 9, 4, 8, 10 in characters: gold falls with length by definition
    gold_by_length = found.policy.length_correlation["gold"]
    assert gold_by_length is not None
    assert gold_by_length.value < 0
    # the words {kind}, {kind}, {the, tree}, {kind, bread}: likeness 1, 0, 1/2, 0, 1/2, 0 of the six pairs
    assert found.policy.self_similarity is not None
    assert found.policy.self_similarity.value == pytest.approx(2 / 6)
    # every scripted token has the log-probability -1
    assert found.policy.entropy is not None
    assert found.policy.entropy.value == 1.0
    assert found.kl is None
    shown = found.samples[1]
    assert (shown.policy, shown.base) == ("kind bread", "bread")
    assert shown.scores_policy == {"pm": 1.0, "gold": -10.0}
    assert shown.context == tuple(PROMPTS[3])


def test_clusters_are_what_the_caller_says(renderer: Renderer) -> None:
    policy = Script(renderer, ["kind"] * 20 + ["the"] * 20)  # wins twenty times, then loses twenty times
    base = Script(renderer, ["the"] * 20 + ["kind"] * 20)
    labels = [i // 4 for i in range(40)]  # prompts with one label have one outcome, so they tell as much as one
    alone = evaluate_policy(policy, base, PROMPTS * 10, {"pm": CountsWords()}, renderer)
    paired = evaluate_policy(policy, base, PROMPTS * 10, {"pm": CountsWords()}, renderer, clusters=labels)
    assert (alone.win_rates["pm"].clusters, paired.win_rates["pm"].clusters) == (40, 10)
    assert (
        paired.win_rates["pm"].high - paired.win_rates["pm"].low
        > alone.win_rates["pm"].high - alone.win_rates["pm"].low
    )


def test_a_model_against_itself_ties_everywhere(renderer: Renderer) -> None:
    model = new_llama(renderer.tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0).eval()
    sampler = TorchSampler(model, renderer, "base")
    settings = SamplingSettings(max_response_tokens=8)
    found = evaluate_policy(
        sampler, sampler, PROMPTS, {"pm": CountsWords()}, renderer, reference=model, settings=settings, seed=3
    )
    assert found.win_rates["pm"].value == 0.5
    assert found.policy.tokens == found.base.tokens
    assert found.policy.scores == found.base.scores
    assert found.kl is not None
    assert abs(found.kl.value) < 1e-4


def test_kl_to_the_reference_has_the_right_size(renderer: Renderer) -> None:
    model = new_llama(renderer.tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0).eval()
    other = new_llama(renderer.tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=1).eval()
    with torch.no_grad():  # make both say something of their own
        for changed in (model, other):
            changed.lm_head.weight.mul_(8)
    prompts = PROMPTS * 100
    found = evaluate_policy(
        TorchSampler(model, renderer, "policy"),
        TorchSampler(other, renderer, "base"),
        prompts,
        {"pm": CountsWords()},
        renderer,
        reference=other,
        settings=SamplingSettings(max_response_tokens=1),
    )
    exact = []
    for prompt in PROMPTS:  # with one token a reply the KL is a sum over the vocabulary
        ids = torch.tensor([renderer.context_ids(prompt)])
        with torch.no_grad():
            p, q = (changed(input_ids=ids).logits[0, -1].log_softmax(-1) for changed in (model, other))
        exact.append((p.exp() * (p - q)).sum().item())
    assert found.kl is not None
    assert found.kl.low <= sum(exact) / 4 <= found.kl.high


def test_results_name_metric_and_scorer(renderer: Renderer) -> None:
    script = Script(renderer, ["kind"] * 4)
    found = evaluate_policy(script, script, PROMPTS, {"pm": CountsWords()}, renderer, gold=gold)
    rows = {(row.metric, row.data): row.value.value for row in found.results("snapshot", "held-out")}
    assert rows["policy_eval/win_rate", "held-out scorer=gold"] == 0.5
    assert rows["policy_eval/score", "held-out scorer=pm"] == 1.0
    assert rows["policy_eval/score_difference", "held-out scorer=gold"] == 0.0
    assert rows["policy_eval/distinct", "held-out words=1"] == 0.25
    assert ("policy_eval/reply_tokens", "held-out") in rows


def test_what_cannot_be_evaluated(renderer: Renderer) -> None:
    script = Script(renderer, ["kind"] * 4)
    with pytest.raises(DataError, match="0 scorers"):
        evaluate_policy(script, script, PROMPTS, {}, renderer)
    with pytest.raises(DataError, match="0 prompts"):
        evaluate_policy(script, script, [], {"pm": CountsWords()}, renderer)
    with pytest.raises(DataError, match=r"not for 0\.7"):
        evaluate_policy(
            script,
            script,
            PROMPTS,
            {"pm": CountsWords()},
            renderer,
            reference=object(),
            settings=SamplingSettings(temperature=0.7),
        )


def test_modes_apart_and_a_page(renderer: Renderer, tmp_path: Path) -> None:
    policy = Script(renderer, ["kind kind", "kind", "the tree", "kind bread"])
    base = Script(renderer, ["kind", "kind", "kind", "bread"])
    modes = ["helpful", "red_team", "red_team", "helpful"]
    found = evaluate_policy(policy, base, PROMPTS, {"pm": CountsWords()}, renderer, modes=modes, gold=gold)
    # counts 2, 1, 0, 1 against 1, 1, 1, 0: the first and the last win, of the middle two one ties and one loses
    assert found.modes["helpful"].win_rates["pm"].value == 1.0
    assert found.modes["red_team"].win_rates["pm"].value == 0.25
    assert found.modes["red_team"].policy["pm"].value == 0.5
    assert [part.prompts for part in found.modes.values()] == [2, 2]
    assert found.modes["red_team"].differences["pm"].value == -0.5  # 0 and -1
    page = write_policy_page(found, tmp_path / "policy.html", "new", "base").read_text("utf-8")
    assert "harmless (red-team) prompts (2)" in page
    assert "new less base, by pm" in page
    assert "People have not compared these two snapshots" in page
    assert (tmp_path / "policy.json").is_file()
