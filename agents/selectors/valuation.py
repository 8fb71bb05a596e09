"""Selectors that value every candidate by itself, in one pass and without a search.

They are written here because libraries of data valuation pin older versions of numpy and torch.
"""

from __future__ import annotations

import numpy as np
import torch

from agents.selectors.base import PerReal, RatioSelector
from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators import (
    Evaluator,
    LinearProbeEvaluator,
    make_evaluator,
    require_credit,
)
from synthselect_env.evaluators.candidate_scores import PROBE_RIDGE, candidate_scores, label_probe
from synthselect_env.evaluators.ridge import Design, RidgeHead, rounding_step

CHUNK_SIZE = 64
"""Validation images, or bags, worked on at once. Bounds the memory that a large pool needs."""

MIN_NORM = 1e-12
"""Lower bound of a feature vector's length, which is divided by."""


def class_log_probabilities(classifier: LinearProbeEvaluator, dataset: Dataset) -> np.ndarray:
    """Return the log-probability of every class under the probe on the real images alone.

    :param classifier: linear probe
    :param dataset: images; their labels do not matter
    :return: float64 (m, c)
    """
    empty = np.zeros((1, len(classifier.bank.candidates)), bool)
    return classifier.predict(empty, 0, dataset)[0]


class ConfidenceSelector(RatioSelector):
    """Add the candidates whose label a classifier on the real images is surest of.

    .. code-block:: python

        ConfidenceSelector(ratio=0.3).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    """

    name = "confidence"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return the probability of each candidate's label. Nothing is random here.  (n,)"""
        return np.exp(candidate_scores(bank).probe_label_fit)


class LabelFitRealismSelector(RatioSelector):
    """Add the candidates whose label fits and that look like real images.

    This selector is ours. A classifier's confidence finds wrong labels, and is blind to blur, faded
    stains and tears. Low-level image statistics (:func:`~synthselect_env.data.compute_image_stats`)
    find these, and nothing of labels. The sum of both scores ranks candidates.

    Label fit comes from the networks of the bank's retrainings that were not trained on the
    candidate, or else from a linear probe. Without image statistics, label fit ranks alone.

    .. code-block:: python

        LabelFitRealismSelector().select(load_bank("pcam"), seed=0)

    :param ratio: see :class:`RatioSelector`
    """

    name = "label fit + realism"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return log-probability of the label plus realism. Nothing is random here.  (n,)"""
        return candidate_scores(bank).label_fit_and_realism


class KNNShapleySelector(RatioSelector):
    """Add the candidates of greatest Shapley value for a k-nearest-neighbour classifier.

    After Jia et al. (2019, arXiv:1908.08619, Theorem 1). The players are the real training images
    and the candidates together. A set of them is worth the mean share of the k nearest that have a
    validation image's label, over the validation images. For one such image, with the players in
    order of distance and mᵢ whether the i-th has its label,

        s_N = m_N / max(N, k),    sᵢ = sᵢ₊₁ + (mᵢ - mᵢ₊₁) / max(i, k)

    which is exact, and a cumulative sum. Distances are cosine distances. The paper takes Euclidean
    ones of whatever features there are.

    .. code-block:: python

        KNNShapleySelector(k=5).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param k: number of neighbours that vote
    :raises ValueError: if there are no neighbours
    """

    name = "KNN-Shapley"

    def __init__(self, ratio: float | PerReal = 0.5, k: int = 10) -> None:
        super().__init__(ratio)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return Shapley values. Nothing is random here.  (n,)"""
        players = _unit(np.concatenate([bank.train.features, bank.candidates.features]))
        labels = np.concatenate([bank.train.labels, bank.candidates.labels])
        judges = _unit(bank.valid.features)
        divisors = np.maximum(np.arange(1, len(labels) + 1), self.k)
        values = np.zeros(len(labels))
        for start in range(0, len(judges), CHUNK_SIZE):
            # Order the players by their distance to each validation image.
            part = slice(start, start + CHUNK_SIZE)
            nearest = np.argsort(-judges[part] @ players.T, axis=1, kind="stable")  # (v, N)
            own_labels = bank.valid.labels[part, None]
            match = (labels[nearest] == own_labels).astype(np.float64)

            # The farthest player first: each value is that of the next farther one and a step.
            steps = np.diff(match, axis=1, append=0.0) / -divisors
            farthest_first = np.cumsum(steps[:, ::-1], axis=1)
            shapley = farthest_first[:, ::-1]

            # Back to the order of the players.
            by_player = np.empty_like(shapley)
            np.put_along_axis(by_player, nearest, shapley, axis=1)
            values += by_player.sum(0)
        return values[len(bank.train) :] / len(judges)


def _unit(features: np.ndarray) -> np.ndarray:  # (n, d) -> float64 (n, d)
    """Scale features to length 1, where Euclidean and cosine distance order alike."""
    norms = np.linalg.norm(features, axis=1, keepdims=True).astype(np.float64)
    return features / np.maximum(norms, MIN_NORM)


class DataOOBSelector(RatioSelector):
    """Add the candidates whose label out-of-bag classifiers predict.

    After Data-OOB (Kwon and Zou 2023, arXiv:2304.07718). Real training images and candidates are
    bagged together. A candidate's value is the share of the classifiers without it in their bag
    that predict its label. Validation images play no part.

    Three things differ from the paper. The classifiers are ridge regressions on principal
    components, and not trees. A bag is drawn without replacement. Among equals the mean regression
    decides, as candidates that are easy to classify mostly have a share of 1.

    .. code-block:: python

        DataOOBSelector(n_classifiers=64).select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param n_classifiers: number of bags, with one classifier each
    :param share: share of all images in a bag, above 0 and below 1. Small bags make weak
        classifiers that differ
    :raises ValueError: if a parameter is out of range
    """

    name = "Data-OOB"

    def __init__(
        self, ratio: float | PerReal = 0.5, n_classifiers: int = 512, share: float = 0.1
    ) -> None:
        super().__init__(ratio)
        if n_classifiers < 1 or not 0 < share < 1:
            raise ValueError(
                "n_classifiers must be at least 1 and share between 0 and 1, "
                f"got {n_classifiers} and {share}"
            )
        self.n_classifiers = n_classifiers
        self.share = share

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return out-of-bag accuracies, with ties broken by the regressions' scores.  (n,)"""
        # Prepare real images and candidates. None of them is in every bag.
        probe = label_probe(bank)
        parts = [probe.components(split.features) for split in (bank.train, bank.candidates)]
        x = torch.cat(parts)  # (N, p)
        step = rounding_step(x)
        x = (x / step).round() * step  # sums over a bag are exact, as in the probe
        labels = torch.from_numpy(np.concatenate([bank.train.labels, bank.candidates.labels]))
        y = torch.nn.functional.one_hot(labels, len(bank.classes)).to(torch.float64)
        nothing, everything = Design(x[:0], y[:0]), Design(x, y)
        head = RidgeHead(nothing, everything, PROBE_RIDGE)

        # Fit a classifier per bag, and let it predict the images outside.
        rng = np.random.default_rng(seed)
        n = len(x)
        size = max(1, round(self.share * n))
        judged, right, own_score = torch.zeros(3, n, dtype=torch.float64)
        for start in range(0, self.n_classifiers, CHUNK_SIZE):
            k = min(CHUNK_SIZE, self.n_classifiers - start)
            bags = torch.from_numpy(rng.random((k, n)).argsort(1) < size)
            predicted = x @ head.fit(bags)  # (k, N, c)
            outside = ~bags
            judged += outside.sum(0)
            right += (outside & (predicted.argmax(2) == labels)).sum(0)
            own_score += (outside * (predicted * y).sum(2)).sum(0)

        # Two shares of at most n_classifiers differ by more than the tie-break, if at all.
        judged.clamp_(min=1)
        tie_break = 0.5 / self.n_classifiers**2
        values = right / judged + tie_break * (own_score / judged).sigmoid()
        return values[len(bank.train) :].numpy()


class InfluenceSelector(RatioSelector):
    """Add the candidates by which the validation log-likelihood rises most.

    After influence functions (Koh and Liang 2017, arXiv:1703.04730): the derivative by each
    candidate's weight in the training set. It takes one evaluation, where a search takes hundreds.
    It tells, to first order, what each candidate alone would change. Beside a few dozen images that
    is a rough estimate, and it does not tell what hundreds together change.

    .. code-block:: python

        InfluenceSelector(start="none").select(load_bank("toy"), seed=0)

    :param ratio: see :class:`RatioSelector`
    :param evaluator: evaluator with credit, or its name
    :param start: selection at which the derivative is taken. "all", as in the paper, gives the cost
        of leaving a candidate out of the whole pool. "none" gives what it alone adds to the real
        images
    :raises ValueError: if the start is unknown
    :raises NotImplementedError: if the evaluator has no credit; raised on selecting
    """

    name = "influence"
    evaluations = 1

    def __init__(
        self,
        ratio: float | PerReal = 0.5,
        evaluator: str | Evaluator | None = "linear_probe",
        start: str = "all",
    ) -> None:
        super().__init__(ratio)
        if start not in ("all", "none"):
            raise ValueError(f"unknown start {start!r}; all or none")
        self.evaluator = evaluator
        self.start = start

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return the evaluator's credit at the start.  (n,)"""
        evaluator = require_credit(make_evaluator(self.evaluator, bank))
        mask = np.full((1, len(bank.candidates)), self.start == "all")
        return evaluator.credit(mask, seed)[0]
