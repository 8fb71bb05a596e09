"""The closed form beside independent minimisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from synthselect_env import FeatureBank
from synthselect_env.evaluators import LinearProbeEvaluator
from synthselect_env.evaluators.linear_probe import fit_temperature
from synthselect_env.evaluators.ridge import Design, RidgeHead


def objective(w: np.ndarray, x: np.ndarray, y: np.ndarray, s: np.ndarray, penalty: float) -> float:
    """Return what the head minimises; x is without the column of ones."""
    scores = x @ w[:-1] + w[-1]
    loss = 0.5 * ((scores - y) ** 2).sum(1)
    return float((s * loss).sum() + penalty / 2 * s.sum() * (w[:-1] ** 2).sum())


def minimum(
    x: np.ndarray, y: np.ndarray, s: np.ndarray, penalty: float, gtol: float = 1e-7
) -> np.ndarray:
    """Return the weights that a general-purpose minimiser finds.  (p, c)"""
    shape = x.shape[1] + 1, y.shape[1]
    found = minimize(
        lambda w: objective(w.reshape(shape), x, y, s, penalty),
        np.zeros(shape[0] * shape[1]),
        method="BFGS",
        options={"gtol": gtol},
    )
    return found.x.reshape(shape)


@pytest.mark.parametrize("penalty", [0.01, 0.5])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_head_is_the_minimum(penalty: float, n_classes: int) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)), np.arange(60) % n_classes
    x[:, 0] += labels
    y = np.eye(n_classes)[labels]
    design = Design(torch.from_numpy(np.column_stack([x, np.ones(60)])), torch.from_numpy(y))
    real, pool = (Design(design.x[part], design.y[part]) for part in (slice(20), slice(20, 60)))
    masks = rng.random((3, 40)) < 0.5
    fitted = RidgeHead(real, pool, penalty).fit(torch.from_numpy(masks)).numpy()
    for mask, weights in zip(masks, fitted):
        s = np.concatenate([np.ones(20), mask])
        assert weights == pytest.approx(minimum(x, y, s, penalty), abs=2e-5)
        oracle = Ridge(alpha=penalty * s.sum()).fit(x, y, sample_weight=s)
        expected = np.vstack([oracle.coef_.T, oracle.intercept_])
        assert weights == pytest.approx(expected, abs=1e-10)


def test_credit_is_the_derivative(toy: FeatureBank, masks: np.ndarray) -> None:
    """Against finite differences of a fit with weights, by a general-purpose minimiser."""
    probe = LinearProbeEvaluator(toy, n_components=3, ridge=0.2, device="cpu")
    mask = masks[2]
    credit = probe.credit(mask[None], 0)[0]
    real, pool, valid = (
        probe.components(split.features).numpy() for split in (toy.train, toy.candidates, toy.valid)
    )
    x = np.concatenate([real, pool])[:, :-1]
    y = np.eye(2)[np.concatenate([toy.train.labels, toy.candidates.labels])]
    labels = torch.from_numpy(toy.valid.labels)

    def log_likelihood(s: np.ndarray) -> float:
        weights = minimum(x, y, s, 0.2, gtol=1e-9)
        scores = torch.from_numpy((valid @ weights).T)[None]
        temperature = fit_temperature(scores, labels, steps=30)[:, None, None]
        log_p = (temperature * scores).log_softmax(1)
        return log_p[0, labels, torch.arange(len(labels))].mean().item()

    weights = np.concatenate([np.ones(len(real)), mask])
    for i in (*np.flatnonzero(mask)[:2], *np.flatnonzero(~mask)[:2]):
        step = np.zeros(len(x))
        step[len(real) + i] = 0.05
        slope = (log_likelihood(weights + step) - log_likelihood(weights - step)) / 0.1
        assert credit[i] == pytest.approx(slope, rel=0.02, abs=2e-7)
