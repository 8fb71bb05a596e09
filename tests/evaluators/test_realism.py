from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from synthselect_env import FeatureBank
from synthselect_env.evaluators import candidate_scores


def with_stats(bank: FeatureBank, real: np.ndarray, pool: np.ndarray) -> FeatureBank:
    return replace(
        bank,
        train=replace(bank.train, image_stats=real),
        candidates=replace(bank.candidates, image_stats=pool),
    )


def test_realism_falls_with_the_mahalanobis_distance(toy: FeatureBank) -> None:
    """Against scipy's distance, on statistics that are far from singular."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(24, 3)) @ rng.normal(size=(3, 3))
    pool = rng.normal(size=(64, 3))
    bank = with_stats(toy, real, pool)
    inverse = np.linalg.inv(np.cov(real.T, bias=True))
    expected = [mahalanobis(row, real.mean(0), inverse) for row in pool]
    # A little is added to the variance.
    assert np.exp(-candidate_scores(bank).realism) == pytest.approx(expected, rel=0.02)
    few = replace(bank, train=bank.train.subset(np.r_[0:3, 12:15]))
    assert candidate_scores(few).realism is None  # too few to know their spread
    # A statistic that is constant on real images.
    real, pool = np.column_stack([real, np.ones(24)]), np.column_stack([pool, np.full(64, 2.0)])
    assert np.isfinite(candidate_scores(with_stats(toy, real, pool)).realism).all()


def test_realism_is_unknown_without_image_statistics(toy: FeatureBank) -> None:
    assert candidate_scores(toy).realism is None
