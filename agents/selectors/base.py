"""What a selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from synthselect_env import FeatureBank, Selection


class Selector(ABC):
    """Decides which candidates of a bank to keep."""

    name: str

    @abstractmethod
    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Decide, without a look at the bank's test split.

        :param bank: the bank
        :param seed: of whatever is random
        """


class RatioSelector(Selector):
    """Keeps the best-scored share of each class.

    The paper's augmentation ratio is 0.5 for all its baselines; taken per class, the pool's class balance is kept.

    :param ratio: share to keep, 0 to 1
    :raises ValueError: when the ratio lies outside
    """

    def __init__(self, ratio: float = 0.5) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
        self.ratio = ratio

    @abstractmethod
    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        """A score a candidate, the higher the more wanted.  (n,)"""

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the best-scored share of each class (ties by position)."""
        scores, labels = self.score(bank, seed), bank.candidates.labels
        counts = self.ratio * np.bincount(labels, minlength=len(bank.classes))
        return Selection.of(bank, best_of_each_class(scores, labels, counts), scores, self.name)


def best_of_each_class(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mark the best-scored candidates of each class.

    :param scores: (n,)
    :param labels: int (n,)
    :param counts: how many of each class, rounded (c,)
    :return: bool (n,); ties go to the earlier position
    """
    mask = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        mask[members[np.argsort(-scores[members], kind="stable")][: round(float(count))]] = True
    return mask
