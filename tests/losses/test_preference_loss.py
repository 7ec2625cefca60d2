"""The preference loss and masked means: hand-computed cases and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.losses import centring_penalties, masked_mean, preference_losses

scores = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=6)


def pair_tensors(values: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.tensor(values, dtype=torch.float64)
    return both[:, 0], both[:, 1]


def test_by_hand() -> None:
    # difference 0: ln 2; difference 2: ln(1 + e^-2) = 0.126928; difference -2: 2 + 0.126928
    losses = preference_losses(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 2.0]))
    assert losses.tolist() == pytest.approx([math.log(2), 0.126928, 2.126928], abs=1e-6)


def test_soft_labels_by_hand() -> None:
    # difference 2: 0.75 * 0.126928 + 0.25 * 2.126928 = 0.626928; sure: 0.126928
    both = torch.tensor([3.0, 3.0]), torch.tensor([1.0, 1.0])
    losses = preference_losses(*both, probability=torch.tensor([0.75, 1.0]))
    assert losses.tolist() == pytest.approx([0.626928, 0.126928], abs=1e-6)
    # with smoothing 0.1: 0.75 * 0.9 + 0.25 * 0.1 = 0.7, so 0.7 * 0.126928 + 0.3 * 2.126928 = 0.726928
    smoothed = preference_losses(*both, 0.1, torch.tensor([0.75, 1.0]))
    assert smoothed.tolist() == pytest.approx([0.726928, 0.326928], abs=1e-6)


def test_centring_by_hand() -> None:
    # ((3 + 1) / 2)^2 = 4, ((-1 + 1) / 2)^2 = 0, ((-3 - 2) / 2)^2 = 6.25
    penalties = centring_penalties(torch.tensor([3.0, -1.0, -3.0]), torch.tensor([1.0, 1.0, -2.0]))
    assert penalties.tolist() == [4.0, 0.0, 6.25]


def test_smoothing_by_hand() -> None:
    # 0.9 * 0.126928 + 0.1 * 2.126928 = 0.326928
    losses = preference_losses(torch.tensor([3.0]), torch.tensor([1.0]), label_smoothing=0.1)
    assert losses.item() == pytest.approx(0.326928, abs=1e-6)


def test_gradient_by_hand() -> None:
    # d/ds_chosen = -(1 - sigmoid(2)) = -0.119203, d/ds_rejected is its negative
    chosen, rejected = torch.tensor([2.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    preference_losses(chosen, rejected).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.119203, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.119203, abs=1e-6)


@given(scores)
@settings(deadline=None)
def test_swapping_a_comparison_negates_its_logit(values: list[tuple[float, float]]) -> None:
    chosen, rejected = pair_tensors(values)
    difference = preference_losses(rejected, chosen) - preference_losses(chosen, rejected)
    torch.testing.assert_close(difference, chosen - rejected)


@given(scores, st.floats(-20, 20))
@settings(deadline=None)
def test_a_constant_on_all_scores_changes_nothing(values: list[tuple[float, float]], constant: float) -> None:
    chosen, rejected = pair_tensors(values)
    torch.testing.assert_close(
        preference_losses(chosen + constant, rejected + constant), preference_losses(chosen, rejected)
    )


@given(st.floats(0.01, 0.49))
@settings(deadline=None)
def test_smoothed_loss_is_least_at_the_smoothed_odds(smoothing: float) -> None:
    best = math.log((1 - smoothing) / smoothing)
    around = torch.tensor([best - 0.1, best, best + 0.1], dtype=torch.float64)
    low, least, high = preference_losses(around, torch.zeros(3, dtype=torch.float64), smoothing).tolist()
    assert least < low
    assert least < high


def test_extreme_scores_stay_finite() -> None:
    losses = preference_losses(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]), label_smoothing=0.1)
    assert torch.isfinite(losses).all()


def test_masked_mean() -> None:
    values = torch.tensor([[1.0, float("nan")], [4.0, 100.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    mean = masked_mean(values, mask)
    assert mean.item() == 2.5  # (1 + 4) / 2
    mean.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]


def test_masked_mean_of_nothing_is_zero() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([False, False]))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]
