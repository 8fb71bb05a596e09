"""Quality of generated images: Fréchet distance, and nearness to the training images.

Both are computed from given feature vectors. In this project these come from our own ResNet, which
was trained on the real train split. Such a Fréchet distance is **not** the FID of the literature,
which is defined on one particular Inception network trained on ImageNet; the two have different
scales. Compare only values of one extractor and one sample size.
"""

from __future__ import annotations

import numpy as np

CHUNK_SIZE = 512
"""Rows whose distances to all references are held at once, which bounds memory."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Fréchet distance of two samples' Gaussians.

    The Gaussians have the samples' means and covariances (Heusel et al. 2017, arXiv:1706.08500):
    |μₐ - μ_b|² + tr(Σₐ) + tr(Σ_b) - 2 tr((Σₐ Σ_b)^½).

    With centred samples Σₐ = AᵀA and Σ_b = BᵀB, the eigenvalues of Σₐ Σ_b are the squared singular
    values of A Bᵀ. So the last trace is the sum of singular values of the triangular factors'
    product, which needs no root of a possibly singular matrix.

    Small samples bias the estimate upwards, more so in more dimensions. Compare it with the
    distance of two real samples of the same sizes.

    :param a: Feature vectors (n, d)
    :param b: Feature vectors (m, d)
    :return: Squared distance, 0 or more
    :raises ValueError: if lengths differ, a sample has fewer than two rows, or a feature is not
        finite
    """
    a = np.asarray(a, np.float64)
    b = np.asarray(b, np.float64)
    comparable = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]
    if not comparable or min(len(a), len(b)) < 2:
        raise ValueError(
            "expected two samples of two or more feature vectors of one length, "
            f"got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            "a feature is not finite; look at the images and the network that it comes from"
        )

    factor_a = _triangular_factor(a)
    factor_b = _triangular_factor(b)
    difference = a.mean(0) - b.mean(0)
    mean_term = (difference**2).sum()
    trace_a = (factor_a**2).sum()
    trace_b = (factor_b**2).sum()
    product = factor_a @ factor_b.T
    shared = np.linalg.svd(product, compute_uv=False).sum()
    distance = mean_term + (trace_a + trace_b) - 2 * shared

    # Rounding can take identical samples below zero.
    return max(0.0, float(distance))


def _triangular_factor(sample: np.ndarray) -> np.ndarray:  # (n, d) -> (min(n, d), d)
    """Return R with RᵀR equal to the sample's covariance."""
    centred = sample - sample.mean(0)
    scaled = centred / np.sqrt(len(sample) - 1)
    # numpy's stubs take the result for that of mode="reduced"
    factor = np.linalg.qr(scaled, mode="r")
    return np.asarray(factor)


def nearest_distances(
    queries: np.ndarray,
    references: np.ndarray,
    skip_own: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distance of each query to its nearest reference.

    :param queries: Feature vectors (n, d)
    :param references: Feature vectors (m, d)
    :param skip_own: Whether query i shows the same as reference i, and is compared with the others
    :return: Distances float64 (n,), and positions of the nearest references int64 (n,)
    :raises ValueError: if there is no reference to be near to
    """
    if len(references) < 1 + skip_own:
        raise ValueError("no reference image to measure the distance to; give more training images")
    queries = np.asarray(queries, np.float64)
    references = np.asarray(references, np.float64)
    squares = (references**2).sum(1)
    nearest = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), CHUNK_SIZE):
        chunk = queries[start : start + CHUNK_SIZE]
        stop = start + len(chunk)
        # Squared distances without the query's own square, which does not change the order.
        table = squares - 2 * chunk @ references.T
        if skip_own:
            rows = np.arange(len(chunk))
            table[rows, start + rows] = np.inf
        nearest[start:stop] = table.argmin(1)
    differences = queries - references[nearest]
    return np.linalg.norm(differences, axis=1), nearest


def share_closer(generated: np.ndarray, real: np.ndarray, percentile: float = 1.0) -> float:
    """Return the share of generated images that may be copies of training images.

    Real images that the generator never saw have nearest training images, too. By construction
    ``percentile`` per cent of them lie within the threshold. A generator that copies has a much
    larger share. So has one whose images are smoother than real ones, as these lie near everything;
    only a look at the pairs tells the two apart.

    :param generated: Distance of each generated image to its nearest training image (n,)
    :param real: Distance of each real image to its nearest (other) training image (m,)
    :param percentile: Percentile of ``real`` that is the threshold
    """
    threshold = np.percentile(real, percentile)
    closer = generated < threshold
    return float(closer.mean())
