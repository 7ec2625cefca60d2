"""PPO's losses by hand, and that padding, layout and micro-batches change neither loss nor gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.losses.ppo import explained_variance, importance_weights, policy_loss, token_logps, value_loss

LOG_2 = math.log(2)


def test_chosen_token() -> None:
    # probabilities 1/2, 1/4, 1/4: logp(1) = -2 log 2
    logits = torch.tensor([[LOG_2, 0.0, 0.0], [5.0, 5.0, 5.0]])
    found = token_logps(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(found, torch.tensor([-2 * LOG_2, -math.log(3)]))


def test_chosen_token_agrees_with_log_softmax_and_its_gradient() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).mul(20).requires_grad_()
    ids = torch.tensor([0, 6, 3, 3, 1])
    plain = logits.log_softmax(-1)[torch.arange(5), ids]
    ours = token_logps(logits, ids)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logits)[0], torch.autograd.grad(plain.sum(), logits)[0])


def test_half_precision_logits_are_normalised_in_fp32() -> None:
    assert token_logps(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([0])).dtype == torch.float32


def test_policy_loss_by_hand() -> None:
    # ratios 1.5, 0.5, 1.1, 0.5; advantages 1, 1, -2, -1; clip 0.2
    # min(1.5, 1.2) = 1.2 clipped; min(0.5, 0.8) = 0.5; min(-2.2, -2.2) = -2.2; min(-0.5, -0.8) = -0.8 clipped
    ratios = torch.tensor([1.5, 0.5, 1.1, 0.5, 99.0])
    is_response = torch.tensor([True, True, True, True, False])
    advantages = torch.tensor([1.0, 1.0, -2.0, -1.0, 50.0])
    found = policy_loss(ratios.log(), torch.zeros(5), advantages, is_response, clip=0.2, tokens=4)
    torch.testing.assert_close(found.loss, torch.tensor(-(1.2 + 0.5 - 2.2 - 0.8) / 4))
    assert found.clipped_tokens == 2
    assert found.ratio_error == pytest.approx(0.5)
    # 0.405465 + 2 * 0.693147 + 0.095310
    torch.testing.assert_close(found.differences, torch.tensor(1.887069))
    # sum of ratio - 1 - log ratio = (0.5 - 0.405465) + 2 * (-0.5 + 0.693147) + (0.1 - 0.095310)
    torch.testing.assert_close(found.moved_kl, torch.tensor(0.485519))


def test_gradient_at_ratio_one_is_minus_the_advantage() -> None:
    logp_policy = torch.full((3,), -1.0, requires_grad=True)
    advantages = torch.tensor([2.0, -1.0, 0.5])
    loss = policy_loss(logp_policy, logp_policy.detach(), advantages, torch.ones(3).bool(), clip=0.2, tokens=3).loss
    torch.testing.assert_close(torch.autograd.grad(loss, logp_policy)[0], -advantages / 3)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.3, 1.0), (0.7, -1.0)])
def test_a_clipped_token_has_no_gradient(ratio: float, advantage: float) -> None:
    logp_policy = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = policy_loss(
        logp_policy, torch.zeros(1), torch.tensor([advantage]), torch.tensor([True]), clip=0.2, tokens=1
    ).loss
    assert torch.autograd.grad(loss, logp_policy)[0] == 0


def test_padding_that_is_not_a_number_stays_out() -> None:
    logp_policy = torch.tensor([-1.0, math.nan], requires_grad=True)
    is_response = torch.tensor([True, False])
    loss = policy_loss(logp_policy, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, math.nan]), is_response, 0.2, 1).loss
    assert loss == -1
    value = value_loss(torch.tensor([1.0, math.nan]), torch.zeros(2), torch.zeros(2), is_response, None, 1).loss
    assert value == 0.5


def test_value_loss_by_hand() -> None:
    values, rollout, returns = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([0.0, 2.8, 0.0]), torch.tensor([2.0, 2.0, 0])
    is_response = torch.tensor([True, True, False])
    # squared errors 1 and 1: 0.5 * (1 + 1) / 2 = 0.5
    assert value_loss(values, rollout, returns, is_response, None, tokens=2).loss == 0.5
    # clip 0.2: the first moves to 0.2, its error (0.2 - 2)^2 = 3.24 > 1 counts; the second is within 0.2
    clipped = value_loss(values, rollout, returns, is_response, 0.2, tokens=2)
    torch.testing.assert_close(clipped.loss, torch.tensor(0.5 * (3.24 + 1.0) / 2))
    assert clipped.clipped_tokens == 1


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.integers(1, 3))
def test_micro_batches_and_flat_rows_add_up(counts: list[int], cut: int) -> None:
    width, rows = max(*counts, 1), len(counts)
    is_response = torch.arange(width) < torch.tensor(counts)[:, None]
    tokens = int(is_response.sum())
    generator = torch.Generator().manual_seed(tokens)
    logp_policy, logp_rollout, advantages, values, returns = torch.randn(5, rows, width, generator=generator).double()
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)

    def both(select: object) -> torch.Tensor:
        arguments = [tensor[select] for tensor in (logp_policy, logp_rollout, advantages, values, returns, is_response)]
        policy, rollout, advantage, value, target, mask = arguments
        return (
            policy_loss(parameter * policy, rollout, advantage, mask, 0.2, tokens).loss
            + value_loss(parameter * value, rollout, target, mask, 0.2, tokens).loss
        )

    whole = both(slice(None))
    parts = both(slice(0, cut)) + both(slice(cut, None))
    flat = both(is_response)
    for other in (parts, flat):
        torch.testing.assert_close(other, whole)
        torch.testing.assert_close(
            torch.autograd.grad(other, parameter, retain_graph=True)[0],
            torch.autograd.grad(whole, parameter, retain_graph=True)[0],
        )


def test_no_tokens_give_zero_loss() -> None:
    nothing, mask = torch.zeros(0), torch.zeros(0).bool()
    assert policy_loss(nothing, nothing, nothing, mask, 0.2, tokens=0).loss == 0
    assert value_loss(nothing, nothing, nothing, mask, None, tokens=0).loss == 0


def test_explained_variance() -> None:
    returns, everywhere = torch.tensor([1.0, 2.0, 3.0, 100.0]), torch.tensor([True, True, True, False])
    assert explained_variance(returns, returns, everywhere) == 1.0
    assert explained_variance(torch.zeros(4), returns, everywhere) == 0.0
    # errors 1, 0, -1 have the variance of the returns: nothing is explained ... and twice as far explains less
    assert explained_variance(torch.tensor([3.0, 2.0, 1.0, 0.0]), returns, everywhere) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(returns, torch.ones(4), everywhere))
    assert math.isnan(explained_variance(returns, returns, torch.tensor([True, False, False, False])))


def test_importance_weights_by_hand() -> None:
    # the policy gives 0.3, 0.2, 0.4 where the sampler gave 0.2, 0.4, 0.1: ratios 1.5, 0.5 and 4, which is cut at 2
    policy, sampler = torch.tensor([0.3, 0.2, 0.4, 0.9]).log(), torch.tensor([0.2, 0.4, 0.1, 0.1]).log()
    found = importance_weights(policy, sampler, torch.tensor([True, True, True, False]), limit=2.0)
    torch.testing.assert_close(found.weights, torch.tensor([1.5, 0.5, 2.0, 0.0]))
    assert found.mean == pytest.approx(4 / 3)
    assert found.truncated == pytest.approx(1 / 3)
    # |log 1.5| + |log 0.5| + |log 4| = 0.405465 + 0.693147 + 1.386294 = 2.484907
    assert found.mean_difference == pytest.approx(2.484907 / 3)
    assert found.largest_difference == pytest.approx(2 * LOG_2)


def test_importance_weights_of_nothing_and_of_what_cannot_be() -> None:
    found = importance_weights(torch.zeros(1, 0), torch.zeros(1, 0), torch.zeros(1, 0).bool(), 2.0)
    assert [value.item() for value in found[1:]] == [0.0, 0.0, 0.0, 0.0]
    far = importance_weights(
        torch.tensor([-1.0, math.nan]), torch.tensor([-9999.0, 0.0]), torch.tensor([True, False]), 2.0
    )
    assert far.weights.tolist() == [2.0, 0.0]
    assert far.mean_difference == 9998


def test_weights_scale_each_term_of_the_policy_loss_and_nothing_else() -> None:
    # as above: terms 1.2, 0.5, -2.2, -0.8; weights 1, 2, 0.5, 0: -(1.2 + 1 - 1.1) / 4
    ratios, is_response = torch.tensor([1.5, 0.5, 1.1, 0.5, 99.0]), torch.tensor([True, True, True, True, False])
    advantages, weights = torch.tensor([1.0, 1.0, -2.0, -1.0, 50.0]), torch.tensor([1.0, 2.0, 0.5, 0.0, math.nan])
    plain = policy_loss(ratios.log(), torch.zeros(5), advantages, is_response, 0.2, 4)
    found = policy_loss(ratios.log(), torch.zeros(5), advantages, is_response, 0.2, 4, weights)
    torch.testing.assert_close(found.loss, torch.tensor(-1.1 / 4))
    assert found[1:] == plain[1:]
    assert policy_loss(ratios.log(), torch.zeros(5), advantages, is_response, 0.2, 4, torch.ones(5)).loss == plain.loss


def test_weighted_terms_have_the_gradient_that_the_policy_s_own_samples_would_give() -> None:
    # Two tokens, policy p = (0.7, 0.3), sampler q = (0.4, 0.6), advantages 1 and -1, both ratios 1. The expectation of
    # the weighted gradient over q, weights 1.75 (below the limit) and 0.5, is that of the plain one over p.
    logits = torch.tensor([0.7, 0.3]).log().requires_grad_()
    sampler, is_response = torch.tensor([0.4, 0.6]), torch.tensor([True, True])
    logps, advantages = logits.log_softmax(-1), torch.tensor([1.0, -1.0])
    weights = importance_weights(logps.detach(), sampler.log(), is_response, 2.0).weights
    terms = [
        policy_loss(logps[i : i + 1], logps[i : i + 1].detach(), advantages[i : i + 1], is_response[:1], 0.2, 1, w)
        for i, w in enumerate(weights.split(1))
    ]
    weighted = torch.autograd.grad(sum(q * term.loss for q, term in zip(sampler, terms, strict=True)), logits)[0]
    # -(p1 A1 grad log p1 + p2 A2 grad log p2) = -(0.7 * (0.3, -0.3) - 0.3 * (-0.7, 0.7)) = (-0.42, 0.42)
    torch.testing.assert_close(weighted, torch.tensor([-0.42, 0.42]))
