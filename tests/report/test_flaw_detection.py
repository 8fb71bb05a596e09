from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from agents.report import discovery, flaw_detection_metrics
from synthselect_env import Selection

N = 40


@pytest.fixture
def flaw() -> np.ndarray:
    return (np.random.default_rng(0).random(N) < 0.6).astype(np.int8)


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(1).normal(size=N)


def selected(mask: np.ndarray, scores: np.ndarray) -> Selection:
    return Selection(mask, scores, range(N), range(N), "x")


def test_discovery_is_what_counting_finds(flaw: np.ndarray, scores: np.ndarray) -> None:
    order = np.argsort(-scores)
    expected = [np.sum(flaw[order[:k]] == 0) / np.sum(flaw == 0) for k in range(N + 1)]
    assert discovery(scores, flaw == 0) == pytest.approx(expected)


def test_discovery_with_equal_scores_is_the_mean_over_their_orders(
    flaw: np.ndarray, scores: np.ndarray
) -> None:
    rng = np.random.default_rng(2)
    tied = np.round(scores)
    orders = [np.lexsort((rng.random(N), -tied)) for _ in range(4000)]
    found = np.mean([np.cumsum(flaw[order] == 0) for order in orders], axis=0)
    expected = np.concatenate([[0], found]) / np.sum(flaw == 0)
    assert discovery(tied, flaw == 0) == pytest.approx(expected, abs=0.02)


def test_metrics_against_scikit_learn(flaw: np.ndarray, scores: np.ndarray) -> None:
    tied = np.round(scores)
    mask = scores > 0.3
    metrics = flaw_detection_metrics(selected(mask, tied), flaw)
    assert metrics["AUC"] == pytest.approx(roc_auc_score(flaw == 0, tied))
    assert metrics["F1"] == pytest.approx(f1_score(flaw == 0, mask))
    assert metrics["precision"] == pytest.approx(np.mean(flaw[mask] == 0))
    assert metrics["recall"] == pytest.approx(np.mean(mask[flaw == 0]))


def test_metrics_without_a_denominator_are_nan(flaw: np.ndarray, scores: np.ndarray) -> None:
    nothing = np.zeros(N, bool)
    metrics = flaw_detection_metrics(selected(nothing, scores), flaw)
    assert np.isnan(metrics["precision"])
    assert metrics["recall"] == metrics["F1"] == 0

    metrics = flaw_detection_metrics(selected(nothing, scores), np.ones(N, np.int8))
    assert np.isnan(metrics["recall"]) and np.isnan(metrics["F1"])
