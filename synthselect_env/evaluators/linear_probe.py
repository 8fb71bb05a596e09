"""A linear probe: thousands of selections scored while one network is retrained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data.dataset import Split
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.evaluators.ridge import CHUNK, Design, RidgeHead, grid
from synthselect_env.metrics import classification_metrics
from synthselect_env.training.device import pick_device

TEMPERATURE_STEPS, TEMPERATURE_ROUNDING = 32, 1e-9
"""Of the temperature's fit: the most steps, and the relative change below which it stands still. Newton's method needs some six."""

COARSEST = 1e-3
"""The most by which exact sums may round a component, in standard deviations."""

REMEMBERED_SPLITS = 16
"""Splits whose components are kept."""


class LinearProbeEvaluator(Evaluator):
    """Scores selections by ridge regression on principal components of the features.

    It is convex and without noise, and fits k selections at a time. Scores become probabilities by a softmax with one temperature a selection, fitted on the validation split. A pool of any
    size will do: its features may be a memory map, of which only the components are kept.

    The defaults are those that did least harm when they were climbed (benchmarks/probe_fidelity.py, pcam-planted, 3 retrainings each):
    the selection that gradient ascent found changed the retrained test accuracy by +3.9 ± .6 points with a ridge of 10, -3.2 ± .2 with
    1, -1.1 ± .3 with .1; on pcam all of them lose (-1.0 ± .5, -.9 ± .2, -1.3 ± .3). Random selections are ranked better by a weak ridge on many components (Spearman .87 with .01 and 128, .23
    with the defaults), which an optimiser exploits; a :class:`DatamodelEvaluator` does better at both, for some retrainings.

    :param bank: real splits and candidates
    :param n_components: principal components of the real training features that the probe sees
    :param ridge: penalty on the squared weights, a training picture, with components scaled to a mean variance of 1; the
        intercept is free
    :param device: "auto", or a torch device
    :raises ValueError: when a parameter is out of range, or the real features are all the same
    """

    has_credit = True

    def __init__(self, bank: FeatureBank, n_components: int = 32, ridge: float = 10.0, device: str = "auto") -> None:
        super().__init__(bank)
        if n_components < 1 or ridge <= 0:
            raise ValueError(f"n_components must be at least 1 and ridge above 0, got {n_components} and {ridge}")
        self.ridge, self.device = ridge, pick_device(device)
        # on the processor: the same components wherever the rest is computed, and pictures that are all the same do not trouble it
        real = torch.from_numpy(np.array(bank.train.features, np.float64))
        mean = real.mean(0)
        _, *parts = torch.linalg.svd(real - mean, full_matrices=False)
        self._mean, singular, axes = (part.to(self.device) for part in (mean, *parts))
        rank = int((singular > 1e-7 * singular[0]).sum())  # fewer pictures than components: the other axes are arbitrary
        self.n_components = min(int(n_components), max(rank, 1))
        scale = (singular[: self.n_components].square().mean() / len(real)).sqrt()
        if scale < 1e-9:
            raise ValueError(f"{bank.source}: train/features are all the same; the extractor saw nothing, extract them again")
        self._axes = axes[: self.n_components].T / scale
        real_design, pool = self._design(bank.train), self._design(bank.candidates)
        self._grid = grid(real_design.x, pool.x)
        if self._grid > COARSEST:
            reach = torch.cat([real_design.x, pool.x]).abs().max(1).values
            row = int(reach.argmax())
            where = f"train/features, row {row}" if row < len(bank.train) else f"candidates/features, row {row - len(bank.train)}"
            raise ValueError(
                f"{bank.source}: {where} lies {reach[row]:.3g} standard deviations from the real pictures' mean; extract it again or drop it"
            )
        real_design, pool = (Design((x / self._grid).round_() * self._grid, y) for x, y in (real_design, pool))
        self._head = RidgeHead(real_design, pool, ridge)
        self._splits: dict[int, tuple[Split, torch.Tensor, torch.Tensor]] = {}
        none = torch.zeros(1, len(bank.candidates), dtype=torch.bool, device=self.device)
        self._none = self._head.fit(none)
        self._temperature = 4.0  # where the fits of all temperatures start: at that of no candidates
        self._temperature = self._fit_temperature(self._none).item()

    @property
    def description(self) -> str:
        """The classifier's name in tables."""
        return "linear probe"

    def settings(self) -> dict[str, object]:
        """What the figures depend on beside the bank."""
        return {
            "n_components": self.n_components,
            "ridge": self.ridge,
            "temperature": [TEMPERATURE_STEPS, TEMPERATURE_ROUNDING],
        }

    def components(self, features: np.ndarray) -> torch.Tensor:
        """What the probe sees of features, the last column ones.  (n, d) -> float64 (n, p)"""
        x = torch.ones(len(features), self.n_components + 1, dtype=torch.float64, device=self.device)
        for start in range(0, len(features), CHUNK):
            part = torch.from_numpy(np.array(features[start : start + CHUNK], np.float64)).to(self.device)
            x[start : start + CHUNK, :-1] = (part - self._mean) @ self._axes
        return x

    def _design(self, split: Split) -> Design:
        labels = self._labels(split)
        return Design(self.components(split.features), torch.nn.functional.one_hot(labels, len(self.bank.classes)).to(torch.float64))

    def _labels(self, split: Split) -> torch.Tensor:
        return torch.from_numpy(np.array(split.labels, np.int64)).to(self.device)

    def _scored(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Components and labels of a split that is scored.  (p, v), (v,)"""
        if id(split) not in self._splits:
            if len(self._splits) == REMEMBERED_SPLITS:
                del self._splits[next(iter(self._splits))]
            # the split is kept, so that no other one can have its id
            self._splits[id(split)] = split, self.components(split.features).T.contiguous(), self._labels(split)
        return self._splits[id(split)][1:]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_splits": {}}

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """Score k selections; the seed changes nothing, for nothing here is random."""
        evaluations = []
        for split, log_p in zip(splits, self._log_probabilities(selections, splits)):
            metrics = classification_metrics(log_p, self._scored(split)[1])
            evaluations.append(Evaluations.from_epochs({name: values[:, None].cpu().numpy() for name, values in metrics.items()}))
        return evaluations

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[np.ndarray]:
        """Log-probabilities by k selections; the seed changes nothing.  float32 (k, m, c), a split each"""
        return [log_p.to(torch.float32).cpu().numpy() for log_p in self._log_probabilities(selections, splits)]

    def _log_probabilities(self, selections: np.ndarray, splits: Sequence[Split]) -> Iterator[torch.Tensor]:  # (k, v, c) each
        weights = self._head.fit(torch.from_numpy(self.checked(selections)).to(self.device))
        temperature = self._fit_temperature(weights)
        for split in splits:
            x, _ = self._scored(split)
            yield (temperature[:, None, None] * (weights.mT @ x)).log_softmax(1).transpose(1, 2)

    def credit(self, selections: np.ndarray, seed: int, split: Split | None = None) -> np.ndarray:
        """Derivative of the log-likelihood by each candidate's weight in the training set.

        Of a kept candidate, what its removal costs, to first order; of another one, what its addition gains. Exact on the validation
        split, whose likelihood is stationary in the temperature that is fitted to it; on other pictures, at that temperature.

        :param selections: bool (k, n), a row a selection
        :param seed: changes nothing
        :param split: pictures whose log-likelihood is meant; None for the validation split
        :return: float64 (k, n)
        """
        masks = torch.from_numpy(self.checked(selections)).to(self.device)
        weights = self._head.fit(masks)
        temperature = self._fit_temperature(weights)[:, None, None]
        x, labels = self._scored(self.bank.valid if split is None else split)
        surprise = torch.nn.functional.one_hot(labels, weights.shape[2]).T - (temperature * (weights.mT @ x)).softmax(1)  # (k, c, v)
        gradient = temperature * (x @ surprise.mT) / len(labels)
        return self._head.credit(masks, weights, gradient).cpu().numpy()

    def own_log_probability(self, split: Split) -> np.ndarray:
        """Log-probability of each picture's own label under the probe that is fitted to the real pictures alone.  (n,)"""
        log_p = (self._temperature * (self.components(split.features) @ self._none[0])).log_softmax(1)
        return log_p[torch.arange(len(split), device=self.device), self._labels(split)].cpu().numpy()

    def _fit_temperature(self, weights: torch.Tensor) -> torch.Tensor:  # (k, p, c) -> (k,)
        x, labels = self._scored(self.bank.valid)
        return fit_temperature(weights.mT @ x, labels, self._temperature)


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor, start: float = 4.0, steps: int = TEMPERATURE_STEPS) -> torch.Tensor:
    """The factor on each classifier's scores under which the labels are most likely, by Newton's method.

    The log-likelihood is concave in the factor. A step is at most a doubling or halving; a factor that stands still is left alone, so
    that it does not depend on which others are fitted with it.

    :param scores: (k, c, n)
    :param labels: int64 (n,)
    :param start: first guess
    :param steps: the most that are taken
    :return: (k,), between 0.01 and 1000
    """
    own = scores[:, labels, torch.arange(len(labels), device=labels.device)].mean(1)
    factor, moving = torch.full_like(own, start), torch.ones_like(own, dtype=torch.bool)
    for _ in range(steps):
        p = (factor[:, None, None] * scores).softmax(1)
        mean = (p * scores).sum(1)
        slope = own - mean.mean(1)
        curvature = ((p * scores.square()).sum(1) - mean.square()).mean(1).clamp(min=1e-12)
        after = torch.minimum(torch.maximum(factor + slope / curvature, factor / 2), factor * 2).clamp(0.01, 1000)
        moving &= (after - factor).abs() > TEMPERATURE_ROUNDING * factor
        factor = torch.where(moving, after, factor)
        if not moving.any():
            break
    return factor
