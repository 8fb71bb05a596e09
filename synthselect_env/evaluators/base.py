"""What every evaluator promises: "train on real + selected, score on validation", for many selections at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from synthselect_env.bank import FeatureBank, Split
from synthselect_env.metrics import METRICS


@dataclass(frozen=True, eq=False)
class Evaluations:
    """Figures of k classifiers, a float64 array (k,) each; see :func:`~synthselect_env.metrics.classification_metrics`.

    :param epochs: metric to (k, e): the same at the end of each epoch, the last epoch last; e is 1 for a convex probe
    """

    accuracy: np.ndarray
    balanced_accuracy: np.ndarray
    auc: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    log_likelihood: np.ndarray
    brier: np.ndarray
    epochs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def from_epochs(cls, epochs: dict[str, np.ndarray]) -> Evaluations:
        """Evaluations from metric to (k, e); the figures are those of the last epoch."""
        epochs = {name: np.asarray(epochs[name], np.float64) for name in METRICS}
        return cls(**{name: values[:, -1] for name, values in epochs.items()}, epochs=epochs)

    def __len__(self) -> int:
        return len(self.accuracy)


class Evaluator(ABC):
    """Trains a classifier on the real train split and each of k selections, and scores it.

    Evaluators are pure (same selections and seed, same numbers on the CPU), can be pickled, and leave global random state
    alone.

    :param bank: real splits and candidates
    """

    def __init__(self, bank: FeatureBank) -> None:
        self.bank = bank

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections on the validation split.

        :param selections: bool (k, n), a row a selection
        :param seed: of whatever is random in training; the same for all k, so that only the selections differ
        :raises ValueError: when the selections have another shape or type
        """
        return self.evaluate_on(selections, seed, self.bank.valid)[0]

    @abstractmethod
    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """Train once a selection and score the classifier on each of the splits.

        :param selections: bool (k, n), a row a selection
        :param seed: of whatever is random in training
        :param splits: the splits to score
        :return: evaluations of the k selections, a split each
        :raises ValueError: when the selections have another shape or type
        """

    def checked(self, selections: np.ndarray) -> np.ndarray:
        """The selections, or a ValueError that says what is wrong with them."""
        selections = np.asarray(selections)
        n = len(self.bank.candidates)
        if selections.dtype != bool or selections.ndim != 2 or selections.shape[1] != n:
            raise ValueError(
                f"selections must be bool (k, {n}), one column a candidate of {self.bank.source}; got {selections.dtype} {selections.shape}"
            )
        return selections
