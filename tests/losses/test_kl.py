"""KL estimates and token rewards against hand arithmetic and an enumerated distribution."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.losses.kl import adapted_kl_coefficient, is_last_token, k1, k3, sequence_kl, token_rewards

IS_RESPONSE = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def test_single_tokens() -> None:
    logp_policy, logp_reference = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    # d = 0.5, -1, 0; k3 = e^-0.5 - 1 + 0.5 = 0.106531, e^1 - 1 - 1 = 0.718282, 0
    torch.testing.assert_close(k1(logp_policy, logp_reference), torch.tensor([0.5, -1.0, 0.0]))
    torch.testing.assert_close(k3(logp_policy, logp_reference), torch.tensor([0.106531, 0.718282, 0.0]))


def test_both_estimates_are_unbiased() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    exact = (policy * (policy / reference).log()).sum()
    for estimate in (k1, k3):  # the expectation under the policy, by enumeration
        torch.testing.assert_close((policy * estimate(policy.log(), reference.log())).sum(), exact)


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    logp_policy, logp_reference = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    assert (k3(logp_policy, logp_reference) >= 0).all()


def test_k3_survives_an_absurd_token() -> None:
    assert torch.isfinite(k3(torch.tensor([-500.0]), torch.tensor([-1.0]))).all()


def test_sequences_add_up_their_tokens_and_ignore_padding() -> None:
    logp_policy = torch.tensor([[-1.0, -1.0, -2.0], [-3.0, math.nan, math.inf], [math.nan] * 3])
    logp_reference = torch.tensor([[-2.0, -1.0, -1.5], [-1.0, 0.0, 0.0], [0.0] * 3])
    estimates = sequence_kl(logp_policy, logp_reference, IS_RESPONSE)
    # row 0: 1 + 0 - 0.5 = 0.5; row 1: -3 - -1 = -2; row 2 is empty
    torch.testing.assert_close(estimates.k1, torch.tensor([0.5, -2.0, 0.0]))
    # k3: (e^-1 - 1 + 1) + 0 + (e^0.5 - 1 - 0.5) = 0.367879 + 0.148721; e^2 - 1 - 2 = 4.389056
    torch.testing.assert_close(estimates.k3, torch.tensor([0.516601, 4.389056, 0.0]))


def test_score_lands_on_the_last_token() -> None:
    rewards = token_rewards(
        rewards_at_end=torch.tensor([2.0, -1.0, 9.0]),
        logp_rollout=torch.tensor([[-1.0, -1.0, -2.0], [-3.0, math.nan, 0.0], [0.0] * 3]),
        logp_reference=torch.tensor([[-2.0, -1.0, -1.5], [-1.0, 0.0, 0.0], [0.0] * 3]),
        is_response=IS_RESPONSE,
        kl_coefficient=0.1,
    )
    # row 0: -0.1 * 1, -0.1 * 0, -0.1 * -0.5 + 2; row 1: -0.1 * -2 - 1; row 2: no token, no reward
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.0, 2.05], [-0.8, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_last_token() -> None:
    expected = torch.tensor([[False, False, True], [True, False, False], [False, False, False]])
    assert torch.equal(is_last_token(IS_RESPONSE), expected)


@given(st.floats(0, 2), st.integers(1, 6))
def test_rewards_sum_to_score_minus_coefficient_times_kl(coefficient: float, tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    logp_rollout, logp_reference = torch.randn(2, 3, tokens, generator=generator).double()
    is_response = torch.arange(tokens) < torch.tensor([[tokens], [1], [(tokens + 1) // 2]])
    scores = torch.randn(3, generator=generator).double()
    rewards = token_rewards(scores, logp_rollout, logp_reference, is_response, coefficient)
    kl = sequence_kl(logp_rollout, logp_reference, is_response).k1
    torch.testing.assert_close(rewards.sum(-1), scores - coefficient * kl)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(RuntimeError):
        k1(torch.zeros(2, 3), torch.zeros(2, 2))


def test_the_coefficient_is_steered_to_the_target() -> None:
    # KL 6.6 at a target of 6: error 0.1; 500 of 10,000 episodes: 0.2 * (1 + 0.1 * 0.05) = 0.201
    assert adapted_kl_coefficient(0.2, 6.6, 6.0, 500, 10_000) == pytest.approx(0.201)
    # KL 60: the error is clamped to 0.2: 0.2 * (1 + 0.2 * 0.05) = 0.202; KL 0: to -0.2: 0.198
    assert adapted_kl_coefficient(0.2, 60.0, 6.0, 500, 10_000) == pytest.approx(0.202)
    assert adapted_kl_coefficient(0.2, 0.0, 6.0, 500, 10_000) == pytest.approx(0.198)
    assert adapted_kl_coefficient(0.2, 6.0, 6.0, 500, 10_000) == 0.2
    assert adapted_kl_coefficient(0.2, 0.0, 6.0, 500, 10) == 0.0  # never below 0: 1 - 0.2 * 50
