"""LinearProbeEvaluator: thousands of selections scored while one network is retrained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from synthselect_env.bank import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import ClassifierEvaluator
from synthselect_env.evaluators.ridge import CHUNK_SIZE, Design, RidgeHead, rounding_step
from synthselect_env.training.device import pick_device

TEMPERATURE_STEPS, TEMPERATURE_ROUNDING = 32, 1e-9
"""Most steps of the temperature's fit, and the relative change below which it has converged."""

MAX_ROUNDING_STEP = 1e-3
"""Largest rounding of a component, in standard deviations, that exact sums may need."""

REMEMBERED_DATASETS = 16
"""Datasets whose components are kept between calls."""


class LinearProbeEvaluator(ClassifierEvaluator):
    """Score selections by ridge regression on principal components of the features.

    The probe is convex and free of noise, and fits k selections at a time. A softmax with one
    temperature per selection, fitted on the validation split, turns its scores into probabilities.
    A pool of any size will do: features may be a memory map, of which only the components are kept.

    The defaults do the least harm when an optimiser climbs the probe. A weaker ridge on more
    components ranks random selections better, and is exploited; see benchmarks/results.

    .. code-block:: python

        evaluator = LinearProbeEvaluator(load_bank("toy"))
        evaluator.evaluate(np.ones((1, 64), bool), seed=0).accuracy

    :param bank: feature bank
    :param n_components: number of principal components of the real training features
    :param ridge: penalty on the squared weights, per training image. Components are scaled to a
        mean variance of 1, and the intercept is not penalised
    :param device: "auto", or a torch device
    :raises ValueError: if a parameter is out of range, or all real features are the same
    """

    def __init__(
        self,
        bank: FeatureBank,
        n_components: int = 32,
        ridge: float = 10.0,
        device: str = "auto",
    ) -> None:
        super().__init__(bank)
        if n_components < 1 or ridge <= 0:
            raise ValueError(
                f"n_components must be at least 1 and ridge above 0, got {n_components} and {ridge}"
            )
        self.ridge = ridge
        self.device = pick_device(device)
        self._fit_components(int(n_components))

        # Components are rounded so that sums over images are exact; see rounding_step.
        real = self._design(bank.train)
        pool = self._design(bank.candidates)
        step = rounding_step(real.x, pool.x)
        if step > MAX_ROUNDING_STEP:
            self._refuse_outlier(torch.cat([real.x, pool.x]))
        real = _rounded(real, step)
        pool = _rounded(pool, step)
        self._head = RidgeHead(real, pool, ridge)

        # The fit without candidates. Its temperature is where all other fits start.
        self._datasets: dict[int, tuple[Dataset, Tensor, Tensor]] = {}
        shape = (1, len(bank.candidates))
        empty = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self._empty_weights = self._head.fit(empty)  # (1, p, c)
        self._temperature = 4.0
        self._temperature = self._fit_temperature(self._empty_weights).item()

    def _fit_components(self, n_components: int) -> None:
        """Find the principal components of the real training features."""
        # On the CPU: the components are the same wherever the rest is computed.
        features = np.array(self.bank.train.features, np.float64)
        real = torch.from_numpy(features)
        mean = real.mean(0)
        _, singular, axes = torch.linalg.svd(real - mean, full_matrices=False)
        self._mean = mean.to(self.device)
        singular = singular.to(self.device)
        axes = axes.to(self.device)

        # With fewer images than components, the other axes are arbitrary.
        negligible = 1e-7 * singular[0]
        rank = int((singular > negligible).sum())
        self.n_components = min(n_components, max(rank, 1))
        squares = singular[: self.n_components].square()
        scale = (squares.mean() / len(real)).sqrt()
        if scale < 1e-9:
            raise ValueError(
                f"{self.bank.source}: train/features are all the same; "
                "the extractor saw nothing, extract them again"
            )
        self._axes = axes[: self.n_components].T / scale

    def _refuse_outlier(self, components: Tensor) -> None:
        """Name the image that lies farthest from the others.

        :param components: components of the real images and the candidates, (n, p)
        """
        distance = components.abs().max(1).values
        row = int(distance.argmax())
        n_real = len(self.bank.train)
        where = f"train/features, row {row}"
        if row >= n_real:
            where = f"candidates/features, row {row - n_real}"
        raise ValueError(
            f"{self.bank.source}: {where} lies {distance[row]:.3g} standard deviations from the "
            "real images' mean; extract it again or drop it"
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_datasets": {}}

    @property
    def description(self) -> str:
        """Name of the classifier in tables."""
        return "linear probe"

    def settings(self) -> dict[str, object]:
        """Return what the numbers depend on beside bank and selection."""
        return {
            "n_components": self.n_components,
            "ridge": self.ridge,
            "temperature": [TEMPERATURE_STEPS, TEMPERATURE_ROUNDING],
        }

    def components(self, features: np.ndarray) -> Tensor:
        """Return the principal components of features, with a last column of ones.

        :param features: (n, d)
        :return: float64 (n, p)
        """
        shape = len(features), self.n_components + 1
        x = torch.ones(shape, dtype=torch.float64, device=self.device)
        for start in range(0, len(features), CHUNK_SIZE):
            rows = slice(start, start + CHUNK_SIZE)
            part = np.array(features[rows], np.float64)
            centred = torch.from_numpy(part).to(self.device) - self._mean
            x[rows, :-1] = centred @ self._axes
        return x

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        """Train once per selection and predict the classes of m images.

        Nothing is random here, so the seed changes nothing.

        :return: log-probabilities, float64 (k, m, c)
        """
        weights = self._head.fit(self._masks(selections))
        temperature = self._fit_temperature(weights)[:, None, None]
        x, _ = self._prepared(dataset)
        scores = temperature * (weights.mT @ x)  # (k, c, m)
        log_p = scores.log_softmax(1)
        return log_p.transpose(1, 2).cpu().numpy()

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        """Return the derivative of the validation log-likelihood by each candidate's weight.

        To first order, a kept candidate's credit is the cost of its removal, and another one's the
        gain from its addition. It is exact: the temperature is fitted on the validation split, so
        the likelihood is stationary in it.

        :param selections: bool (k, n), one row per selection
        :param seed: not used, as nothing is random
        :return: float64 (k, n)
        """
        masks = self._masks(selections)
        weights = self._head.fit(masks)  # (k, p, c)
        temperature = self._fit_temperature(weights)[:, None, None]
        x, labels = self._prepared(self.bank.valid)
        scores = temperature * (weights.mT @ x)
        probabilities = scores.softmax(1)  # (k, c, v)
        targets = one_hot(labels, len(self.bank.classes)).T
        residual = targets - probabilities
        gradient = temperature * (x @ residual.mT) / len(labels)  # (k, p, c)
        credit = self._head.credit(masks, weights, gradient)
        return credit.cpu().numpy()

    def own_log_probability(self, dataset: Dataset) -> np.ndarray:
        """Return each label's log-probability under the probe on real images alone.  (n,)"""
        scores = self.components(dataset.features) @ self._empty_weights[0]
        log_p = (self._temperature * scores).log_softmax(1)
        rows = torch.arange(len(dataset), device=self.device)
        own = log_p[rows, self._labels(dataset)]
        return own.cpu().numpy()

    def _masks(self, selections: np.ndarray) -> Tensor:
        checked = self.checked(selections)
        return torch.from_numpy(checked).to(self.device)

    def _labels(self, dataset: Dataset) -> Tensor:
        labels = np.array(dataset.labels, np.int64)
        return torch.from_numpy(labels).to(self.device)

    def _design(self, dataset: Dataset) -> Design:
        x = self.components(dataset.features)
        y = one_hot(self._labels(dataset), len(self.bank.classes))
        return Design(x, y.to(torch.float64))

    def _prepared(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """Return components and labels of a dataset that is scored.  (p, m), (m,)"""
        if id(dataset) not in self._datasets:
            if len(self._datasets) == REMEMBERED_DATASETS:
                oldest = next(iter(self._datasets))
                del self._datasets[oldest]
            x = self.components(dataset.features).T.contiguous()
            # The dataset is kept, so that no other one can have its id.
            self._datasets[id(dataset)] = dataset, x, self._labels(dataset)
        _, x, labels = self._datasets[id(dataset)]
        return x, labels

    def _fit_temperature(self, weights: Tensor) -> Tensor:  # (k, p, c) -> (k,)
        x, labels = self._prepared(self.bank.valid)
        return fit_temperature(weights.mT @ x, labels, self._temperature)


def _rounded(images: Design, step: float) -> Design:
    """Return a design whose inputs are multiples of a step."""
    multiples = (images.x / step).round_()
    return Design(multiples * step, images.y)


def fit_temperature(
    scores: Tensor,
    labels: Tensor,
    start: float = 4.0,
    steps: int = TEMPERATURE_STEPS,
) -> Tensor:
    """Fit the factor on each classifier's scores under which the labels are most likely.

    The log-likelihood is concave in the factor, and Newton's method finds its maximum. A step at
    most doubles or halves the factor. A factor that has converged is left alone, so that it does
    not depend on which others are fitted with it.

    :param scores: (k, c, n)
    :param labels: int64 (n,)
    :param start: first guess
    :param steps: most steps that are taken
    :return: (k,), between 0.01 and 1000
    """
    columns = torch.arange(len(labels), device=labels.device)
    own = scores[:, labels, columns].mean(1)
    factor = torch.full_like(own, start)
    moving = torch.ones_like(own, dtype=torch.bool)
    for _ in range(steps):
        # First and second derivative of the log-likelihood by the factor.
        scaled = factor[:, None, None] * scores
        p = scaled.softmax(1)
        mean = (p * scores).sum(1)
        slope = own - mean.mean(1)
        mean_square = (p * scores.square()).sum(1)
        variance = mean_square - mean.square()
        curvature = variance.mean(1).clamp(min=1e-12)

        after = factor + slope / curvature
        after = torch.clamp(after, factor / 2, factor * 2)
        after = after.clamp(0.01, 1000)
        change = (after - factor).abs()
        moving &= change > TEMPERATURE_ROUNDING * factor
        factor = torch.where(moving, after, factor)
        if not moving.any():
            break
    return factor
