"""What a selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from torch import nn

from synthselect_env import FeatureBank, Selection
from synthselect_env.evaluators import Evaluator
from synthselect_env.training.checkpoints import weights_digest


class Selector(ABC):
    """Decides which candidates of a bank to keep."""

    name: str
    evaluations = 0
    """Evaluations that a selection spends."""
    is_rl = False
    """Whether it is reinforcement learning's: a row that has to beat the best of the others."""
    knows_truth = False
    """Whether it is told which candidates are sound: what is to be reached, and no method."""

    @abstractmethod
    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Decide, without a look at the bank's test split.

        :param bank: the bank
        :param seed: of whatever is random
        """

    def settings(self) -> dict[str, object]:
        """What the selection depends on beside bank and seed, JSON-able: by default all attributes.

        :raises NotImplementedError: where an attribute is not known to be said in full; its selections cannot be remembered
        """
        return {
            name: _plain(value, f"{type(self).__name__}.{name}")
            for name, value in vars(self).items()
        }


def _plain(value: Any, where: str) -> object:
    """A value as JSON has it; evaluators and networks by their digests, classes by their names."""
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
