"""Spearman's correlation against scipy's, ties and constants included."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from prefloop.losses import rank_correlation


def test_rank_correlation() -> None:
    one = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    other = torch.tensor([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0, 8.0])
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, one.exp()) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    assert rank_correlation(one, torch.ones(8)) == 0.0
