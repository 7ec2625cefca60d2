"""The diagnosis: its measures by hand, and each cause told from the others by the evidence that speaks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.evals.diagnosis import (
    Evidence,
    Judge,
    diagnose,
    measure_layout,
    measure_replies,
    pair_accuracy,
    write_diagnosis,
)
from prefloop.evals.diagnosis.replies import (
    best_of,
    commonest_share,
    mahalanobis,
    pair_agreement,
    repeated_share,
    within_prompt_correlation,
)
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import encode_prompts
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import Interval, Message, PreferencePair


def about(value: float, half: float = 0.05) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=100)


HEALTHY: dict[str, Any] = {
    "episodes": 1000,
    "batches": 8,
    "kl": about(1.0),
    "root_kl": 1.0,
    "clip_fraction": 0.02,
    "moved_kl": 0.005,
    "explained_variance": 0.5,
    "score_trend": 0.5,
    "rise": about(0.5),
    "held_out_rises": {"held_out": about(0.4)},
    "best_of_16": about(1.2),
    "agreement": {"held_out": about(0.8)},
    "learned": about(0.7),
    "length_correlation": about(0.2),
    "length_correlation_held_out": 0.2,
    "tokens": (about(27.0), about(28.0)),
    "repeated": (about(0.1), about(0.1)),
    "commonest": (about(0.1), about(0.15)),
    "start_quality": about(0.0),
    "far": (about(0.05), about(0.08)),
    "parameters": {"policy": 1_000_000, "PM": 1_000_000},
    "layers": {"policy": 4, "PM": 4},
    "formats": {"policy": "own:1", "PM": "own:1"},
    "same_vocabulary": True,
    "other_layout": {"policy": about(-0.9)},
}


def cause(**changed: Any) -> str | None:
    return diagnose("run", Evidence(**(HEALTHY | changed))).cause


def test_a_healthy_run_raises_nothing() -> None:
    found = diagnose("run", Evidence(**HEALTHY))
    assert found.cause is None
    assert not found.findings
    assert len(found.healthy) == 8
    assert found.answer.startswith("Neither")


def test_what_is_not_known_accuses_nobody() -> None:
    found = diagnose("run", Evidence(episodes=100))
    assert found.cause is None


@pytest.mark.parametrize(
    ("expected", "changed"),
    [
        ("template_mismatch", {"formats": {"policy": "own:1", "PM": "hh:2"}}),
        ("template_mismatch", {"other_layout": {"policy": about(1.2)}}),
        ("template_mismatch", {"learned": about(0.75), "reread": about(0.5)}),
        ("optimiser_failing", {"clip_fraction": 0.6, "moved_kl": 3.0, "rise": about(-1.0)}),
        ("optimiser_failing", {"kl": about(90.0, 5.0), "rise": about(0.2)}),
        ("optimiser_failing", {"moved_kl": 10.0, "kl": about(510.0, 5.0), "rise": about(1.5)}),  # a PM that likes noise
        ("optimiser_failing", {"kl": about(0.0, 0.001), "rise": about(0.0)}),
        ("optimiser_failing", {"explained_variance": -0.4, "rise": about(0.02), "score_trend": 0.1}),
        ("optimiser_failing", {"explained_variance": 0.01, "rise": about(-0.1), "score_trend": 0.1}),
        ("pm_near_chance", {"explained_variance": -9.0, "rise": about(0.0), "learned": about(0.5)}),
        ("reward_gamed", {"length_correlation": about(0.95)}),
        ("reward_gamed", {"repeated": (about(0.1), about(0.7)), "held_out_rises": {"held_out": about(-0.3)}}),
        ("reward_gamed", {"commonest": (about(0.1), about(0.8)), "held_out_rises": {"held_out": about(0.0)}}),
        ("pm_near_chance", {"learned": about(0.5)}),
        ("pm_near_chance", {"agreement": {"held_out": about(0.5)}}),
        ("pm_near_chance", {"judged": about(0.5)}),
        ("pm_near_chance", {"gold": about(0.52)}),
        ("pm_too_small", {"agreement": {"held_out": about(0.5)}, "parameters": {"policy": 1_000_000, "PM": 4_000}}),
        (
            "pm_out_of_distribution",
            {"far": (about(0.6), about(0.7)), "held_out_rises": {"held_out": about(0.0)}},
        ),
        (  # it is right on its own pairs: that it knows nothing of these answers has a reason
            "pm_out_of_distribution",
            {"far": (about(0.6), about(0.7)), "agreement": {"held_out": about(0.5)}, "reread": about(0.7)},
        ),
        (
            "pm_near_chance",
            {
                "far": (about(0.6), about(0.7)),
                "agreement": {"held_out": about(0.5)},
                "learned": about(0.6),
                "reread": about(0.55),
            },
        ),
        ("policy_too_small", {"rise": about(0.0), "score_trend": 0.1}),
        (
            "policy_too_small",
            {
                "rise": about(0.3),
                "layers": {"policy": 1, "PM": 4},
                "parameters": {"policy": 400_000, "PM": 1_000_000},
            },
        ),
        (
            "policy_too_small",
            {
                "rise": about(1.1),
                "start_quality": about(-0.8),
                "layers": {"policy": 1, "PM": 4},
                "parameters": {"policy": 400_000, "PM": 1_000_000},
            },
        ),
        ("policy_data_starved", {"rise": about(0.1), "score_trend": 1.2}),
    ],
)
def test_each_cause_is_told_by_its_evidence(expected: str, changed: dict[str, Any]) -> None:
    assert cause(**changed) == expected


def test_the_cause_that_explains_the_others_is_named_first() -> None:
    everything = {
        "formats": {"policy": "own:1", "PM": "hh:2"},
        "clip_fraction": 0.6,
        "rise": about(0.0),
        "agreement": {"held_out": about(0.5)},
    }
    found = diagnose("run", Evidence(**(HEALTHY | everything)))
    names = [finding.cause for finding in found.findings]
    assert names[:3] == ["template_mismatch", "optimiser_failing", "pm_near_chance"]
    assert found.cause == names[0]


def test_a_few_prompts_seen_again_and_again_need_a_smaller_gap() -> None:
    # 1,000 episodes: 50 replies to each of 20 prompts, 5 to each of 200
    gap = {"rise": about(0.3), "score_trend": 0.6, "explained_variance": -0.3}
    assert cause(**gap, training_prompts=20) == "policy_data_starved"
    assert cause(**gap, training_prompts=200) is None
    assert cause(**(gap | {"score_trend": 0.34}), training_prompts=20) is None  # within the interval of the rise
    # a value model that misleads teaches nothing on its training prompts either
    still = {"rise": about(0.04), "score_trend": 0.05, "explained_variance": -0.3}
    assert cause(**still, training_prompts=20) == "optimiser_failing"


@pytest.mark.parametrize(
    ("question", "changed"),
    [
        ("whether the value model helps", {"batches": 7, "explained_variance": -0.4, "rise": about(0.02)}),
        ("whether the value model helps", {"kl": about(0.06), "explained_variance": -0.4, "rise": about(0.02)}),
        ("whether the optimiser moves the policy", {"batches": 3, "kl": about(0.0, 0.001), "rise": about(0.0)}),
        ("whether the policy can do what the PM asks for", {"batches": 3, "rise": about(0.0)}),
        ("whether what it learns holds on other prompts", {"batches": 3, "rise": about(0.1), "score_trend": 1.2}),
    ],
)
def test_a_short_run_accuses_nobody(question: str, changed: dict[str, Any]) -> None:
    found = diagnose("run", Evidence(**(HEALTHY | {"score_trend": 0.1} | changed)))
    assert found.cause is None
    assert "too short to tell" in found.evidence.unknown[question]
    assert len(found.healthy) < 8  # what is not known is not in order either


def test_large_steps_that_teach_are_no_failure() -> None:
    assert cause(clip_fraction=0.4, rise=about(0.8)) is None
    assert cause(clip_fraction=0.4, rise=about(0.8), kl=about(51.0, 2.0)) is None  # may be 49 nats, below the limit


def test_a_phrase_that_all_judges_like_is_no_game() -> None:
    assert cause(commonest=(about(0.1), about(0.8))) is None


def test_two_tokenizers_may_write_in_two_ways() -> None:
    assert cause(formats={"policy": "own:1", "PM": "template:2"}, same_vocabulary=False) is None


def test_agreement_of_pairs_by_hand() -> None:
    one = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]])
    other = np.array([[1.0, 3.0, 2.0], [5.0, 6.0, 7.0]])
    # first prompt: (1,2) alike, (1,3) alike, (2,3) not: 2 of 3; second: (1,2) tied by one, the others alike: 2 of 2
    found = pair_agreement(one, other)
    assert found is not None
    assert found.value == pytest.approx(4 / 5)
    assert (found.n, found.clusters) == (5, 2)
    assert pair_agreement(np.ones((2, 3)), other) is None


def test_best_of_by_hand() -> None:
    scores = np.array([[1.0, 2.0, 6.0], [0.0, 3.0, 0.0]])
    by = np.array([[0.0, 9.0, 1.0], [1.0, 0.0, 0.0]])
    # picks 2 and 0; means 3 and 1: -1 and -1
    assert best_of(scores, by).value == -1.0
    assert best_of(scores, scores).value == pytest.approx((3.0 + 2.0) / 2)


def test_correlation_within_prompts_ignores_differences_between_them() -> None:
    length = np.array([[1.0, 2.0, 3.0], [101.0, 102.0, 103.0], [5.0, 5.0, 5.0]])
    score = np.array([[3.0, 2.0, 1.0], [303.0, 302.0, 301.0], [1.0, 2.0, 3.0]])
    found = within_prompt_correlation(score, length)
    assert found is not None
    assert found.value == pytest.approx(-1.0)
    assert found.n == 2  # the third prompt's lengths do not vary


def test_repetition_and_phrases_by_hand() -> None:
    texts = ["a b c d e a b c d", "a b c d e f", "x y", ""]
    assert repeated_share(texts).value == 0.25  # "a b c d" twice in the first
    assert commonest_share(texts).value == 0.5  # "a b c d e" in the first two
    assert commonest_share(["x", "y"]).value == 0.0


def test_distance_is_in_deviations() -> None:
    reference = np.random.default_rng(0).normal(0.0, [1.0, 10.0], (4000, 2))
    near, far = mahalanobis(np.array([[3.0, 0.0], [0.0, 30.0]]), reference)
    assert near == pytest.approx(3.0, rel=0.05)
    assert far == pytest.approx(3.0, rel=0.05)


def test_replies_of_real_models_are_measured(tmp_path: Path) -> None:
    chat = load_language_model(tiny_model(CHAT_MODEL))
    judges = []
    for seed, name in enumerate(("PM", "held_out")):
        judges.append(Judge(name, PreferenceModel.from_language_model(tiny_model(CHAT_MODEL), seed)))
    contexts = [[Message(role="user", text=f"How do I cook {thing}?")] for thing in ("soup", "rice", "beans", "pasta")]
    prompts = encode_prompts(chat.renderer, contexts, 100).prompts
    fields = measure_replies(chat, chat, judges, prompts, 12, [], gold=lambda context, reply: float(len(reply)))
    evidence = Evidence(episodes=1, **fields)
    assert evidence.best_of_16 is not None
    assert evidence.best_of_16.low > 0.5
    assert evidence.rise is not None
    assert abs(evidence.rise.value) < 1.0  # nothing was trained: chance alone
    assert set(evidence.agreement) == {"held_out"}
    assert evidence.gold is not None
    assert evidence.far is None  # no training pairs were given

    found = diagnose("run", evidence)
    page = write_diagnosis(found, tmp_path / "diagnosis.html")
    text = page.read_text(encoding="utf-8")
    assert "is it the PM or the policy?" in text
    assert "Everything that was measured" in text
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["run"] == "run"


@pytest.fixture(scope="module")
def short_window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that reads 64 tokens."""
    tokenizer = train_tokenizer(["mend the blue cup how does river sing"] * 50, 300)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=64, seed=0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("short") / "model")


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts))


LONG = turns("the blue cup " * 9, "sing the river " * 9, "mend the cup", "how does it " * 9, "how does the river sing")


def test_contexts_longer_than_the_window_are_answered_as_they_were_fitted(short_window: Path) -> None:
    chat = load_language_model(short_window)
    assert len(chat.renderer.context_ids(LONG)) > 64
    judges = [Judge(name, PreferenceModel.from_language_model(short_window, i)) for i, name in enumerate(("PM", "h"))]
    prompts = encode_prompts(chat.renderer, [LONG] * 3 + [turns("sing the cup")], 64 - 1 - 8).prompts
    pairs = [
        PreferencePair(context=turns(f"mend the cup {place}"), chosen="the blue cup", rejected="sing")
        for place in range(60)
    ]
    long = PreferencePair(context=turns("mend"), chosen="the blue cup " * 40, rejected="sing")  # no turn can be dropped
    fields = measure_replies(chat, chat, judges, prompts, 8, [long, *pairs])
    evidence = Evidence(episodes=1, **fields)
    assert evidence.rise is not None
    assert evidence.start_quality is not None
    assert evidence.far is not None
    assert evidence.far[0].n == 16  # four of each prompt's replies
    accuracy = pair_accuracy(judges[0].model, [long, *pairs])
    assert accuracy is not None
    assert accuracy.n == 60
    assert accuracy == pair_accuracy(judges[0].model, pairs)
    assert pair_accuracy(judges[0].model, [long]) is None


def test_an_end_that_writes_other_tokens_answers_what_it_can_read(short_window: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["zzz"], 262)  # letter by letter
    path = save_model(
        new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=64, seed=1), tokenizer, tmp_path / "end"
    )
    start, end = load_language_model(short_window), load_language_model(path)
    judges = [Judge(name, PreferenceModel.from_language_model(short_window, i)) for i, name in enumerate(("PM", "h"))]
    too_long = turns("mend the blue cup how does the river sing the blue cup how does")  # 63 letters
    prompts = encode_prompts(start.renderer, [too_long, LONG, turns("sing")], 64 - 1 - 8).prompts
    assert len(prompts) == 3
    fields = measure_replies(start, end, judges, prompts, 8, [])
    assert fields["rise"].n == 2  # LONG without its oldest turns, and the short one


def test_turns_that_do_not_fit_the_window_are_not_read(short_window: Path) -> None:
    chat = load_language_model(short_window)
    found = measure_layout(chat, [turns("sing", "the cup", "mend"), turns("how", "the river", "sing"), LONG])
    assert found is not None
    assert found.n == 2
    assert measure_layout(chat, [LONG] * 3) is None


def test_a_model_reads_its_own_template_best() -> None:
    chat = load_language_model(tiny_model(CHAT_MODEL))
    asked = Message(role="user", text="How do I cook soup?")
    answered = Message(role="assistant", text="Here is how to cook soup.")
    contexts = [[asked, answered, asked]] * 3
    own = measure_layout(chat, contexts)
    assert own is not None
    assert own.high < 0  # nothing is saved
    lost = chat.renderer.other_layout()
    assert lost is not None
    assert lost.layout == "hh"
    found = measure_layout(chat._replace(renderer=lost), contexts)
    assert found is not None
    assert found.low > 0.2
    back = lost.other_layout()
    assert back is not None
    assert back.format == chat.renderer.format
    assert measure_layout(chat, [[asked]]) is None
