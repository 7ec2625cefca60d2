"""GAE by hand, by its two limits, and by what must not change it."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.losses.gae import generalised_advantages, whitened


def test_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0], [2.0, math.nan, math.nan]])
    values = torch.tensor([[0.5, 0.2, 0.4], [1.5, math.nan, 7.0]])
    is_response = torch.tensor([[True, True, True], [True, False, False]])
    result = generalised_advantages(rewards, values, is_response, gamma=0.9, gae_lambda=0.5)
    # row 0: delta_2 = 1 - 0.4 = 0.6; delta_1 = 0.9 * 0.4 - 0.2 = 0.16; delta_0 = 0.9 * 0.2 - 0.5 = -0.32
    #        A_2 = 0.6; A_1 = 0.16 + 0.45 * 0.6 = 0.43; A_0 = -0.32 + 0.45 * 0.43 = -0.1265
    # row 1: one token, A_0 = 2 - 1.5 = 0.5
    torch.testing.assert_close(result.advantages, torch.tensor([[-0.1265, 0.43, 0.6], [0.5, 0.0, 0.0]]))
    torch.testing.assert_close(result.returns, torch.tensor([[0.3735, 0.63, 1.0], [2.0, 0.0, 0.0]]))


lengths = st.lists(st.integers(0, 7), min_size=1, max_size=5)


def episodes(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(*counts, 1)
    generator = torch.Generator().manual_seed(sum(counts))
    rewards, values = torch.randn(2, len(counts), width, generator=generator, dtype=torch.float64)
    return rewards, values, torch.arange(width) < torch.tensor(counts)[:, None]


@given(lengths)
def test_lambda_and_gamma_one_give_return_minus_value(counts: list[int]) -> None:
    rewards, values, is_response = episodes(counts)
    result = generalised_advantages(rewards, values, is_response, gamma=1.0, gae_lambda=1.0)
    for row, count in enumerate(counts):
        for t in range(count):
            rest = rewards[row, t:count].sum()
            torch.testing.assert_close(result.advantages[row, t], rest - values[row, t])
            torch.testing.assert_close(result.returns[row, t], rest)


@given(lengths, st.floats(0, 1))
def test_lambda_zero_is_the_one_step_error(counts: list[int], gamma: float) -> None:
    rewards, values, is_response = episodes(counts)
    result = generalised_advantages(rewards, values, is_response, gamma=gamma, gae_lambda=0.0)
    for row, count in enumerate(counts):
        for t in range(count):
            following = values[row, t + 1] if t + 1 < count else 0.0
            torch.testing.assert_close(result.advantages[row, t], rewards[row, t] + gamma * following - values[row, t])


@given(lengths, st.integers(1, 4))
def test_padding_changes_nothing(counts: list[int], extra: int) -> None:
    rewards, values, is_response = episodes(counts)
    short = generalised_advantages(rewards, values, is_response, gamma=0.99, gae_lambda=0.95)
    pad = (0, extra)
    wide = generalised_advantages(
        torch.nn.functional.pad(rewards, pad, value=3.0),
        torch.nn.functional.pad(values, pad, value=-5.0),
        torch.nn.functional.pad(is_response, pad),
        gamma=0.99,
        gae_lambda=0.95,
    )
    width = rewards.shape[1]
    assert torch.equal(wide.advantages[:, :width], short.advantages)
    assert torch.equal(wide.returns[:, :width], short.returns)
    assert (wide.advantages[:, width:] == 0).all()
    assert (short.advantages[~is_response] == 0).all()
    assert (short.returns[~is_response] == 0).all()


def test_no_tokens_at_all() -> None:
    empty = torch.zeros(3, 0)
    result = generalised_advantages(empty, empty, empty.bool(), gamma=1.0, gae_lambda=0.95)
    assert result.advantages.shape == (3, 0)


@given(lengths, st.floats(-100, 100), st.floats(0.01, 50))
def test_whitened_advantages_have_mean_0_and_variance_1(counts: list[int], shift: float, scale: float) -> None:
    advantages, _, is_response = episodes(counts)
    result = whitened(shift + scale * advantages, is_response)
    assert (result[~is_response] == 0).all()
    if sum(counts) > 1:
        torch.testing.assert_close(result[is_response].mean().item(), 0.0, atol=1e-6, rtol=0)
        torch.testing.assert_close(result[is_response].var(correction=0).item(), 1.0)


def test_whitening_by_hand() -> None:
    # kept: 1, 3, 5, 7 with mean 4 and variance 5; the padding's 100 does not count
    advantages = torch.tensor([[1.0, 3.0, 100.0], [5.0, 7.0, torch.nan]])
    is_response = torch.tensor([[True, True, False], [True, True, False]])
    expected = torch.tensor([[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]) / 5**0.5
    torch.testing.assert_close(whitened(advantages, is_response), expected)


def test_advantages_that_do_not_vary_are_whitened_to_zero() -> None:
    assert (whitened(torch.full((2, 2), 7.0), torch.ones(2, 2).bool()) == 0).all()
    assert (whitened(torch.full((2, 2), 7.0), torch.zeros(2, 2).bool()) == 0).all()
