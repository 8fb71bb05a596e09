"""Contract of the evaluators: selections in, validation metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.metrics import METRICS, classification_metrics
from synthselect_env.storage import class_digest, content_key

MAX_SUM_ERROR = 0.01
"""Largest deviation from 1 of the probabilities of an image."""


@dataclass(frozen=True, eq=False)
class Evaluations:
    """Metrics of k classifiers: one float64 array (k,) per metric.

    See :func:`~synthselect_env.metrics.classification_metrics` for their definitions.

    .. code-block:: python

        Evaluations.from_metrics({"accuracy": [0.8, 0.9]}).accuracy

    :param epochs: metric name to (k, e), its values after the last e epochs, oldest first; empty
        for a classifier without epochs, which gets e = 1
    """

    accuracy: np.ndarray
    balanced_accuracy: np.ndarray
    auc: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    log_likelihood: np.ndarray
    brier: np.ndarray
    epochs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.epochs:
            last = {name: np.asarray(getattr(self, name))[:, None] for name in METRICS}
            object.__setattr__(self, "epochs", last)

    @classmethod
    def from_epochs(cls, epochs: Mapping[str, np.ndarray]) -> Evaluations:
        """Return the evaluations of k classifiers from their metrics after each epoch.

        :param epochs: metric name to (k, e). Metrics left out are NaN
        :raises ValueError: if there is no metric, an unknown one, or shapes differ
        """
        values = {name: np.asarray(epochs[name], np.float64) for name in epochs}
        unknown = sorted(set(values) - set(METRICS))
        if unknown:
            raise ValueError(f"unknown metric {', '.join(unknown)}; one of {', '.join(METRICS)}")
        shapes = {array.shape for array in values.values()}
        if len(shapes) != 1 or len(min(shapes)) != 2:
            got = [f"{name} {array.shape}" for name, array in values.items()]
            raise ValueError(
                f"expected arrays (selections, epochs) of {', '.join(METRICS)} or some of them, "
                f"got {', '.join(got) or 'none'}"
            )
        missing = np.full(min(shapes), np.nan)
        complete = {name: values.get(name, missing) for name in METRICS}
        last = {name: array[:, -1] for name, array in complete.items()}
        return cls(**last, epochs=complete)

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Sequence[float] | np.ndarray]) -> Evaluations:
        """Return the evaluations of k classifiers from one value per metric and classifier.

        :param metrics: metric name to (k,). Metrics left out are NaN
        :raises ValueError: if there is no metric, an unknown one, or lengths differ
        """
        one_epoch = {name: np.asarray(values)[..., None] for name, values in metrics.items()}
        return cls.from_epochs(one_epoch)

    @classmethod
    def from_predictions(cls, log_probabilities: np.ndarray, labels: np.ndarray) -> Evaluations:
        """Return the evaluations of k classifiers from their predictions of m images.

        :param log_probabilities: (k, m, c)
        :param labels: int (m,)
        :raises ValueError: if the predictions are no log-probabilities of m images
        """
        _check_log_probabilities(log_probabilities, len(labels))
        log_p = torch.from_numpy(np.ascontiguousarray(log_probabilities))
        metrics = classification_metrics(log_p, torch.from_numpy(np.asarray(labels, np.int64)))
        return cls.from_metrics({name: values.numpy() for name, values in metrics.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Evaluations]) -> Evaluations:
        """Return the evaluations of all selections, part after part."""
        joined = {name: np.concatenate([part.epochs[name] for part in parts]) for name in METRICS}
        return cls.from_epochs(joined)

    def __len__(self) -> int:
        return len(self.accuracy)


def _check_log_probabilities(log_probabilities: Any, m: int) -> None:
    """Check the shape of predictions, and that those of the first classifier are normalised."""
    if not isinstance(log_probabilities, np.ndarray) or log_probabilities.ndim != 3:
        got = getattr(log_probabilities, "shape", type(log_probabilities).__name__)
        raise ValueError(
            f"predict must return an array (k, {m}, c) of log-probabilities, got {got}"
        )
    if log_probabilities.shape[1] != m:
        raise ValueError(
            f"predict must return log-probabilities of {m} images, (k, {m}, c), "
            f"got {log_probabilities.shape}"
        )
    sums = np.exp(log_probabilities[:1].astype(np.float64)).sum(2)
    if (np.abs(sums - 1) > MAX_SUM_ERROR).any():  # NaN passes: it stands for a broken classifier
        raise ValueError(
            "predict must return natural logarithms of probabilities that add up to 1 per image; "
            f"the first image's add up to {sums.flat[0]:.3g}"
        )


def check_evaluations(evaluator: Evaluator, evaluations: Any, k: int) -> Evaluations:
    """Return an evaluator's answer to k selections.

    :raises TypeError: if it is something else than evaluations of k selections
    """
    if isinstance(evaluations, Evaluations) and len(evaluations) == k:
        return evaluations
    got = type(evaluations).__name__
    if isinstance(evaluations, Evaluations):
        got = f"{len(evaluations)}"
    raise TypeError(
        f"{type(evaluator.unwrapped).__name__}.evaluate must return Evaluations of {k} selections, "
        f"got {got}; Evaluations.from_metrics makes them"
    )


class Evaluator(ABC):
    """Score selections: what would a classifier trained on real + selected images reach?

    A subclass needs one method, :meth:`evaluate`. One that trains classifiers derives from
    :class:`ClassifierEvaluator` and writes :meth:`~ClassifierEvaluator.predict` in its place. One
    that knows the derivative of its log-likelihood adds ``credit``, see
    :class:`CreditEvaluator`. With :meth:`settings`, its results can be cached.

    Evaluators are pure: the same selections and seed give the same numbers on the CPU. They can be
    pickled, and leave global random state alone.

    An environment asks for one selection at a reset, and for one per episode at each step. Its
    reward must be made from a metric that the evaluator gives.

    .. code-block:: python

        from synthselect_env.evaluators import Evaluations, Evaluator

        class FewIsBest(Evaluator):
            def evaluate(self, selections, seed):
                return Evaluations.from_metrics({"accuracy": 1 - selections.mean(1)})

    :param bank: real images and candidates; the evaluator keeps it without its test split
    """

    batch_size = 1
    """Number of selections to ask for at a time where each takes long."""
    device = torch.device("cpu")
    """Device of the computation."""
    folds: int | None = None
    """Number of folds of the annotated images that score a selection, of a
    :class:`RetrainEvaluator`; None for the validation split."""
    version = 1
    """Version of the computation. Raise it when equal settings give other numbers than before."""

    def __init__(self, bank: FeatureBank) -> None:
        self.bank = bank.sealed

    @abstractmethod
    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections on the validation split.

        :param selections: bool (k, n), one row per selection
        :param seed: random seed of the training, shared by all k, so that only selections differ
        :raises ValueError: if the selections have another shape or type
        """

    def settings(self) -> dict[str, object]:
        """Return what the numbers depend on beside bank, selection and seed, JSON-able.

        Name every constructor argument that changes a number: cached results are told apart by
        these settings and by the code of the class, not by the functions that it calls.

        :raises NotImplementedError: if the class does not say; its results cannot be cached
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say what its results depend on; "
            "define settings() to cache them"
        )

    @property
    def unwrapped(self) -> Evaluator:
        """The evaluator itself, without the wrappers that cache it or spread its work."""
        return self

    @property
    def description(self) -> str:
        """Name of the classifier in tables."""
        return type(self).__name__

    @property
    def fingerprint(self) -> str:
        """Key of everything that changes the numbers: bank, settings, code, library versions.

        The number of threads is left out. It changes rounding only, as another seed would.
        """
        libraries = ("torch", "torchvision", "pillow")
        datasets = (self.bank.train, self.bank.valid, self.bank.candidates)
        return content_key(
            class_digest(type(self)),
            self.version,
            [self.dataset_digest(dataset) for dataset in datasets],
            len(self.bank.classes),
            self.settings(),
            [metadata.version(library) for library in libraries],
        )

    def dataset_digest(self, dataset: Dataset) -> str:
        """Return a digest of what is read of a dataset: features, unless a class reads images."""
        return dataset.features_digest

    def checked(self, selections: np.ndarray) -> np.ndarray:
        """Return the selections as a contiguous array.

        :raises ValueError: if they are not bool (k, n) with k at least 1
        """
        selections = np.ascontiguousarray(selections)
        n = len(self.bank.candidates)
        matches = selections.dtype == bool and selections.ndim == 2 and selections.shape[1] == n
        if not matches or not len(selections):
            raise ValueError(
                f"selections must be bool (k, {n}), k at least 1, one column per candidate of "
                f"{self.bank.source}; got {selections.dtype} {selections.shape}"
            )
        return selections


class ClassifierEvaluator(Evaluator):
    """An evaluator that trains a classifier on each selection, which can label any images.

    .. code-block:: python

        class Prior(ClassifierEvaluator):
            def predict(self, selections, seed, dataset):
                shape = len(selections), len(dataset), len(self.bank.classes)
                return np.full(shape, -np.log(shape[2]))
    """

    @abstractmethod
    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        """Train once per selection and predict the classes of m images.

        :param selections: bool (k, n), one row per selection
        :param seed: random seed of the training, shared by all k
        :param dataset: images to label. Several sets are joined by ``Dataset.concatenate``, so that
            each selection is trained on once
        :return: log-probabilities, float (k, m, c)
        :raises ValueError: if the selections have another shape or type
        """

    @property
    def scored(self) -> Dataset:
        """Images that :meth:`evaluate` scores."""
        return self.bank.valid

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections on the validation split."""
        log_probabilities = self.predict(selections, seed, self.scored)
        return Evaluations.from_predictions(log_probabilities, self.scored.labels)


class CreditEvaluator(Protocol):
    """An evaluator that knows the derivative of its log-likelihood."""

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        """Return the derivative of the validation log-likelihood by each candidate's weight.

        :param selections: bool (k, n), one row per selection
        :param seed: random seed of the training
        :return: float64 (k, n)
        """


def has_credit(evaluator: Any) -> TypeGuard[CreditEvaluator]:
    """Return whether an evaluator implements ``credit``."""
    return callable(getattr(evaluator, "credit", None))


def require_credit(evaluator: Evaluator) -> CreditEvaluator:
    """Return the evaluator if it implements ``credit``.

    :raises NotImplementedError: if it does not
    """
    if has_credit(evaluator):
        return evaluator
    raise NotImplementedError(
        f"{type(evaluator).__name__} cannot say what each candidate is worth; "
        "the linear probe and the datamodel can"
    )


class EvaluatorWrapper(Evaluator):
    """Base of wrappers that change how another evaluator's answers are obtained.

    :param evaluator: evaluator that is asked
    """

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator.bank)
        self.evaluator = evaluator
        self.device = evaluator.device
        self.folds = evaluator.folds
        self.batch_size = evaluator.batch_size

    @abstractmethod
    def answers(
        self, method: str, selections: np.ndarray, seed: int, *arguments: Dataset
    ) -> list[Any]:
        """Return one method's answers to k selections, in order, each to one or a few of them.

        :param method: name of the wrapped evaluator's method, "evaluate" or "predict"
        :param selections: bool (k, n)
        :param seed: random seed of the training
        :param arguments: further arguments of the method
        """

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections on the validation split."""
        return Evaluations.concatenate(self.answers("evaluate", self.checked(selections), seed))

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        """Train once per selection and predict the classes of m images.

        :raises NotImplementedError: if the wrapped evaluator trains no classifier
        """
        if not isinstance(self.unwrapped, ClassifierEvaluator):
            raise NotImplementedError(
                f"{type(self.unwrapped).__name__} trains no classifier that could label images; "
                "retrain, or take the linear probe"
            )
        return np.concatenate(self.answers("predict", self.checked(selections), seed, dataset))

    @property
    def credit(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """The wrapped evaluator's ``credit``; no attribute where that has none."""
        return self.evaluator.credit  # type: ignore[attr-defined, no-any-return]

    def settings(self) -> dict[str, object]:
        """Return the settings of the wrapped evaluator."""
        return self.evaluator.settings()

    @property
    def unwrapped(self) -> Evaluator:
        """The evaluator below all wrappers."""
        return self.evaluator.unwrapped

    @property
    def description(self) -> str:
        """Name of the classifier in tables."""
        return self.evaluator.description

    @property
    def fingerprint(self) -> str:
        """Key of the wrapped evaluator."""
        return self.evaluator.fingerprint

    def dataset_digest(self, dataset: Dataset) -> str:
        """Return the wrapped evaluator's digest of a dataset."""
        return self.evaluator.dataset_digest(dataset)
