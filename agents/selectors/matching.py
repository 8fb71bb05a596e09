"""Selectors of candidates that together resemble a set of target images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from agents.selectors.base import PerReal, RatioSelector
from agents.selectors.valuation import class_log_probabilities
from synthselect_env import FeatureBank
from synthselect_env.evaluators.candidate_scores import label_probe

CHUNK_SIZE = 64
"""Candidates compared with all targets at once. Bounds the memory that a large pool needs."""

MIN_SCALE = 1e-6
"""Lower bound of the unit of distances. Identical real images have no spread."""

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Similarity of two sets of vectors.  (n, d), (m, d) -> (n, m)"""


def _linear(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T


def _quadratic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (1 + a @ b.T) ** 2


def _gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared_a, squared_b = (a**2).sum(1), (b**2).sum(1)
    squared = squared_a[:, None] + squared_b - 2 * a @ b.T
    return np.exp(-np.maximum(squared, 0) / 2)


KERNELS: dict[str, Kernel] = {"linear": _linear, "quadratic": _quadratic, "gaussian": _gaussian}
"""Kernels by name.

The linear one matches means, the quadratic one means and covariances, the Gaussian one the whole
distribution.
"""


def herd(candidates: np.ndarray, targets: np.ndarray, kernel: Kernel = _linear) -> np.ndarray:
    """Order candidates so that the first t resemble the targets, for every t.

    This is greedy matching of kernel means. Each step takes the candidate that brings the mean of
    those taken nearest to the mean of the targets, in the kernel's space: herding as of Rebuffi et
    al. (2017, arXiv:1611.07725, Algorithm 4). The rule of Welling (2009) and of Chen, Welling and
    Smola (2010, arXiv:1203.3472) is the same where all vectors have one length.

    :param candidates: (n, d)
    :param targets: (m, d), at least one
    :param kernel: one of :data:`KERNELS`
    :return: positions of all candidates, the first taken first (n,)
    """
    n = len(candidates)
    # Inner products of each candidate with the targets' mean, with itself, and with the sum taken.
    parts = [np.zeros(0)]
    for start in range(0, n, CHUNK_SIZE):
        parts.append(kernel(candidates[start : start + CHUNK_SIZE], targets).mean(1))
    with_target = np.concatenate(parts)
    singles = [candidates[i : i + 1] for i in range(n)]
    with_itself = np.array([kernel(single, single)[0, 0] for single in singles])
    with_taken = np.zeros(n)

    order = np.empty(n, np.int64)
    for t in range(n):
        # |sum + x - (t + 1) mean|², less what is the same for all candidates
        excess = 2 * with_taken + with_itself - 2 * (t + 1) * with_target
        best = excess.argmin()
        order[t] = best
        with_itself[best] = np.inf  # not again
        with_taken += kernel(candidates, singles[best])[:, 0]
    return order


class MatchingSelector(RatioSelector):
    """Add the candidates of each class that together match targets of that class.

    A subclass needs a ``name`` and :meth:`vectors`.

    :param ratio: see :class:`RatioSelector`
    """

    kernel = "linear"
    """Name of the kernel, see :data:`KERNELS`."""

    @abstractmethod
    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the vectors to match.

        :param bank: feature bank
        :return: one vector per candidate (n, d), one per target (m, d), classes of the targets (m,)
        """

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Score candidates by when they are taken, from 1 down to above 0.  (n,)

        A score is the share of its class before which a candidate is taken. Nothing is random here.
        """
        candidates, targets, classes = self.vectors(bank)
        scores = np.zeros(len(candidates))
        for label in range(len(bank.classes)):
            members = np.flatnonzero(bank.candidates.labels == label)
            wanted = targets[classes == label]
            if not len(wanted):
                wanted = targets  # a class without targets is matched with those of all
            order = herd(candidates[members], wanted, KERNELS[self.kernel])
            taken_before = np.arange(len(order)) / max(len(order), 1)
            scores[members[order]] = 1 - taken_before
        return scores


class GradientMatchingSelector(MatchingSelector):
    """Add candidates whose last-layer gradients add up to those of the validation images.

    After GRAD-MATCH (Killamsetty et al. 2021, arXiv:2103.00123) with validation gradients, class by
    class. A gradient is that of the log-likelihood by the last layer of a classifier on the real
    images: (p - y) xᵀ, where p are its probabilities and x principal components of the features
    with a one.

    GRAD-MATCH's orthogonal matching pursuit finds a weight per image. A selection has no weights,
    and in so few dimensions the pursuit leaves no error after some dozens of images. Ours is the
    same objective with equal weights, image by image: :func:`herd` of the gradients. A training
    step on the selection is then like a step on that number of validation images.

    .. code-block:: python

        GradientMatchingSelector().select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    """

    name = "gradient matching"

    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gradients of candidates and of validation images."""
        classifier = label_probe(bank)
        gradients = []
        for split in (bank.candidates, bank.valid):
            probabilities = np.exp(class_log_probabilities(classifier, split))
            surplus = probabilities - np.eye(len(bank.classes))[split.labels]  # (n, c)
            x = classifier.components(split.features).numpy()  # (n, p)
            outer = surplus[:, :, None] * x[:, None, :]
            gradients.append(outer.reshape(len(split), -1))  # (n, c p)
        return gradients[0], gradients[1], bank.valid.labels


class HerdingSelector(MatchingSelector):
    """Add candidates that are distributed as the real training images of their class.

    This is kernel herding (Chen et al. 2010, arXiv:1203.3472), see :func:`herd`. Features are taken
    from their class's real mean, in units of the real images' root mean square distance to it. The
    kernel decides what is matched; the default one matches the whole distribution.

    .. code-block:: python

        HerdingSelector(kernel="quadratic").select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param kernel: "linear", "quadratic" or "gaussian"; see :data:`KERNELS`
    :raises ValueError: if the kernel is unknown
    """

    name = "herding"

    def __init__(self, ratio: float | PerReal = 0.5, kernel: str = "gaussian") -> None:
        super().__init__(ratio)
        if kernel not in KERNELS:
            raise ValueError(f"unknown kernel {kernel!r}; one of {', '.join(KERNELS)}")
        self.kernel = kernel

    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the features of candidates and of real training images."""
        candidates = bank.candidates.features - bank.centroids[bank.candidates.labels]
        real = bank.train.features - bank.centroids[bank.train.labels]
        mean_square = (real**2).sum(1).mean()
        scale = max(float(np.sqrt(mean_square)), MIN_SCALE)
        return candidates / scale, real / scale, bank.train.labels
