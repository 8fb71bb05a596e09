"""Selectors that ask an evaluator: random search, cross-entropy method, Data Banzhaf, ascent of the credit, DVRL."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import nn

from agents.selectors.base import Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.envs.observations import batch_observations, candidate_rows
from synthselect_env.evaluators import Evaluator, make_evaluator
from synthselect_env.training.device import seeded

TOGETHER = 32
"""About so many selections are evaluated at once."""


class SearchSelector(Selector):
    """Looks for the selection with the best validation log-likelihood, within a number of evaluations.

    :param evaluator: a name, an evaluator of the bank that is selected from, or None for the default
    :param evaluations: how many selections may be scored
    :raises ValueError: when there are too few evaluations to begin with
    """

    def __init__(self, evaluator: str | Evaluator | None = None, evaluations: int = 1024) -> None:
        if evaluations < 2:
            raise ValueError(f"evaluations must be at least 2, got {evaluations}")
        self.evaluator, self.evaluations = evaluator, evaluations

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Search, and keep the candidates with a positive score."""
        scores = self.search(bank, make_evaluator(self.evaluator, bank), seed)
        return Selection.of(bank, scores > 0, scores, self.name)

    @abstractmethod
    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """A score a candidate; a positive one is a wish to keep it.  (n,)"""

    def rounds(self, together: int = TOGETHER) -> list[int]:
        """Sizes of the groups that the evaluations are spent in, about so many each: equal ones, as each moves a search as far."""
        n = max(1, round(self.evaluations / together))
        size, rest = divmod(self.evaluations, n)
        return [size + 1] * rest + [size] * (n - rest)


class RandomSearchSelector(SearchSelector):
    """The best of many random selections, of all sizes: the control of every search."""

    name = "random search"

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """1 for what the best selection keeps, -1 for what it does not."""
        rng, n = np.random.default_rng(seed), len(bank.candidates)
        best, best_figure = np.zeros(n, bool), -np.inf
        for k in self.rounds():
            masks = rng.random((k, n)) < rng.random((k, 1))
            figures = evaluator.evaluate(masks, seed).log_likelihood
            if figures.max() > best_figure:
                best, best_figure = masks[figures.argmax()], figures.max()
        return np.where(best, 1.0, -1.0)


class CrossEntropySelector(SearchSelector):
    """Cross-entropy method (Rubinstein 1999): one probability a candidate, moved towards the best selections of each round.

    :param evaluator: see :class:`SearchSelector`
    :param evaluations: see :class:`SearchSelector`
    :param elite: share of a round that counts as its best
    :param smoothing: weight of the old probabilities
    """

    name = "cross-entropy"

    def __init__(
        self,
        evaluator: str | Evaluator | None = None,
        evaluations: int = 1024,
        elite: float = 0.25,
        smoothing: float = 0.5,
    ) -> None:
        super().__init__(evaluator, evaluations)
        self.elite, self.smoothing = elite, smoothing

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """How far the last probability lies above one half."""
        rng, n = np.random.default_rng(seed), len(bank.candidates)
        p = np.full(n, 0.5)
        for k in self.rounds():
            masks = rng.random((k, n)) < p
            best = np.argsort(-evaluator.evaluate(masks, seed).log_likelihood)[
                : max(1, round(self.elite * k))
            ]
            p = self.smoothing * p + (1 - self.smoothing) * masks[best].mean(0)
        return p - 0.5


class BanzhafSelector(SearchSelector):
    """Data Banzhaf (Wang and Jia 2023) by maximum sample reuse: what selections with a candidate score above those without it.

    Each candidate is in half of the random selections; every selection says something about every candidate.
    """

    name = "Data Banzhaf"

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """The estimated values."""
        rng, n = np.random.default_rng(seed), len(bank.candidates)
        groups, figures = [], []
        for k in self.rounds():
            groups.append(rng.random((k, n)) < 0.5)
            figures.append(evaluator.evaluate(groups[-1], seed).log_likelihood)
        masks, scores = np.concatenate(groups), np.concatenate(figures)
        scores = (
            scores - scores.mean()
        )  # so that a candidate that was never drawn, or always, counts as average there
        with_it, without = (
            m.T @ scores / np.maximum(m.sum(0), 1) for m in (masks.astype(float), 1.0 - masks)
        )
        return with_it - without


class CreditSelector(SearchSelector):
    """Gradient ascent on the log-odds of each candidate along the evaluator's exact credit, without a policy.

    :param evaluator: see :class:`SearchSelector`; must have credit
    :param evaluations: see :class:`SearchSelector`
    :param learning_rate: of Adam
    :param drawn: selections a step
    :raises NotImplementedError: on selecting, when the evaluator has no credit
    """

    name = "credit ascent"

    def __init__(
        self,
        evaluator: str | Evaluator | None = None,
        evaluations: int = 1024,
        learning_rate: float = 0.15,
        drawn: int = 4,
    ) -> None:
        super().__init__(evaluator, evaluations)
        self.learning_rate, self.drawn = learning_rate, drawn

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """The final log-odds."""
        rng, n = np.random.default_rng(seed), len(bank.candidates)
        log_odds = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([log_odds], lr=self.learning_rate)
        for k in self.rounds(self.drawn):
            p = log_odds.sigmoid()
            masks = rng.random((k, n)) < p.detach().numpy()
            optimizer.zero_grad()
            (-(p * torch.from_numpy(evaluator.credit(masks, seed).mean(0))).sum()).backward()
            optimizer.step()
        return log_odds.detach().numpy()


class DVRLSelector(SearchSelector):
    """Data valuation using reinforcement learning (Yoon, Arik and Pfister 2020): a network values a candidate by its own row alone.

    The estimator sees what an agent sees of a candidate (:func:`~synthselect_env.envs.selection_env.observations`, with context), answers the probability of keeping it, and learns by
    REINFORCE. Ours: selections are scored by the evaluator, and not by a predictor that is trained along; several are drawn for a step, and
    each is compared with the mean of the others, where the paper has a moving average of earlier steps.

    :param evaluator: see :class:`SearchSelector`
    :param evaluations: see :class:`SearchSelector`
    :param width: of the estimator's two hidden layers
    :param learning_rate: of Adam
    """

    name = "DVRL"

    def __init__(
        self,
        evaluator: str | Evaluator | None = None,
        evaluations: int = 1024,
        width: int = 64,
        learning_rate: float = 3e-3,
    ) -> None:
        super().__init__(evaluator, evaluations)
        self.width, self.learning_rate = width, learning_rate

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """The final log-odds."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.from_numpy(
            batch_observations(candidate_rows(bank, True)[0], [np.arange(len(bank.candidates))])[0]
        )
        with seeded(seed):
            network = nn.Sequential(
                nn.Linear(rows.shape[1], self.width),
                nn.ReLU(),
                nn.Linear(self.width, self.width),
                nn.ReLU(),
                nn.Linear(self.width, 1),
            )
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for k in self.rounds():
            log_odds = network(rows)[:, 0]
            masks = torch.rand(k, len(rows), generator=generator) < log_odds.detach().sigmoid()
            figures = torch.from_numpy(
                evaluator.evaluate(masks.numpy(), seed).log_likelihood
            ).float()
            gain = (figures - (figures.sum() - figures) / (k - 1)) / (figures.std() + 1e-8)
            log_p = -nn.functional.binary_cross_entropy_with_logits(
                log_odds.expand(k, -1), masks.float(), reduction="none"
            ).sum(1)
            optimizer.zero_grad()
            (-(gain * log_p).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            return network(rows)[:, 0].double().numpy()
