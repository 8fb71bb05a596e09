from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from synthselect_env.synthesis import frechet_distance, nearest_distances, share_closer


def test_frechet_distance_in_one_dimension() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, (50, 1)), rng.normal(-1, 3, (80, 1))
    means = (a.mean() - b.mean()) ** 2
    deviations = (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(means + deviations)


def test_frechet_distance_adds_up_over_uncorrelated_dimensions() -> None:
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    variance = 4 / 3
    distance = frechet_distance(corners * [2, 5], corners * [3, 1] + [7, 0])
    assert distance == pytest.approx(7**2 + variance * (1**2 + 4**2))


@pytest.mark.parametrize("n, m, d", [(60, 40, 6), (40, 60, 39), (12, 9, 20)])
def test_frechet_distance_against_a_matrix_root(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(d)
    a = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    b = 1 + rng.normal(size=(m, d)) @ rng.normal(size=(d, d))
    # A small ridge, since sqrtm has no root of a singular product (few images).
    ridge = 1e-9 * np.eye(d)
    root = scipy.linalg.sqrtm((np.cov(a.T) + ridge) @ (np.cov(b.T) + ridge))
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    traces = np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))
    expected = means + traces - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-4)
    assert frechet_distance(a.astype(np.float32), a.astype(np.float32)) < 1e-9


@pytest.mark.parametrize(
    "a, message",
    [
        (np.zeros((3, 4)), r"two or more feature vectors of one length, got shapes \(3, 4\)"),
        (np.zeros((1, 2)), r"two or more feature vectors of one length, got shapes \(1, 2\)"),
        (np.full((3, 2), np.nan), "not finite"),
    ],
)
def test_frechet_distance_refuses_unfit_features(a: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, np.zeros((3, 2)))


def test_nearest_distances() -> None:
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(1100, 4)), rng.normal(size=(37, 4))
    table = np.linalg.norm(queries[:, None] - references[None], axis=2)
    distances, nearest = nearest_distances(queries, references)
    assert np.allclose(distances, table.min(1))
    assert (nearest == table.argmin(1)).all()


def test_nearest_distances_of_copies_are_zero_unless_skipped() -> None:
    references = np.random.default_rng(0).normal(size=(37, 4))
    single = references.astype(np.float32)
    assert (nearest_distances(single, single)[0] == 0).all()
    others = np.linalg.norm(references[:, None] - references[None], axis=2)
    np.fill_diagonal(others, np.inf)
    distances, _ = nearest_distances(references, references, skip_own=True)
    assert np.allclose(distances, others.min(1))
    with pytest.raises(ValueError, match="no reference image"):
        nearest_distances(references[:1], references[:1], skip_own=True)


def test_share_closer() -> None:
    real = np.arange(1.0, 102.0)  # the 1st percentile is 2
    assert share_closer(np.array([0.0, 1.9, 2.0, 50.0]), real) == 0.5
    assert share_closer(real, real) == pytest.approx(1 / 101)
