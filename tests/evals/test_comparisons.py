"""What held-out comparisons say of a policy: by hand against the model's own probabilities, and people's judgments."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from prefloop.errors import DataError
from prefloop.evals import logp_accuracy, people_win_rate
from prefloop.models.language import new_llama, train_tokenizer
from prefloop.render import Renderer
from prefloop.schema import Message, Mode, PreferencePair

WORDS = "mend the blue cup how does river sing ask kind tree for bread"


class LikesLong:
    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [float(len(conversation[-1].text)) for conversation in conversations]


def pairs() -> list[PreferencePair]:
    words = WORDS.split()
    return [
        PreferencePair(
            context=(Message(role="user", text=f"mend the {words[place]}"),),
            chosen=" ".join(words[place : place + 2]),
            rejected=words[place - 1],
            conversation_id=str(place),
            mode=Mode.RED_TEAM if place % 3 == 0 else Mode.HELPFUL,
        )
        for place in range(1, 11)
    ]


def test_by_the_models_own_probabilities() -> None:
    renderer = Renderer(train_tokenizer([WORDS] * 50, 320))
    policy, base = (
        new_llama(renderer.tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=seed).eval()
        for seed in (0, 1)
    )
    with torch.no_grad():
        policy.model.embed_tokens.weight.mul_(8)
    found = logp_accuracy(policy, base, renderer, pairs(), {"pm": LikesLong()}, 64)

    def mean_logp(pair: PreferencePair, text: str) -> float:
        context, reply = renderer.context_ids(pair.context), renderer.reply_ids(text)
        with torch.no_grad():
            logps = policy(input_ids=torch.tensor([context + reply])).logits[0].log_softmax(-1)
        return sum(logps[len(context) - 1 + i, token].item() for i, token in enumerate(reply)) / len(reply)

    right = [mean_logp(pair, pair.chosen) > mean_logp(pair, pair.rejected) for pair in pairs()]
    assert 0 < sum(right) < 10, "the case tells right from wrong"
    assert found.policy["all"].value == pytest.approx(sum(right) / 10)
    red = [is_right for is_right, pair in zip(right, pairs(), strict=True) if pair.mode is Mode.RED_TEAM]
    assert found.policy["red_team"].value == pytest.approx(sum(red) / len(red))
    longer = [len(pair.chosen) > len(pair.rejected) for pair in pairs()]
    assert found.ceilings["pm"]["all"].value == pytest.approx(sum(longer) / 10)
    assert (found.pairs, found.dropped_long) == (10, 0)
    assert set(found.base) == {"all", "helpful", "red_team"}


def test_what_does_not_fit_is_counted() -> None:
    renderer = Renderer(train_tokenizer([WORDS] * 50, 320))
    model = new_llama(renderer.tokenizer, hidden=32, layers=1, heads=4, window_tokens=64, seed=0).eval()
    long = pairs()[0].model_copy(update={"chosen": "mend " * 80})
    found = logp_accuracy(model, model, renderer, [*pairs(), long], {}, 64)
    assert (found.pairs, found.dropped_long) == (10, 1)
    with pytest.raises(DataError, match="None of the 1 held-out comparisons fits the 64 tokens"):
        logp_accuracy(model, model, renderer, [long], {}, 64)


def test_peoples_judgments_between_the_two() -> None:
    def judged(chosen: str | None, rejected: str | None, conversation: str) -> PreferencePair:
        return pairs()[0].model_copy(
            update={
                "chosen_snapshot_id": chosen,
                "rejected_snapshot_id": rejected,
                "conversation_id": conversation,
            }
        )

    judgments = [
        judged("new", "base", "1"),
        judged("new", "base", "1"),
        judged("base", "new", "2"),
        judged("new", "third", "3"),  # says nothing of the two
        judged("new", "new", "4"),
        judged(None, None, "5"),
    ]
    rate = people_win_rate(judgments, "new", "base")
    assert rate is not None
    assert (rate.value, rate.n, rate.clusters) == (pytest.approx(2 / 3), 3, 2)
    assert people_win_rate(judgments[3:], "new", "base") is None
