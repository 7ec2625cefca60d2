"""Near copies of texts, and straight lines."""

import random

import numpy as np
import pytest
from scipy.stats import linregress

from prefloop.errors import DataError
from prefloop.stats import (
    covariance_of_shares,
    duplicate_groups,
    line_of_means,
    line_of_shares,
    linear_fit,
    near_duplicates,
    normalised,
)


def test_case_space_and_punctuation_do_not_count() -> None:
    assert normalised("  Hello,\nWORLD! ") == "hello world"
    texts = [
        "How do I boil an egg?",
        "how do i boil an egg",
        "Tell me a joke",
        "HOW do I boil an egg!!",
        "Tell me a joke.",
    ]
    assert duplicate_groups(texts) == [[0, 1, 3], [2, 4]]
    assert duplicate_groups(["one", "two"]) == []


def test_near_copies_are_found_with_their_similarity() -> None:
    texts = [
        "Could you please explain to me how photosynthesis works in plants and why it matters",
        "What should I cook tonight for six hungry guests",
        "Could you please explain to me how photosynthesis works in plants and why that matters",
    ]
    (pair,) = near_duplicates(texts, threshold=0.7)
    assert (pair.first, pair.second) == (0, 2)
    runs = [{normalised(texts[i])[j : j + 5] for j in range(len(normalised(texts[i])) - 4)} for i in (0, 2)]
    assert pair.similarity == pytest.approx(len(runs[0] & runs[1]) / len(runs[0] | runs[1]))


def test_exact_copies_are_left_to_the_groups() -> None:
    assert near_duplicates(["the same words", "The same words!", "quite another thing"]) == []
    assert near_duplicates([]) == []
    assert near_duplicates(["", " ", "a"]) == []


def test_every_planted_near_copy_is_found_among_many() -> None:
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(400)]
    texts = [" ".join(rng.choices(vocabulary, k=25)) for _ in range(300)]
    copies = [text + " " + rng.choice(vocabulary) for text in texts[:40]]
    found = {(pair.first, pair.second) for pair in near_duplicates(texts + copies, threshold=0.8)}
    assert found == {(i, 300 + i) for i in range(40)}


def test_line_by_hand() -> None:
    # points (0,0) (1,2) (2,1): slope 1/2, intercept 1/2; residuals -1/2, 1, -1/2 -> 1.5 of total 2: R^2 = 0.25
    fit = linear_fit([0, 1, 2], [0, 2, 1])
    assert (fit.slope.value, fit.intercept.value, fit.r_squared) == pytest.approx((0.5, 0.5, 0.25))


def test_line_equals_scipy() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=40)
    y = 3 * x - 1 + generator.normal(size=40)
    fit, theirs = linear_fit(x, y), linregress(x, y)
    assert fit.slope.value == pytest.approx(theirs.slope)
    # t(38, 0.975) = 2.02439
    assert fit.slope.high - fit.slope.value == pytest.approx(2.02439 * theirs.stderr, rel=1e-4)
    assert fit.intercept.high - fit.intercept.value == pytest.approx(2.02439 * theirs.intercept_stderr, rel=1e-4)
    assert fit.r_squared == pytest.approx(theirs.rvalue**2)


def test_an_exact_line_and_a_flat_one() -> None:
    assert linear_fit([0, 1, 2], [1, 3, 5]).r_squared == 1.0
    assert linear_fit([0, 1, 2], [4, 4, 4]).r_squared == 0.0


@pytest.mark.parametrize(
    ("x", "y"), [([0, 1], [0, 1]), ([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [0, 1]), ([0, 1, 2], [0, 1, np.nan])]
)
def test_too_little_for_a_line(x: list[float], y: list[float]) -> None:
    with pytest.raises(DataError, match="three finite points"):
        linear_fit(x, y)


def test_means_of_the_same_clusters_vary_together() -> None:
    # of one conversation the models are right 1, 1, 1 times, of the other 0, 0, 1; each mean moves by half of +-0.5
    shares = [(np.array(values), ["a", "b"]) for values in ([1.0, 0.0], [1.0, 0.0], [1.0, 1.0])]
    covariance = covariance_of_shares(shares)
    # first two: 2 / (2 - 1) x (0.25 x 0.25 + 0.25 x 0.25) = 0.25, as the variance 0.5 of two values over 2
    np.testing.assert_allclose(covariance, [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0, 0.0, 0.0]])
    line, band = line_of_means([0.0, 1.0, 2.0], [0.5, 0.5, 1.0], covariance, [2.0], n=6, clusters=2)
    # slope (1 - 0.5) / 2, its variance 0.25 x 0.25, t(1) = 12.706; at 2 the weights are -1/6, 1/3, 5/6, so its
    # variance is (1/6)^2 x 0.25
    assert line.slope.value == pytest.approx(0.25)
    assert line.slope.high - line.slope.value == pytest.approx(12.7062 * 0.25, rel=1e-4)
    assert band[0].y.value == pytest.approx(0.5 / 6 + 5 / 6)
    assert band[0].y.high - band[0].y.value == pytest.approx(12.7062 * 0.5 / 6, rel=1e-4)
    with pytest.raises(DataError, match="over clusters needs 2 of them, not 1"):
        line_of_means([0.0, 1.0, 2.0], [0.5, 0.5, 1.0], covariance, [], n=3, clusters=1)


def test_a_line_of_means_has_the_band_of_resampled_clusters() -> None:
    draw = np.random.default_rng(4)
    names = [str(number) for number in draw.integers(0, 200, 800)]
    easy = {name: draw.uniform(0.2, 0.9) for name in names}
    shares = [
        ((draw.random(len(names)) < [easy[name] + rise for name in names]).astype(float), names)
        for rise in (0.0, 0.04, 0.08, 0.1)
    ]
    x, at = [0.0, 1.0, 2.0, 3.0], [0.0, 3.0, 6.0]
    resampled = line_of_shares(x, shares, at, resamples=4000)
    means, covariance = [values.mean() for values, _ in shares], covariance_of_shares(shares)
    found = line_of_means(x, means, covariance, at, n=3200, clusters=len(easy))
    for one, other in zip(
        [found.line.slope, *(point.y for point in found.band)],
        [resampled.line.slope, *(point.y for point in resampled.band)],
        strict=True,
    ):
        assert one.value == pytest.approx(other.value)
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.1)
