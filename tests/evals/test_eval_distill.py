"""A distilled model beside its teacher: contexts that do not fit behind the example prompt lose their oldest turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from prefloop.errors import DataError
from prefloop.evals import evaluate_distillation
from prefloop.evals.distill import behind_prompt
from prefloop.models.language import LanguageModel, load_language_model, new_llama, save_model, train_tokenizer
from prefloop.schema import Message, SamplingSettings


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if place % 2 else "user", text=text) for place, text in enumerate(texts))


PROMPT = turns("mend the cup", "the blue river")
LONG = turns("the blue cup " * 9, "sing the river " * 9, "how does the river sing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    tokenizer = train_tokenizer(["mend the blue cup how does river sing"] * 50, 300)
    trunk = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=64, seed=0)
    return load_language_model(save_model(trunk, tokenizer, tmp_path_factory.mktemp("short") / "model"))


def test_all_three_read_the_turns_that_are_left(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[Message]] = []

    def gold(context: Sequence[Message], reply: str) -> float:
        seen.append(context)
        return float(len(reply))

    settings = SamplingSettings(max_response_tokens=8)
    too_long = turns("the blue cup " * 20)
    assert len(model.renderer.context_ids(LONG)) > 64
    found = evaluate_distillation(
        model, model, PROMPT, [LONG, turns("sing"), too_long], gold=gold, settings=settings, seed=1
    )
    assert (found.prompts, found.left_out) == (2, 1)
    assert seen == [turns("how does the river sing"), turns("sing")] * 3
    assert abs(found.prompted.kl.value) < 1e-4  # it is its own measure


def test_a_prompt_that_leaves_no_room_is_named(model: LanguageModel, tmp_path: Path) -> None:
    renderer = model.renderer
    prompt_tokens = len(renderer.conversation(PROMPT).ids)
    room = len(renderer.context_ids(turns("sing")))
    window = prompt_tokens + 8 + room
    assert behind_prompt(renderer, PROMPT, [LONG, turns("sing")], window, 8) == [turns("sing")]
    with pytest.raises(DataError, match="The last turn of each of the 1 prompts is longer"):
        behind_prompt(renderer, PROMPT, [turns("sing")], window - 1, 8)
    with pytest.raises(DataError, match=f"has {prompt_tokens} tokens and a reply 8, which leaves no room"):
        behind_prompt(renderer, PROMPT, [turns("sing")], prompt_tokens + 8, 8)
