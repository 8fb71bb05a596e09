"""What every evaluator promises: "train on real + selected, score on validation", for many selections at once."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data.dataset import Split
from synthselect_env.metrics import METRICS
from synthselect_env.storage import code_digest, library_version


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

    @classmethod
    def concatenate(cls, parts: Sequence[Evaluations]) -> Evaluations:
        """The evaluations of one list of selections after the other."""
        return cls.from_epochs({name: np.concatenate([part.epochs[name] for part in parts]) for name in METRICS})

    def __len__(self) -> int:
        return len(self.accuracy)


class Evaluator(ABC):
    """Trains a classifier on the real train split and each of k selections, and scores it.

    Evaluators are pure (same selections and seed, same numbers on the CPU), can be pickled, and leave global random state
    alone.

    :param bank: real splits and candidates; the evaluator keeps it sealed, without its test split
    """

    batch_size = 1
    """Selections that it works on side by side, where each takes long."""
    can_score_any_split = True
    """Whether it trains a classifier, which can be scored on other pictures than the validation split's."""
    has_credit = False
    """Whether it can say what each candidate is worth."""
    device = torch.device("cpu")
    """What it computes on."""

    def __init__(self, bank: FeatureBank) -> None:
        self.bank = bank.sealed

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

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[np.ndarray]:
        """Train once a selection and let the classifier say what it takes each picture for.

        The predictions behind :meth:`evaluate_on`'s figures: :func:`~synthselect_env.metrics.classification_metrics` of them are those of
        the last epoch.

        :param selections: bool (k, n), a row a selection
        :param seed: of whatever is random in training
        :param splits: the splits to predict, m pictures each
        :return: log-probabilities, float32 (k, m, c), a split each
        :raises ValueError: when the selections have another shape or type
        :raises NotImplementedError: where no classifier is trained; ``can_score_any_split`` says so
        """
        raise NotImplementedError(f"{type(self).__name__} gives figures and no predictions; retrain, or take the linear probe")

    def credit(self, selections: np.ndarray, seed: int, split: Split | None = None) -> np.ndarray:
        """Derivative of the log-likelihood by each candidate's weight in the training set.

        :param selections: bool (k, n), a row a selection
        :param seed: of whatever is random in training
        :param split: pictures whose log-likelihood is meant; None for the validation split
        :return: float64 (k, n)
        :raises NotImplementedError: where an evaluator has none; ``has_credit`` says so
        """
        raise NotImplementedError(f"{type(self).__name__} cannot say what each candidate is worth; the linear probe and the datamodel can")

    def settings(self) -> dict[str, object]:
        """What the figures depend on beside the bank, the selection and the seed, JSON-able.

        :raises NotImplementedError: where an evaluator does not say; its figures cannot be remembered
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its figures depend on; define settings() to remember them")

    @property
    def description(self) -> str:
        """The classifier's name in tables."""
        return type(self).__name__

    @property
    def fingerprint(self) -> str:
        """A digest of everything that changes the answers: bank, settings, versions, and the source of a class of the user's own.

        The number of threads is left out. It changes the rounding, and thereby a retraining as another seed would.
        """
        content = {
            "class": code_digest(type(self)),
            "bank": [self.digest_of(getattr(self.bank, name)) for name in ("train", "valid", "candidates")],
            "classes": len(self.bank.classes),
            "settings": self.settings(),
            "versions": [torch.__version__, library_version(), *map(version, ("torchvision", "pillow"))],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def digest_of(self, split: Split) -> str:
        """A digest of what the figures depend on in a split: features, for an evaluator that does not look at pictures."""
        return split.features_digest

    def is_valid(self, split: Split) -> bool:
        """Whether a split is the bank's validation split, or a copy of it."""
        return split is self.bank.valid or self.digest_of(split) == self.digest_of(self.bank.valid)

    def checked(self, selections: np.ndarray) -> np.ndarray:
        """The selections, or a ValueError that says what is wrong with them."""
        selections = np.ascontiguousarray(selections)
        n = len(self.bank.candidates)
        if selections.dtype != bool or selections.ndim != 2 or selections.shape[1] != n or not len(selections):
            raise ValueError(
                f"selections must be bool (k, {n}), k at least 1, one column a candidate of {self.bank.source}; got {selections.dtype} {selections.shape}"
            )
        return selections


class EvaluatorWrapper(Evaluator):
    """An evaluator that gets its figures from another one, and changes how but not what is answered.

    :param evaluator: the other one
    """

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator.bank)
        self.evaluator, self.device = evaluator, evaluator.device
        self.batch_size, self.can_score_any_split = evaluator.batch_size, evaluator.can_score_any_split
        self.has_credit = evaluator.has_credit

    def credit(self, selections: np.ndarray, seed: int, split: Split | None = None) -> np.ndarray:
        """The evaluator's."""
        return self.evaluator.credit(selections, seed, split)

    def settings(self) -> dict[str, object]:
        """Those of the evaluator."""
        return self.evaluator.settings()

    @property
    def description(self) -> str:
        """The evaluator's."""
        return self.evaluator.description

    @property
    def fingerprint(self) -> str:
        """The evaluator's."""
        return self.evaluator.fingerprint

    def digest_of(self, split: Split) -> str:
        """The evaluator's."""
        return self.evaluator.digest_of(split)
