"""Best of n over replies: by hand with a scripted sampler, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefloop.errors import DataError
from prefloop.evals import evaluate_best_of, write_best_of_report
from prefloop.models.language import train_tokenizer
from prefloop.render import Renderer
from prefloop.schema import Message, Sample, SamplingSettings

PROMPTS = [[Message(role="user", text=text)] for text in ("mend the cup", "sing")]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train_tokenizer(["mend the cup how sing kind tree bread"] * 50, 300))


class Script:
    """Gives each prompt its replies in their order."""

    version = "script"

    def __init__(self, renderer: Renderer, *replies: Sequence[str]) -> None:
        self.renderer, self.replies = renderer, replies

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        ids = [[self.renderer.reply_ids(reply) for reply in row[:n]] for row in self.replies]
        return [[Sample(one, [-1.0] * len(one), "stop") for one in row] for row in ids]


class Counts:
    """A scorer that likes one word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [float(conversation[-1].text.split().count(self.word)) for conversation in conversations]


def test_by_hand(renderer: Renderer, tmp_path: Path) -> None:
    # two replies in the pool, the third stands apart as the opponent
    script = Script(renderer, ["kind kind tree", "kind tree tree", "kind"], ["tree", "kind", "bread"])
    policy = Script(renderer, ["kind kind kind"], ["bread"])
    found = evaluate_best_of(
        script,
        PROMPTS,
        "pm",
        {"pm": Counts("kind"), "judge": Counts("tree")},
        renderer,
        samples=2,
        gold=lambda _, reply: float(len(reply)),
        policies={"ppo": policy},
        beside=2,
    )
    one, two = found.best
    assert (one.n, one.kl, two.n) == (1, 0.0, 2)
    # kinds: 2, 1 and 0, 1; the best of two: 2 and 1
    assert one.scores["pm"].value == (1.5 + 0.5) / 2
    assert two.scores["pm"].value == (2 + 1) / 2
    # trees: 1, 2 and 1, 0; of the picked ones: 1 and 0
    assert one.scores["judge"].value == (1.5 + 0.5) / 2
    assert two.scores["judge"].value == (1 + 0) / 2
    # against "kind" and "bread" by kinds: 2 > 1, 1 = 1 and 0 = 0, 1 > 0; of the picked ones: 2 > 1 and 1 > 0
    assert one.win_rates["pm"].value == ((1 + 0.5) / 2 + (0.5 + 1) / 2) / 2
    assert two.win_rates["pm"].value == 1.0
    assert [(point.k, point.n) for point in found.top] == [(2, 2), (1, 2)]
    assert found.top[0].scores["pm"].value == one.scores["pm"].value
    [beside] = found.policies
    assert beside.differences["pm"].value == ((3 - 2) + (0 - 1)) / 2
    assert beside.win_rates["pm"].value == 0.5
    assert beside.differences["gold"].value == ((14 - 14) + (5 - 4)) / 2
    rows = {(row.metric, row.data): row.value.value for row in found.results("id", "held-out")}
    assert rows["best_of/score", "held-out n=2 picker=pm scorer=judge"] == 0.5
    page = write_best_of_report(found, tmp_path / "best.html", "base").read_text("utf-8")
    assert "Policies beside it" in page
    assert "bounds the KL" in page
    assert json.loads((tmp_path / "best.json").read_text("utf-8"))["title"] == "Best of n from base"


def test_what_cannot_be_evaluated(renderer: Renderer) -> None:
    script = Script(renderer, ["kind"] * 3, ["kind"] * 3)
    with pytest.raises(DataError, match="picker 'other' is none of the scorers"):
        evaluate_best_of(script, PROMPTS, "other", {"pm": Counts("kind")}, renderer)
    with pytest.raises(DataError, match="best of 16 cannot be estimated from 2"):
        evaluate_best_of(script, PROMPTS, "pm", {"pm": Counts("kind")}, renderer, samples=2, policies={"p": script})
