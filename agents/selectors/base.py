"""Selector: the one interface of everything that selects candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
from torch import nn

from synthselect_env import FeatureBank, Selection
from synthselect_env.evaluators import Evaluator
from synthselect_env.training.checkpoints import weights_digest


class Selector(ABC):
    """Decide which candidates of a bank to keep.

    A subclass needs a :attr:`name` and one method, :meth:`select`. One that ranks candidates is
    shorter still as a :class:`RatioSelector`.

    .. code-block:: python

        from agents.evaluation import compare
        from agents.selectors import Selector
        from synthselect_env import Selection, load_bank

        class NearSelector(Selector):
            name = "near"

            def select(self, bank, seed):
                distances = bank.centroid_distances
                mask, scores = distances < 0.5, -distances
                return Selection.of(bank, mask, scores, self.name)

        compare(load_bank("toy"), ["random", NearSelector()])

    :func:`~agents.evaluation.compare` takes the object as it is. To give it by name as well, add
    the class to the registry of your script: ``SELECTORS["near"] = NearSelector``. It is then made
    without arguments.
    """

    name: str
    """Name in tables. Different for all selectors of a comparison."""
    evaluations = 0
    """Number of evaluator calls that one selection spends. Shown in tables."""
    is_rl = False
    """Whether reinforcement learning selects. Tables hold such rows against the best other one."""
    knows_truth = False
    """Whether the selector is told which candidates are sound. Tables then treat its row as an
    upper bound, and not as a method to beat."""
    uses_labels = True
    """Whether the labels of annotated images shape the selection, by features or scores. Such a
    selection looks too good on these images; see benchmarks/results/fold_leak.md."""

    @property
    def cross_fits(self) -> bool:
        """Whether the selector selects alike from a bank without a fold of the annotated images.

        See :func:`~synthselect_env.bank.extraction.without_fold`. One whose evaluator belongs to a
        bank, or retrains, does not.
        """
        return getattr(self, "evaluator", None) in (None, "datamodel", "linear_probe")

    @abstractmethod
    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Decide for every candidate, without a look at the bank's test split.

        :param bank: feature bank
        :param seed: seed of everything that is random. Global random state must stay as it was
        """

    def settings(self) -> dict[str, object]:
        """Return what a selection depends on beside bank and seed, JSON-able.

        By default these are all attributes. A comparison stores selections under them.

        :raises NotImplementedError: if an attribute is of an unknown kind. Selections are then not
            stored; override this method to change that
        """
        return {
            name: _plain(value, f"{type(self).__name__}.{name}")
            for name, value in vars(self).items()
        }


def _plain(value: Any, where: str) -> object:
    """Return a value in JSON's terms: evaluators and networks as digests, classes as names."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Evaluator):
        return value.fingerprint
    if is_dataclass(value) and not isinstance(value, type):
        return [_plain(type(value), where), _plain(asdict(value), where)]
    if isinstance(value, nn.Module):
        return weights_digest(value)
    raise NotImplementedError(
        f"{where} is a {type(value).__name__}; define settings() to remember what is selected"
    )


@dataclass(frozen=True)
class PerReal:
    """Size of a selection by that of the training set.

    .. code-block:: python

        from agents.selectors import CentroidSelector, PerReal

        CentroidSelector(PerReal(2)).select(load_bank("toy"), seed=0)

    :param images: synthetic images per real training image
    :raises ValueError: if it is negative
    """

    images: float

    def __post_init__(self) -> None:
        if not self.images >= 0:
            raise ValueError(f"synthetic images per real one must not be negative: {self.images}")


class RatioSelector(Selector):
    """Keep the best-scored candidates of each class, up to a size.

    The paper's augmentation ratio is 0.5 for all its baselines. It does not say of what: a share of
    the pool (``ratio=0.5``), or half as many as there are real images (``ratio=PerReal(0.5)``).
    Either is applied per class, which keeps the pool's class balance. A subclass needs a ``name``
    and :meth:`score`:

    .. code-block:: python

        from agents.evaluation import compare
        from agents.selectors import RatioSelector
        from synthselect_env import load_bank

        class LongestSelector(RatioSelector):
            name = "longest"

            def score(self, bank, seed):
                return (bank.candidates.features**2).sum(1)

        compare(load_bank("toy"), ["random", LongestSelector(ratio=0.3)])

    :param ratio: share of each class to keep, 0 to 1, or :class:`PerReal`. A pool that is smaller
        than what is asked for is kept whole
    :raises ValueError: if a share lies outside
    """

    def __init__(self, ratio: float | PerReal = 0.5) -> None:
        if not isinstance(ratio, PerReal) and not 0 <= ratio <= 1:
            raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
        self.ratio = ratio

    @abstractmethod
    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Score every candidate; higher scores are kept first.

        :param bank: feature bank
        :param seed: seed of everything that is random
        :return: (n,)
        """

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the best-scored share of each class. Ties go to the earlier candidate."""
        scores = self._checked_scores(bank, seed)
        labels = bank.candidates.labels
        share = self.ratio
        if isinstance(share, PerReal):
            share = min(1.0, share.images * len(bank.train) / max(len(labels), 1))
        counts = share * np.bincount(labels, minlength=len(bank.classes))
        mask = best_of_each_class(scores, labels, counts)
        return Selection.of(bank, mask, scores, self.name)

    def _checked_scores(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """Return the scores of :meth:`score`, or an error that says what is wrong with them."""
        scores, n = np.asarray(self.score(bank, seed)), len(bank.candidates)
        if scores.dtype.kind not in "fiu" or scores.shape != (n,) or not np.isfinite(scores).all():
            raise ValueError(
                f"{self.name}: score must return finite numbers ({n},), one per candidate of "
                f"{bank.source}; got {scores.dtype} {scores.shape}"
                + (" with NaN or infinity" if scores.dtype.kind == "f" else "")
            )
        return scores


def best_of_each_class(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mark the best-scored candidates of each class.

    :param scores: (n,)
    :param labels: int (n,)
    :param counts: number to mark per class (c,); fractions are rounded
    :return: bool (n,); ties go to the earlier position
    """
    mask = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        best_first = members[np.argsort(-scores[members], kind="stable")]
        mask[best_first[: round(float(count))]] = True
    return mask
