"""Settings of a policy run that cannot go together are refused when they are read."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import ConfigError
from prefloop.losses import adapted_kl_coefficient
from prefloop.train.policy_settings import PolicyRun

NEEDED = {"policy": "policy", "preference_model": "pm", "held_out_preference_model": "held_out"}


def loaded(**more: Any) -> PolicyRun:
    return PolicyRun.load_values(NEEDED | more)


def test_a_coefficient_of_zero_cannot_be_steered() -> None:
    said = r"^PolicyRun: kl_target = 6 multiplies kl_coefficient, which is 0 .*; set it above 0"
    with pytest.raises(ConfigError, match=said) as told:
        loaded(kl_target=6.0, kl_coefficient=0.0)
    assert "\n" not in str(told.value)
    assert loaded(kl_coefficient=0.0).kl_target is None
    assert loaded(kl_target=6.0).kl_coefficient > 0


def test_a_horizon_too_short_for_the_batch_is_refused() -> None:
    # 0.2 * 240 = 48 episodes: a factor of 1 - 48 / 48 = 0
    said = r"kl_horizon_episodes = 48 lets one batch of 240 episodes take kl_coefficient to 0, .* set it above 48"
    with pytest.raises(ConfigError, match=said):
        loaded(kl_target=6.0, kl_horizon_episodes=48, episodes_per_batch=240)
    with pytest.raises(ConfigError, match="kl_horizon_episodes = 2 "):
        loaded(kl_target=6.0, kl_horizon_episodes=2, episodes_per_batch=240)
    assert loaded(kl_horizon_episodes=48, episodes_per_batch=240).kl_target is None


def test_a_coefficient_that_is_allowed_never_falls_to_zero() -> None:
    run = loaded(kl_target=6.0, kl_horizon_episodes=49, episodes_per_batch=240)
    coefficient = run.kl_coefficient
    for kl in (*[0.0] * 5, *[60.0] * 40):
        coefficient = adapted_kl_coefficient(coefficient, kl, 6.0, run.episodes_per_batch, run.kl_horizon_episodes)
        assert coefficient > 0
    assert coefficient == pytest.approx(0.02 * (1 / 49) ** 5 * (97 / 49) ** 40)  # 51: it comes back
