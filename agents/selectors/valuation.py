"""Selectors that value every candidate in one pass, without a search: by confidence, neighbours, bagging, influence, or matching.

Libraries of data valuation were looked at (pyDVL 0.10.0, OpenDataVal 1.3.0): they hold numpy below 2, OpenDataVal torch at 2.1, too, and
would take back what this library is installed with. What is needed of them is a few lines of linear algebra for all candidates at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from agents.selectors.base import RatioSelector
from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators import Evaluator, LinearProbeEvaluator, make_evaluator
from synthselect_env.evaluators.candidate_scores import PROBE_RIDGE, candidate_scores, label_probe
from synthselect_env.evaluators.ridge import Design, RidgeHead, rounding_step

TOGETHER = 64
"""Validation images, or bags, that are worked on at once, which bounds the memory that a large pool needs."""


def class_log_probabilities(classifier: LinearProbeEvaluator, split: Dataset) -> np.ndarray:
    """Log-probability of every class for each image, under the probe on the real images alone.

    :param classifier: the probe
    :param split: images; their labels do not matter
    :return: float64 (n, c)
    """
    nothing = np.zeros((1, len(classifier.bank.candidates)), bool)
    return classifier.predict(nothing, 0, split)[0]


def unit(features: np.ndarray) -> np.ndarray:
    """Features scaled to length 1, among which Euclidean and cosine distance order alike.  (n, d) -> float64 (n, d)"""
    norms = np.linalg.norm(features, axis=1, keepdims=True).astype(np.float64)
    return features / np.maximum(norms, 1e-12)


class ConfidenceSelector(RatioSelector):
    """Adds the candidates of whose label a classifier on the real images is surest.

    :param ratio: see :class:`RatioSelector`
    """

    name = "confidence"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Probability of the own label; nothing here is random."""
        return np.exp(candidate_scores(bank).probe_label_fit)


class LabelFitRealismSelector(RatioSelector):
    """Adds the candidates whose label fits and that look like real images: the sum of what the datamodel ranks candidates by.

    Ours. A classifier's confidence tells wrong labels, and is blind to blur, faded stains and tears; a image's low-level statistics
    (:func:`~synthselect_env.data.image_stats`) tell these and nothing of labels. How well labels fit, the networks of
    the bank's retrainings say that were not trained on a candidate. Where a bank has neither, it is the order of confidence.

    :param ratio: see :class:`RatioSelector`
    """

    name = "label fit + realism"

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Logarithm of the own label's probability, by retrained networks where the bank tells, less that of the atypicality."""
        return candidate_scores(bank).label_fit_and_realism


class KNNShapleySelector(RatioSelector):
    """Adds the candidates of greatest Shapley value for a k-nearest-neighbour classifier (Jia et al. 2019, arXiv:1908.08619, Theorem 1).

    The players are the real training images and the candidates together; a set of them is worth the mean share of the k nearest
    that have a validation image's label, over the validation images. For one of these, with the players in order of distance
    and mᵢ whether the i-th has its label,

        s_N = m_N / max(N, k),    sᵢ = sᵢ₊₁ + (mᵢ - mᵢ₊₁) / max(i, k)

    which is exact, and a cumulative sum. Distances are cosines: the paper takes Euclidean ones of whatever features there are.

    :param ratio: see :class:`RatioSelector`
    :param k: neighbours that vote
    :raises ValueError: when there are no neighbours
    """

    name = "KNN-Shapley"

    def __init__(self, ratio: float = 0.5, k: int = 10) -> None:
        super().__init__(ratio)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Shapley values; nothing here is random."""
        players = unit(np.concatenate([bank.train.features, bank.candidates.features]))
        labels = np.concatenate([bank.train.labels, bank.candidates.labels])
        judges, n = unit(bank.valid.features), len(labels)
        divisors = np.maximum(np.arange(1, n + 1), self.k)
        values = np.zeros(n)
        for start in range(0, len(judges), TOGETHER):
            part = slice(start, start + TOGETHER)
            nearest = np.argsort(-judges[part] @ players.T, axis=1, kind="stable")  # (v, n)
            match = (labels[nearest] == bank.valid.labels[part, None]).astype(np.float64)
            steps = np.diff(match, axis=1, append=0.0) / -divisors
            # the farthest first: each value is the next farther one's and a step
            shapley = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
            by_player = np.empty_like(shapley)
            np.put_along_axis(by_player, nearest, shapley, axis=1)
            values += by_player.sum(0)
        return values[len(bank.train) :] / len(judges)


class DataOOBSelector(RatioSelector):
    """Adds the candidates whose label is predicted by classifiers that did not train on them (Data-OOB, Kwon and Zou 2023, arXiv:2304.07718).

    Real training images and candidates are bagged together; a candidate's value is the share of the classifiers that have it out
    of their bag and give it its label. Ours: the classifiers are ridge regressions on principal components, where the paper grows
    trees; a bag is drawn without replacement; and among equals the mean regression decides, for a generator that is easy to classify
    leaves most candidates with a share of 1. Validation images play no part.

    :param ratio: see :class:`RatioSelector`
    :param n_classifiers: bags
    :param share: of all images in a bag, above 0 and below 1; small bags make weak classifiers that differ
    :raises ValueError: when a parameter is out of range
    """

    name = "Data-OOB"

    def __init__(self, ratio: float = 0.5, n_classifiers: int = 512, share: float = 0.1) -> None:
        super().__init__(ratio)
        if n_classifiers < 1 or not 0 < share < 1:
            raise ValueError(
                f"n_classifiers must be at least 1 and share between 0 and 1, got {n_classifiers} and {share}"
            )
        self.n_classifiers, self.share = n_classifiers, share

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Out-of-bag accuracy of each candidate, and less than its smallest step more by the out-of-bag regression."""
        rng, classifier = np.random.default_rng(seed), label_probe(bank)
        x = torch.cat(
            [classifier.components(split.features) for split in (bank.train, bank.candidates)]
        )
        step = rounding_step(x)
        x = (x / step).round() * step  # sums over a bag are exact, as in the probe
        labels = torch.from_numpy(np.concatenate([bank.train.labels, bank.candidates.labels]))
        y = torch.nn.functional.one_hot(labels, len(bank.classes)).to(torch.float64)
        head = RidgeHead(
            Design(x[:0], y[:0]), Design(x, y), PROBE_RIDGE
        )  # no image is in every bag
        n, size = len(x), max(1, round(self.share * len(x)))
        judged, right, own = torch.zeros(3, n, dtype=torch.float64)
        for start in range(0, self.n_classifiers, TOGETHER):
            k = min(TOGETHER, self.n_classifiers - start)
            bags = torch.from_numpy(rng.random((k, n)).argsort(1) < size)
            predicted = x @ head.fit(bags)  # (k, n, c)
            judged += (~bags).sum(0)
            right += (~bags & (predicted.argmax(2) == labels)).sum(0)
            own += (~bags * (predicted * y).sum(2)).sum(0)
        judged.clamp_(min=1)
        # two shares of at most n_classifiers differ by more than this, if at all
        tie_break = 0.5 / self.n_classifiers**2
        return (right / judged + tie_break * (own / judged).sigmoid())[len(bank.train) :].numpy()


class InfluenceSelector(RatioSelector):
    """Adds the candidates whose weight in the training set the validation log-likelihood rises with (Koh and Liang 2017, arXiv:1703.04730).

    One derivative, where a search takes hundreds: to first order, what each candidate alone would change. Beside a few dozen images
    one more is not little, and the first order not enough; nor does it say what hundreds together change.

    :param ratio: see :class:`RatioSelector`
    :param evaluator: a name, or an evaluator of the bank that is selected from; must have credit
    :param start: "all": what leaving a candidate out of the whole pool would cost, the influence function proper; "none": what it
        alone would add to the real images
    :raises ValueError: when the start is unknown
    :raises NotImplementedError: on selecting, when the evaluator has no credit
    """

    name = "influence"
    evaluations = 1

    def __init__(
        self,
        ratio: float = 0.5,
        evaluator: str | Evaluator | None = "linear_probe",
        start: str = "all",
    ) -> None:
        super().__init__(ratio)
        if start not in ("all", "none"):
            raise ValueError(f"unknown start {start!r}; all or none")
        self.evaluator, self.start = evaluator, start

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """The evaluator's credit at the start."""
        mask = np.full((1, len(bank.candidates)), self.start == "all")
        return make_evaluator(self.evaluator, bank).credit(mask, seed)[0]


Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _linear(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T


def _quadratic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (1 + a @ b.T) ** 2


def _gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-np.maximum(squared, 0) / 2)


KERNELS: dict[str, Kernel] = {"linear": _linear, "quadratic": _quadratic, "gaussian": _gaussian}
"""By what they match: the mean; the mean and the covariance; the whole distribution.  (n, d), (m, d) -> (n, m)"""


def herd(candidates: np.ndarray, targets: np.ndarray, kernel: Kernel = _linear) -> np.ndarray:
    """Order candidates so that the first t, for every t, look like the targets: greedy matching of kernel means.

    Each step takes the candidate with which the mean of those taken comes nearest to the mean of the targets, in the kernel's
    space. That is herding as of Rebuffi et al. (2017, arXiv:1611.07725, Algorithm 4); the rule of Welling (2009) and of Chen, Welling and Smola
    (2010, arXiv:1203.3472) is the same where all vectors have one length.

    :param candidates: (n, d)
    :param targets: (m, d), at least one
    :param kernel: see :data:`KERNELS`
    :return: positions of all candidates, the first taken first (n,)
    """
    n = len(candidates)
    wanted = np.concatenate(  # inner product of each candidate with the targets' mean, in chunks
        [
            np.zeros(0),
            *(kernel(candidates[i : i + TOGETHER], targets).mean(1) for i in range(0, n, TOGETHER)),
        ]
    )
    own = np.array([kernel(row[None], row[None])[0, 0] for row in candidates])
    taken = np.zeros(n)  # inner product of each candidate with the sum of those taken
    order = np.empty(n, np.int64)
    for t in range(n):
        # |sum + x - (t + 1) mean|², less what is the same for all candidates
        excess = 2 * taken + own - 2 * (t + 1) * wanted
        order[t] = best = excess.argmin()
        own[best] = np.inf  # not again
        taken += kernel(candidates, candidates[best : best + 1])[:, 0]
    return order


class MatchingSelector(RatioSelector):
    """Adds of each class the candidates that together match targets of that class; scored by when they are taken.

    :param ratio: see :class:`RatioSelector`
    """

    kernel = "linear"

    @abstractmethod
    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is matched: a vector a candidate (n, d), a vector a target (m, d), and the targets' classes (m,)."""

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Share of its class that a candidate is taken before, above 0 to 1; nothing here is random."""
        candidates, targets, classes = self.vectors(bank)
        scores = np.zeros(len(candidates))
        for label in range(len(bank.classes)):
            members, aims = (
                np.flatnonzero(bank.candidates.labels == label),
                targets[classes == label],
            )
            # a class without targets is matched with those of all
            order = members[
                herd(candidates[members], aims if len(aims) else targets, KERNELS[self.kernel])
            ]
            scores[order] = 1 - np.arange(len(order)) / max(len(order), 1)
        return scores


class GradientMatchingSelector(MatchingSelector):
    """Adds candidates whose last-layer gradients add up to those of the validation images (after GRAD-MATCH, Killamsetty et al. 2021).

    GRAD-MATCH (arXiv:2103.00123) with validation gradients, class by class: the gradient of the log-likelihood by the last layer of a
    classifier on the real images, (p - y) xᵀ, where p are its probabilities and x principal components of the features with a one.
    Its orthogonal matching pursuit finds a weight for each image. A selection has no weights, and in so few dimensions the pursuit
    leaves no error after some dozens of images. Ours is the same objective with equal weights, image by image: :func:`herd`
    of the gradients, so that a training step on the selection is as a step on that number of validation images.

    :param ratio: see :class:`RatioSelector`
    """

    name = "gradient matching"

    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients of candidates and of validation images."""
        classifier = label_probe(bank)
        gradients = []
        for split in (bank.candidates, bank.valid):
            surplus = (
                np.exp(class_log_probabilities(classifier, split))
                - np.eye(len(bank.classes))[split.labels]
            )  # (n, c)
            x = classifier.components(split.features).numpy()  # (n, p)
            gradients.append((surplus[:, :, None] * x[:, None, :]).reshape(len(split), -1))
        return gradients[0], gradients[1], bank.valid.labels


class HerdingSelector(MatchingSelector):
    """Adds candidates that are distributed as the real training images of their class (kernel herding, Chen et al. 2010, arXiv:1203.3472).

    Features are taken from their class's real mean, in units of the real images' root mean square distance to it. What is
    matched is up to the kernel; the default one goes for the whole distribution. See :func:`herd`.

    :param ratio: see :class:`RatioSelector`
    :param kernel: "linear", "quadratic" or "gaussian"; see :data:`KERNELS`
    :raises ValueError: when the kernel is unknown
    """

    name = "herding"

    def __init__(self, ratio: float = 0.5, kernel: str = "gaussian") -> None:
        super().__init__(ratio)
        if kernel not in KERNELS:
            raise ValueError(f"unknown kernel {kernel!r}; one of {', '.join(KERNELS)}")
        self.kernel = kernel

    def vectors(self, bank: FeatureBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features of candidates and of real training images."""
        candidates, real = (
            split.features - bank.centroids[split.labels] for split in (bank.candidates, bank.train)
        )
        scale = max(float(np.sqrt((real**2).sum(1).mean())), 1e-6)
        return candidates / scale, real / scale, bank.train.labels
