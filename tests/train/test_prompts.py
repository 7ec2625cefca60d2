"""Prompts: drawn in shares, written by a language model, filtered with counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefloop.errors import ConfigError, DataError
from prefloop.loop.prompt_sources import read_prompts, training_prompts
from prefloop.models.language import LanguageModel, load_language_model
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import Message, Mode, PreferencePair
from prefloop.train.prompt_mix import PromptMix, mixed_prompts
from prefloop.train.prompts import PromptsRun, _Sieve, generate_prompts


def test_shares_by_hand() -> None:
    sources = {"helpful": list("abcdefgh"), "red_team": list("XY"), "generated": list("0123456789")}
    # 2 red-team prompts are a fifth of 10: so 4 helpful and 4 generated ones
    mixed = mixed_prompts(sources, {"helpful": 2.0, "red_team": 1.0, "generated": 2.0}, seed=0)
    assert [sum(item in source for item in mixed) for source in sources.values()] == [4, 2, 4]
    assert len(set(mixed)) == 10
    assert mixed == mixed_prompts(sources, {"helpful": 2.0, "red_team": 1.0, "generated": 2.0}, seed=0)
    assert mixed != mixed_prompts(sources, {"helpful": 2.0, "red_team": 1.0, "generated": 2.0}, seed=1)
    assert mixed_prompts(sources, dict.fromkeys(sources, 0.0), seed=0) == list("abcdefghXY0123456789")
    with pytest.raises(DataError, match=r"prompts\.red_team has a share of 0\.5 and there are 0"):
        mixed_prompts({"helpful": ["a"]}, {"helpful": 1.0, "red_team": 1.0}, seed=0)


def pair(text: str, mode: Mode) -> PreferencePair:
    return PreferencePair(context=(Message(role="user", text=text),), chosen="a", rejected="b", mode=mode)


def test_prompts_come_from_pairs_and_a_file(tmp_path: Path) -> None:
    pairs = [
        pair("one", Mode.HELPFUL),
        pair("bad", Mode.RED_TEAM),
        pair("one", Mode.HELPFUL),
        pair("two", Mode.HELPFUL),
    ]
    assert [context[0].text for context in training_prompts(pairs, PromptMix(), 0)] == ["one", "bad", "two"]
    file = tmp_path / "made.jsonl"
    file.write_text('{"prompt": "made up"}\n')
    mix = PromptMix(helpful=1.0, generated=1.0, file=file)
    texts = [context[0].text for context in training_prompts(pairs, mix, 0)]
    assert sorted(texts)[0] == "made up"
    assert len(texts) == 2  # one of each
    with pytest.raises(ConfigError, match=r"prompts\.file names no file"):
        training_prompts(pairs, PromptMix(generated=1.0), 0)
    file.write_text('{"prompt": "made up"}\n{"text": "x"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_prompts(file)


def sift(candidates: Sequence[tuple[str, bool]], held_out: Sequence[str] = ()) -> _Sieve:
    sieve = _Sieve(
        PromptsRun(model=Path("x"), least_characters=5, most_characters=60), ["How do I cook soup?"], held_out
    )
    sieve.sift(candidates)
    return sieve


def test_what_is_dropped_and_why() -> None:
    sieve = sift(
        [
            ("How do I fix the chair?", True),
            ("How do I fix the chair?", True),  # said before
            ("how do I fix the chair", True),  # the same words
            ("How do I fix the chair??!", True),
            ("How do I cook soup?", True),  # was shown
            ("Hi", True),
            ("x" * 61, True),
            ("What is the best way to plan", False),
            ("Tell me a story about a long river in the north", True),
            ("Tell me a story about a long river in the south", True),  # nearly held out
            ("Tell me a story about a long river in the north.", True),  # like that one, and like the held-out one
        ],
        held_out=["Tell me a story about a long river in the south!"],
    )
    assert sieve.kept == ["How do I fix the chair?"]
    assert sieve.dropped["too short"] == 1
    assert sieve.dropped["too long"] == 1
    assert sieve.dropped["unfinished"] == 1
    assert sieve.dropped["duplicate"] == 4
    assert sieve.dropped["overlaps with a held-out prompt"] == 3


def test_later_candidates_are_held_against_earlier_ones() -> None:
    sieve = sift([("How do I fix the chair?", True)])
    sieve.sift([("How do I fix the chair?", True), ("May I keep a parrot?", True)])
    assert sieve.kept == ["How do I fix the chair?", "May I keep a parrot?"]
    assert sieve.dropped == {"duplicate": 1}


@pytest.fixture(scope="module")
def chat() -> LanguageModel:
    return load_language_model(tiny_model(CHAT_MODEL))


def test_the_tiny_model_writes_requests(chat: LanguageModel) -> None:
    shown = ["How do I cook soup?", "I want to fix the chair.", "Please tell me how to visit the harbour on Tuesday."]
    run = PromptsRun(model=Path("x"), count=20, shots=1, seed=4)
    found = generate_prompts(run, chat, shown, held_out=["How do I grow herbs?"])
    assert len(found.prompts) == 20
    assert len(set(found.prompts)) == 20
    assert found.candidates >= 20
    assert sum(found.dropped.values()) <= found.candidates - 20
    assert all(10 <= len(prompt) <= 1000 and "<|" not in prompt for prompt in found.prompts)
    assert found == generate_prompts(run, chat, shown, held_out=["How do I grow herbs?"])
    assert json.dumps(found.prompts)


def test_too_few_messages_to_show(chat: LanguageModel) -> None:
    with pytest.raises(DataError, match="shots = 10 and there are 1 messages"):
        generate_prompts(PromptsRun(model=Path("x")), chat, ["How do I cook soup?"], [])
