"""Workers' noise with the items' difficulty taken out, against the truth that drew the votes."""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import pytest
from scipy import integrate, sparse, special

from prefloop.errors import DataError
from prefloop.stats import Reliability, noise_of, reliability
from prefloop.stats.intervals import Floats, Ints

module = sys.modules["prefloop.stats.reliability"]  # the package's name is that of the function


class _Votes(NamedTuple):
    worker: Ints
    item: Ints
    is_first: np.ndarray
    group: Ints


def _votes(strengths: Floats, eases: Floats, items: int, seed: int, extra: int = 2) -> _Votes:
    """Each worker's own items, a group each, judged by the worker and by `extra` others."""
    draw = np.random.default_rng(seed)
    count = len(strengths)
    owner = np.repeat(np.arange(count), items)
    z = draw.normal(size=len(owner)) * np.exp(eases[owner])
    others = np.stack([draw.permutation(count - 1)[:extra] for _ in owner])
    others += others >= owner[:, None]
    worker = np.concatenate([owner, others.ravel()])
    item = np.concatenate([np.arange(len(owner)), np.repeat(np.arange(len(owner)), extra)])
    is_first = draw.random(len(worker)) < special.expit(strengths[worker] * z[item])
    return _Votes(worker, item, is_first, owner[item])


def _by_label(fit: Reliability, values: Floats) -> Floats:
    return np.asarray([values[fit.places[label]] for label in sorted(fit.workers)])


def test_noise_is_the_chance_of_the_worse_side() -> None:
    # a coin has noise 1/2 whatever the items, and a worker turned around has 1 less the noise of the other
    assert noise_of(np.array([0.0])) == pytest.approx(0.5)
    strengths = np.array([0.5, 1.5, 3.0])
    assert noise_of(strengths) + noise_of(-strengths) == pytest.approx(1.0)
    for strength in strengths:
        z = np.linspace(0, 12, 200_001)
        chance = special.expit(-strength * z) * np.exp(-z * z / 2) * np.sqrt(2 / np.pi)
        assert noise_of(np.array([strength]))[0] == pytest.approx(integrate.trapezoid(chance, z), abs=5e-4)


def test_two_workers_who_always_agree_or_never() -> None:
    first = np.tile([True, False], 40)
    worker, item = np.repeat([0, 1], 80), np.tile(np.arange(80), 2)
    agree = reliability(worker, item, np.concatenate([first, first]))
    never = reliability(worker, item, np.concatenate([first, ~first]))
    assert agree.typical_noise.value < 0.3
    assert agree.strengths == pytest.approx(agree.strengths[::-1], abs=1e-3)  # nothing tells the two apart
    assert never.typical_noise.value > agree.typical_noise.value + 0.1


def test_swapping_the_sides_of_items_changes_nothing() -> None:
    votes = _votes(np.array([2.0, 1.0, 1.5, 0.0]), np.zeros(4), 60, seed=1)
    is_swapped = np.random.default_rng(2).random(240) < 0.5
    plain = reliability(votes.worker, votes.item, votes.is_first, votes.group)
    swapped = reliability(votes.worker, votes.item, votes.is_first ^ is_swapped[votes.item], votes.group)
    assert swapped.strengths == pytest.approx(plain.strengths, abs=1e-3)


def test_items_judged_once_change_nothing() -> None:
    votes = _votes(np.array([2.0, 1.0, 1.5, 0.5]), np.zeros(4), 50, seed=3)
    once = np.arange(1000, 1100)
    plain = reliability(votes.worker, votes.item, votes.is_first)
    more = reliability(
        np.concatenate([votes.worker, np.zeros(100, dtype=np.int64)]),
        np.concatenate([votes.item, once]),
        np.concatenate([votes.is_first, np.ones(100, dtype=bool)]),
    )
    assert more.strengths == pytest.approx(plain.strengths, abs=1e-6)
    assert list(more.judgments) == list(plain.judgments)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    votes = _votes(np.array([2.0, 0.5, -1.0]), np.zeros(3), 10, seed=4)
    shared = module._shared(votes.item, votes.worker, votes.group, votes.is_first)
    place = np.array([1.2, 0.4, -0.8, 0.3, -0.2, 0.1])  # three strengths, three eases
    _, slopes = module._log_likelihood(shared, place, 3)
    gradient = module._by_parameter(shared, slopes, place, 3)
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-5
        up, down = (module._log_likelihood(shared, place + sign * step, 3)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, abs=1e-5)


def test_planted_workers_are_found_and_hard_topics_are_not_blamed() -> None:
    # 12 workers: 0 and 1 honest on topics a tenth as easy, 10 a coin, 11 turned around
    strengths = np.array([1.5] * 10 + [0.0, -1.5])
    eases = np.array([np.log(0.1)] * 2 + [0.0] * 10)
    votes = _votes(strengths, eases, 150, seed=5)
    fit = reliability(votes.worker, votes.item, votes.is_first, votes.group)
    found, errors = _by_label(fit, fit.strengths), _by_label(fit, fit.deviations)
    assert np.argmin(found) == 11
    assert found[11] < -3 * errors[11]
    assert abs(found[10]) < 3 * errors[10]
    assert found[:10].min() > found[10] + 0.3
    honest = noise_of(found[2:10])
    assert noise_of(found[:2]).max() < honest.max() + 0.05  # hard topics: no noisier than the noisiest honest one
    weights = _by_label(fit, fit.weights)
    assert weights[11] == 0.0
    assert weights.mean() == pytest.approx(1.0)
    eases_found = [fit.eases[fit.groups.index(group)] for group in range(12)]
    assert max(eases_found[:2]) < min(eases_found[2:10])

    # the same votes by plain agreement of others with a worker's own items, as in the paper's D.3
    agree, pairs = np.zeros(12), np.zeros(12)
    for place in np.flatnonzero(votes.worker == votes.group):
        others = votes.is_first[(votes.item == votes.item[place]) & (votes.worker != votes.worker[place])]
        agree[votes.worker[place]] += (others == votes.is_first[place]).sum()
        pairs[votes.worker[place]] += len(others)
    plain = agree / pairs
    assert plain[:2].mean() < plain[2:10].mean() - 0.03


def test_intervals_cover_the_truth() -> None:
    covered, leads = [], []
    for seed in range(12):
        draw = np.random.default_rng(100 + seed)
        strengths = 1.5 * np.exp(draw.normal(0, 0.2, 12))
        votes = _votes(strengths, np.zeros(12), 80, seed=seed)
        fit = reliability(votes.worker, votes.item, votes.is_first)
        found, deviations = _by_label(fit, fit.strengths), _by_label(fit, fit.deviations)
        covered.append(np.abs(found - strengths) < 1.96 * deviations)
        ends = [fit.noise(fit.places[worker]) for worker in range(12)]
        truth = noise_of(strengths)
        leads.append([end.low <= value <= end.high for end, value in zip(ends, truth, strict=True)])
    assert 0.88 <= np.mean(covered) <= 1.0
    assert 0.88 <= np.mean(leads) <= 1.0


def test_a_worker_without_shared_items_stands_at_the_typical_one() -> None:
    votes = _votes(np.full(5, 1.5), np.zeros(5), 60, seed=7)
    fit = reliability(np.append(votes.worker, 99), np.append(votes.item, 10_000), np.append(votes.is_first, True), None)
    alone = fit.places[99]
    assert fit.judgments[alone] == 0
    assert fit.strengths[alone] == pytest.approx(fit.typical, abs=0.1)
    assert fit.deviations[alone] == pytest.approx(fit.spread, rel=0.3)


@pytest.mark.parametrize(
    ("workers", "items", "message"),
    [([0, 0], [1, 2], "two on the same"), ([0, 1], [1, 2], "collect overlap"), ([0, 1], [1], "do not fit")],
)
def test_what_cannot_be_fitted_is_said(workers: list[int], items: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        reliability(workers, items, np.array([True, False]))


def test_many_workers_and_topics_have_the_same_intervals_sampled_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    votes = _votes(np.abs(draw.normal(1.2, 0.4, 120)), draw.normal(0, 0.4, 120), items=30, seed=4)
    exact = reliability(*votes)
    posterior = sys.modules["prefloop.stats.posterior"]
    monkeypatch.setattr(module, "posterior", lambda *args: posterior.posterior(*args, most_exact=10))
    sampled = reliability(*votes)
    assert sampled.strengths == pytest.approx(exact.strengths, abs=0.02)
    assert sampled.deviations == pytest.approx(exact.deviations, rel=0.1)
    assert np.mean(sampled.deviations / exact.deviations) == pytest.approx(1.0, abs=0.01)  # no bias
    assert sampled.lead_deviations == pytest.approx(exact.lead_deviations, rel=0.15)
    assert sampled.typical_deviation == pytest.approx(exact.typical_deviation, rel=0.01)


def test_the_posterior_is_that_of_the_whole_matrix_inverted() -> None:
    # four workers, three groups: groups touch workers and themselves only
    draw = np.random.default_rng(0)
    scores = np.zeros((30, 7))
    scores[np.arange(30), draw.integers(0, 4, 30)] = draw.normal(size=30)
    scores[np.arange(30), 4 + draw.integers(0, 3, 30)] = draw.normal(size=30)
    spread = np.array([0.5] * 4 + [0.3] * 3)
    known = sys.modules["prefloop.stats.posterior"].posterior(sparse.csr_array(scores.T @ scores), spread, 4)
    whole = np.linalg.inv(scores.T @ scores + np.diag(1 / spread**2))
    workers = whole[:4, :4]
    assert known.variances == pytest.approx(np.diag(workers))
    assert known.rows == pytest.approx(workers.sum(axis=1))
    assert known.squares == pytest.approx(np.diag(workers @ workers))
    assert known.squared_rows == pytest.approx((workers @ workers).sum(axis=1))
    assert known.group_variance == pytest.approx(np.diag(whole)[4:].mean())


def test_six_thousand_workers_with_a_topic_each_are_fitted() -> None:
    draw = np.random.default_rng(1)
    count = 6000
    owner = np.repeat(np.arange(count), 4)
    item = np.tile(np.arange(len(owner)), 2)
    worker = np.concatenate([owner, (owner + draw.integers(1, count, len(owner))) % count])
    z = np.tile(draw.normal(size=len(owner)), 2)
    strengths = np.where(np.arange(count) % 2 == 0, 2.5, 0.5)
    fit = reliability(worker, item, draw.random(len(z)) < special.expit(strengths[worker] * z), np.tile(owner, 2))
    assert len(fit.workers) == count
    found = _by_label(fit, fit.strengths)
    assert found[::2].mean() - found[1::2].mean() > 3 * fit.typical_deviation
    assert np.isfinite(fit.deviations).all()
