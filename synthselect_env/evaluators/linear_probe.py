"""A linear probe in closed form: thousands of selections scored while one network is retrained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from synthselect_env.bank import FeatureBank, Split
from synthselect_env.compute import pick_device
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.metrics import classification_metrics


class _Sums(NamedTuple):
    """Sufficient statistics of ridge regression: a picture's, or a training set's."""

    gram: torch.Tensor  # (…, p, p) sum of x xᵀ
    moment: torch.Tensor  # (…, p, c) sum of x yᵀ


class LinearProbeEvaluator(Evaluator):
    """Ridge regression of the one-hot labels on a few principal components of the features.

    The fit of a selection needs only sums over its pictures, so k selections are one product of the (k, n) mask with the
    pictures' outer products and k small solves: exact, deterministic, no learning rate. Scores become probabilities by a
    softmax with one temperature a selection, fitted on the validation split.

    :param bank: real splits and candidates
    :param n_components: principal components of the real training features that the probe sees
    :param ridge: penalty on the weights, as a multiple of the number of training pictures times the mean variance of a
        component; the intercept is free
    :param device: "auto", or a torch device
    """

    def __init__(self, bank: FeatureBank, n_components: int = 32, ridge: float = 1.0, device: str = "auto") -> None:
        super().__init__(bank)
        if n_components < 1 or ridge <= 0:
            raise ValueError(f"n_components must be at least 1 and ridge above 0, got {n_components} and {ridge}")
        self.n_components, self.ridge, self.device = min(n_components, bank.n_features, len(bank.train)), ridge, pick_device(device)
        real = torch.from_numpy(bank.train.features).to(self.device, torch.float64)
        self._mean = real.mean(0)
        _, singular, axes = torch.linalg.svd(real - self._mean, full_matrices=False)
        scale = (singular[: self.n_components].square().mean() / len(real)).sqrt()
        if scale < 1e-9:
            raise ValueError(f"{bank.source}: train/features are all the same; the extractor saw nothing, extract them again")
        self._axes = axes[: self.n_components].T / scale
        x, y = self._design(bank.train)
        self._real = _Sums(x.T @ x, x.T @ y)
        x, y = self._design(bank.candidates)
        self._rows, self._columns = torch.triu_indices(x.shape[1], x.shape[1], device=self.device)  # xxᵀ is symmetric
        self._pool = torch.cat([x[:, self._rows] * x[:, self._columns], (x[:, :, None] * y[:, None, :]).flatten(1)], dim=1)
        self._valid = self._design(bank.valid)

    def _design(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Components with a column of ones, and one-hot labels.  (n, p), (n, c)"""
        features = torch.from_numpy(split.features).to(self.device, torch.float64)
        x = F.pad((features - self._mean) @ self._axes, (0, 1), value=1.0)
        y = F.one_hot(torch.from_numpy(split.labels).to(self.device), len(self.bank.classes))
        return x, y.to(torch.float64)

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """Score k selections; the seed changes nothing, for nothing here is random."""
        weights = self._fit(torch.from_numpy(self.checked(selections)).to(self.device, torch.float64))
        x, y = self._valid
        valid_scores, valid_labels = x @ weights, y.argmax(1)
        temperature = fit_temperature(valid_scores, valid_labels)[:, None, None]
        evaluations = []
        for split in splits:
            if split is self.bank.valid:
                scores, labels = valid_scores, valid_labels
            else:
                x, y = self._design(split)
                scores, labels = x @ weights, y.argmax(1)
            metrics = classification_metrics(F.log_softmax(temperature * scores, dim=2), labels)
            evaluations.append(Evaluations.from_epochs({name: values[:, None].cpu().numpy() for name, values in metrics.items()}))
        return evaluations

    def _fit(self, selections: torch.Tensor) -> torch.Tensor:  # (k, n) -> (k, p, c)
        sums = selections @ self._pool
        p, pairs = self._real.gram.shape[0], len(self._rows)
        gram = self._real.gram.repeat(len(selections), 1, 1)
        gram[:, self._rows, self._columns] += sums[:, :pairs]
        gram[:, self._columns, self._rows] = gram[:, self._rows, self._columns]
        moment = self._real.moment + sums[:, pairs:].view(len(selections), p, -1)
        penalty = torch.eye(p, dtype=gram.dtype, device=self.device)
        penalty[-1, -1] = 0  # the intercept
        n_training = gram[:, -1:, -1:]  # the column of ones counts the pictures
        return torch.linalg.solve(gram + self.ridge * n_training * penalty, moment)


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor, steps: int = 12) -> torch.Tensor:
    """The factor on each classifier's scores under which the labels are most likely, by Newton's method.

    The log-likelihood is concave in the factor, so a fixed number of steps, each at most a doubling or halving, is enough.

    :param scores: (k, n, c)
    :param labels: int64 (n,)
    :return: (k,), between 0.01 and 1000
    """
    own = scores[:, torch.arange(len(labels), device=labels.device), labels]
    factor = scores.new_full(scores.shape[:1], 4.0)
    for _ in range(steps):
        p = F.softmax(factor[:, None, None] * scores, dim=2)
        mean = (p * scores).sum(2)
        slope = (own - mean).mean(1)
        curvature = ((p * scores.square()).sum(2) - mean.square()).mean(1).clamp(min=1e-12)
        factor = torch.minimum(torch.maximum(factor + slope / curvature, factor / 2), factor * 2).clamp(0.01, 1000)
    return factor
