"""Confidence intervals, beside resampling by hand and against their promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, t

from agents.evaluation import half_interval, paired_bootstrap
from agents.evaluation.bootstrap import standard_error
from synthselect_env.metrics import METRICS, classification_metrics


def test_half_interval_is_students() -> None:
    values = np.array([0.7, 0.75, 0.72, 0.8])
    error = values.std(ddof=1) / 2
    low, high = t.interval(0.95, df=3, loc=values.mean(), scale=error)
    assert half_interval(values) == pytest.approx((high - low) / 2)


def test_one_round_is_scipys_paired_bootstrap() -> None:
    """Of 100 images of class 0, one side labels 75 correctly, and the other 70."""
    hits = [np.arange(100) < count for count in (75, 70)]
    log_p = [np.log(np.where(np.stack([h, ~h], 1), 0.9, 0.1))[None] for h in hits]
    difference = (hits[0].astype(float) - hits[1],)
    expected = bootstrap(difference, np.mean, n_resamples=5000, method="percentile", rng=0)
    interval = expected.confidence_interval
    one_image = 0.011
    assert paired_bootstrap(*log_p, np.zeros(100, np.int64)) == pytest.approx(
        (0.05, interval.low, interval.high), abs=one_image
    )


@pytest.mark.parametrize("metric", METRICS)
def test_agrees_with_resampling_by_hand(metric: str) -> None:
    """Draw images one by one, with four rounds, patients and three classes."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(3, size=60), rng.integers(12, size=60)
    concentration = np.ones(3) + 2 * np.eye(3)[0]
    ours, theirs = (
        np.log(rng.dirichlet(concentration, size=(4, 60))).astype(np.float32) for _ in range(2)
    )
    mean, low, high = paired_bootstrap(ours, theirs, labels, metric, groups, resamples=120, seed=1)

    def values(log_p: np.ndarray, index: np.ndarray) -> np.ndarray:
        metrics = classification_metrics(torch.from_numpy(log_p[:, index]), truth[index])
        return metrics[metric].double().numpy()

    truth, everything, patients = torch.from_numpy(labels), np.arange(60), np.unique(groups)
    rng, draws, n = np.random.default_rng(1), [], len(patients)
    counts = rng.multinomial(n - 1, np.full(n, 1 / n), size=120)
    shares = rng.multinomial(3, np.full(4, 0.25), size=120) / 3
    images = [np.flatnonzero(groups == patient) for patient in patients]
    for count, share in zip(counts, shares):
        index = np.concatenate([np.repeat(i, times) for i, times in zip(images, count)])
        draws.append(share @ (values(ours, index) - values(theirs, index)))
    assert mean == pytest.approx((values(ours, everything) - values(theirs, everything)).mean())
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(draws, [2.5, 97.5])), abs=1e-6)


def test_intervals_hold_what_they_promise() -> None:
    """Rounds and images both differ by chance. Some 95 % of the intervals hold the true gain."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        images, effect = rng.normal(size=(1, 80)), rng.normal(0, 0.15, size=(5, 1))
        margins = [images + shift + rng.normal(0, 0.5, size=(5, 80)) for shift in (effect, 0.0)]
        ours, theirs = (
            np.stack([np.zeros_like(m), -m], axis=2).astype(np.float32) for m in margins
        )
        _, low, high = paired_bootstrap(ours, theirs, np.zeros(80, np.int64), resamples=200)
        covered += low <= 0 <= high
    assert covered / 200 >= 0.9


def test_one_patient_gives_no_interval() -> None:
    """All draws of one patient are the same, which is not certainty."""
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(2), size=(2, 3, 40)))
    labels, groups = np.arange(40) % 2, np.full(40, "p")
    mean, low, high = paired_bootstrap(*log_p, labels, groups=groups)
    assert np.isfinite(mean)
    assert np.isnan([low, high]).all()


def test_shapes_must_match() -> None:
    log_p = np.log(np.full((2, 40, 2), 0.5))
    labels = np.zeros(40, np.int64)
    for ours, theirs in ((log_p, log_p[:1]), (log_p[0], log_p[0]), (log_p[:, 1:], log_p[:, 1:])):
        with pytest.raises(ValueError, match=r"expected log-probabilities \(rounds, 40, classes\)"):
            paired_bootstrap(ours, theirs, labels)


@pytest.mark.parametrize("size", [1, 4])
def test_standard_error_is_that_of_repeated_draws(size: int) -> None:
    """Also where patients have several images each, which go together."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        of_patient = rng.normal(size=60)
        values = np.repeat(of_patient, size) + 0.1 * rng.normal(size=60 * size)
        groups = np.repeat(np.arange(60), size)
        means.append(values.mean())
        errors.append(standard_error(values, groups if size > 1 else None))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert standard_error(values, np.zeros(len(values))) == np.inf
