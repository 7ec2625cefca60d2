"""Each alarm rings for its reason, once, and a healthy row is silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefloop.schema import Interval
from prefloop.train.alarms import Alarms

HEALTHY = {
    "episodes": 256,
    "policy/ratio_first_error": 1e-6,
    "policy/logp_first_difference": 1e-7,
    "kl/k1": 0.5,
    "kl/k1_standard_error": 0.1,
    "reply/tokens": 40.0,
    "reply/stopped": 0.9,
    "policy/entropy": 2.0,
}


def interval(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, n=100)


def alarms(dtype: str = "float32", state: dict[str, Any] | None = None, episodes: int = 256) -> Alarms:
    return Alarms(interval(40.0), interval(0.95), dtype, episodes, state)


CASES = [
    ({"policy/ratio_first_error": 0.02}, "ratio_not_one", "0.02 away from 1"),
    ({"policy/logp_first_difference": 2e-4}, "ratio_not_one", "differ by 0.0002 nats a token"),
    ({"sampler/mean_difference": 0.15}, "sampler_disagrees", "by 0.15 nats a token"),
    ({"kl/k1": -0.5}, "negative_kl", "-0.5 nats a reply"),
    ({"kl/k1": 866.0}, "kl_blown_up", "866 nats a reply away from where it started"),
    ({"score/length_correlation": 0.95}, "score_follows_length", "rewards long replies and little else"),
    ({"score/length_correlation": -0.95}, "score_follows_length", "rewards short replies"),
    ({"reply/tokens": 81.0}, "exploding_length", "81 tokens on average, the start's 40"),
    ({"reply/stopped": 0.6}, "replies_do_not_stop", "60% of the replies"),
    ({"policy/entropy": 0.4}, "collapsed_entropy", "0.4 nats a token, 2 in the first batch"),
]


@pytest.mark.parametrize(
    ("change", "name", "words"), CASES, ids=[f"{case[1]} {place}" for place, case in enumerate(CASES)]
)
def test_each_condition_rings_once_until_it_ends(change: dict[str, float], name: str, words: str) -> None:
    watch = alarms()
    assert watch.check(HEALTHY) == []
    (alarm,) = watch.check(HEALTHY | change)
    assert alarm.name == name
    assert words in alarm.reason
    assert watch.check(HEALTHY | change) == []  # it still holds
    assert watch.check(HEALTHY) == []
    assert len(watch.check(HEALTHY | change)) == 1  # it came back
    assert len(watch.reasons) == 2


def test_a_large_kl_that_may_be_chance_is_silent() -> None:
    watch = alarms()
    # 53 - 3 * 1 = 50, the limit itself
    assert watch.check(HEALTHY | {"kl/k1": 53.0, "kl/k1_standard_error": 1.0}) == []
    assert watch.check(HEALTHY | {"kl/k1": 53.1, "kl/k1_standard_error": 1.0}) != []


def rings(watch: Alarms, change: dict[str, float]) -> bool:
    return watch.check(HEALTHY | change) != []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_with_length_that_may_be_chance_is_silent(sign: int) -> None:
    # 2 replies have a rank correlation of 1 or -1 whatever they are, 4 one in 12 times
    for episodes in (2, 4, 8, 15):
        assert not rings(alarms(episodes=episodes), {"score/length_correlation": 1.0 * sign})
    assert rings(alarms(episodes=16), {"score/length_correlation": 1.0 * sign})
    # of 67: atanh(0.95) - 3 sqrt((1 + 0.95^2 / 2) / 64) = 1.832 - 0.452 = 1.380 < atanh(0.9) = 1.472
    assert not rings(alarms(episodes=67), {"score/length_correlation": 0.95 * sign})
    # atanh(0.96) - 3 sqrt((1 + 0.96^2 / 2) / 64) = 1.946 - 0.453 = 1.493
    assert rings(alarms(episodes=67), {"score/length_correlation": 0.96 * sign})


def test_a_correlation_drawn_at_the_limit_is_silent() -> None:
    """Scores and lengths whose rank correlation is 0.9 in truth; an alarm in one of 740 batches is 3 errors' worth."""
    draw = np.random.default_rng(0)
    pearson = 2 * np.sin(np.pi / 6 * 0.9)  # of normal variables with that rank correlation
    rung = {}
    for episodes in (2, 8, 16, 64, 256):
        pairs = draw.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]], size=(1000, episodes))
        ranks = pairs.argsort(axis=1).argsort(axis=1).astype(float)
        ranks -= ranks.mean(axis=1, keepdims=True)
        found = (ranks[..., 0] * ranks[..., 1]).sum(1) / (ranks[..., 0] ** 2).sum(1)
        rung[episodes] = sum(rings(alarms(episodes=episodes), {"score/length_correlation": one}) for one in found)
    assert max(rung.values()) <= 8, rung


def test_a_fall_of_ended_replies_that_may_be_chance_is_silent() -> None:
    def watch(episodes: int) -> Alarms:
        return Alarms(interval(40.0), interval(0.35), "float32", episodes)  # of 100

    for episodes in (2, 8, 15):  # 0.65^8 = 3%
        assert not rings(watch(episodes), {"reply/stopped": 0.0})
    # of 20: (35 + 0) / 120 = 0.292 in both; 3 sqrt(0.292 * 0.708 * (1 / 100 + 1 / 20)) = 0.334 < 0.35
    assert rings(watch(20), {"reply/stopped": 0.0})
    # of 16: 35 / 116 = 0.302; 3 sqrt(0.302 * 0.698 * (1 / 100 + 1 / 16)) = 0.371
    assert not rings(watch(16), {"reply/stopped": 0.0})
    assert rings(alarms(episodes=16), {"reply/stopped": 0.5})


def test_at_the_limits_nothing_rings() -> None:
    watch = alarms()
    edge = {
        "policy/ratio_first_error": 0.01,
        "policy/logp_first_difference": 1e-4,
        "sampler/mean_difference": 0.1,
        "kl/k1": -0.3,
        "reply/tokens": 80.0,
        "policy/entropy": 0.5,
    }
    assert watch.check(HEALTHY) == []
    assert watch.check(HEALTHY | edge | {"reply/stopped": 0.66}) == []


def test_rounding_in_bfloat16_is_allowed() -> None:
    rounded = {"policy/ratio_first_error": 0.1, "policy/logp_first_difference": 0.01}
    assert alarms("bfloat16").check(HEALTHY | rounded) == []
    assert alarms("bfloat16").check(HEALTHY | rounded | {"policy/logp_first_difference": 0.06}) != []


def test_a_batch_without_a_policy_update_is_checked_too() -> None:
    row = {key: value for key, value in HEALTHY.items() if key != "policy/ratio_first_error"}
    assert alarms().check(row) == []


def test_state_goes_on_where_it_stood() -> None:
    watch = alarms()
    watch.check(HEALTHY)
    watch.check(HEALTHY | {"kl/k1": -0.5})
    resumed = alarms(state=watch.state())
    assert resumed.reasons == watch.reasons
    assert resumed.check(HEALTHY | {"kl/k1": -0.5}) == []
    assert [alarm.name for alarm in resumed.check(HEALTHY | {"policy/entropy": 0.4})] == ["collapsed_entropy"]


def test_what_is_wrong_before_the_first_batch_is_named_once() -> None:
    healthy = alarms()
    assert healthy.check_start(0, 100, 50, 64) == []
    silent = Alarms(interval(64.0), interval(0.0), "float32", 256)
    begun = silent.check_start(3, 100, 50, 64)
    assert [alarm.name for alarm in begun] == ["prompts_too_long", "no_end_token"]
    assert "3 of 100 prompts" in begun[0].reason
    assert "within 64 tokens" in begun[1].reason
    assert len(silent.state()["reasons"]) == 2


def test_a_pm_that_cannot_read_prompts_is_named() -> None:
    (alarm,) = alarms().check_start(3, 100, 50, 64, {"The held-out PM": 3})
    assert "3 of 100 prompts were left out, because the held-out PM cannot read 3 of them" in alarm.reason
    assert "window leaves" not in alarm.reason
    (alarm,) = alarms().check_start(5, 100, 50, 64, {"The held-out PM": 3})
    assert "and the last turn of the others alone is longer than the 50 tokens" in alarm.reason
