"""How good generated images are: Fréchet distance of feature vectors, and nearness to the training images.

Both are on whatever feature vectors they are given. In this project these come from our own ResNet, trained on the real train split:
such a Fréchet distance is **not** the FID of the literature, which is defined on one particular Inception network trained on ImageNet,
and the two have different scales. Compare figures of one extractor and one n only.
"""

from __future__ import annotations

import numpy as np

QUERIES_AT_ONCE = 512
"""Rows whose distances to all references are held at once, which bounds memory."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians with the samples' means and covariances (Heusel et al. 2017, arXiv:1706.08500).

    |μₐ - μ_b|² + tr(Σₐ) + tr(Σ_b) - 2 tr((Σₐ Σ_b)^½). With centred samples Σₐ = AᵀA and Σ_b = BᵀB, the eigenvalues of Σₐ Σ_b are the
    squared singular values of A Bᵀ; so the last trace is the sum of singular values of the triangular factors' product, and no root of
    a matrix that may be singular is taken.

    The estimate is biased upwards by small samples, the more the more dimensions: compare with the distance of two real samples of
    the same sizes.

    :param a: features (n, d)
    :param b: features (m, d)
    :raises ValueError: when lengths differ, a sample has fewer than two rows, or a feature is not finite
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"expected two samples of two or more feature vectors of one length, got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            "a feature is not finite; look at the pictures and the network that it comes from"
        )
    # (min(n, d), d) each; numpy's stubs take the result for that of mode="reduced"
    triangular = [
        np.asarray(np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1), mode="r")) for x in (a, b)
    ]
    shared = np.linalg.svd(triangular[0] @ triangular[1].T, compute_uv=False).sum()
    total = (
        ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((r**2).sum() for r in triangular) - 2 * shared
    )
    return max(0.0, float(total))  # rounding can take identical samples below zero


def nearest_distances(
    queries: np.ndarray, references: np.ndarray, skip_own: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance of each query to its nearest reference, and which one that is.

    :param queries: (n, d)
    :param references: (m, d)
    :param skip_own: query i is reference i, in this form or another; look among the others only
    :return: distances float64 (n,), positions int64 (n,)
    :raises ValueError: when there is no reference to be near to
    """
    if len(references) < 1 + skip_own:
        raise ValueError(
            "no reference picture to measure the distance to; give more training pictures"
        )
    queries, references = np.asarray(queries, np.float64), np.asarray(references, np.float64)
    squares = (references**2).sum(1)
    nearest = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, min(start + QUERIES_AT_ONCE, len(queries)))
        table = (
            squares - 2 * queries[rows] @ references.T
        )  # less the query's own square, which does not change the order
        if skip_own:
            table[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
        nearest[rows] = table.argmin(1)
    return np.linalg.norm(queries - references[nearest], axis=1), nearest


def share_closer(generated: np.ndarray, real: np.ndarray, percentile: float = 1.0) -> float:
    """Memorisation: the share of generated images that lie closer to a training image than nearly every real one does.

    Real images that the generator never saw have nearest training images, too; by construction ``percentile`` per cent of them lie
    within the threshold. A generator that copies has a much larger share. So has one whose images are smoother than real ones:
    these lie near everything, and only a look at the pairs tells the two apart.

    :param generated: distance of each generated image to its nearest training image (n,)
    :param real: the same of real images to (other) training images (m,)
    :param percentile: of ``real``, the threshold
    """
    return float((generated < np.percentile(real, percentile)).mean())
