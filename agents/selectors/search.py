"""Selectors that search with an evaluator, within a number of evaluations."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import nn

from agents.selectors.base import Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.envs.observations import batch_observations, candidate_rows
from synthselect_env.evaluators import Evaluator, make_evaluator, require_credit
from synthselect_env.training.device import seeded

POPULATION = 32
"""Selections that one round of a search evaluates, about."""

MIN_DEVIATION = 1e-8
"""Added to the deviation of a round's scores, which may all be the same."""


class SearchSelector(Selector):
    """Search for the selection with the best validation log-likelihood.

    A subclass needs a ``name`` and :meth:`search`:

    .. code-block:: python

        class ExampleSearch(SearchSelector):
            name = "example search"

            def search(self, bank, evaluator, seed):
                rng = np.random.default_rng(seed)
                masks = rng.random((self.evaluations, len(bank.candidates))) < 0.5
                values = evaluator.evaluate(masks, seed).log_likelihood
                return np.where(masks[values.argmax()], 1.0, -1.0)

    :param evaluator: evaluator, its name, or None for the bank's default
    :param evaluations: number of selections that may be scored
    :raises ValueError: if there are too few evaluations to begin with
    """

    def __init__(self, evaluator: str | Evaluator | None = None, evaluations: int = 1024) -> None:
        if evaluations < 2:
            raise ValueError(f"evaluations must be at least 2, got {evaluations}")
        self.evaluator = evaluator
        self.evaluations = evaluations

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Search, and keep the candidates with a positive score."""
        scores = self.search(bank, make_evaluator(self.evaluator, bank), seed)
        return Selection.of(bank, scores > 0, scores, self.name)

    @abstractmethod
    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Score every candidate; a positive score keeps it.

        :param bank: feature bank
        :param evaluator: evaluator to search with, which may be asked ``self.evaluations`` times
        :param seed: random seed of the search and of the evaluations
        :return: (n,)
        """

    def rounds(self, population: int = POPULATION) -> list[int]:
        """Return the numbers of selections per round. They add up to the evaluations.

        Rounds are of one size, give or take one, as each moves a search equally far.

        :param population: wanted number of selections per round
        """
        n_rounds = max(1, round(self.evaluations / population))
        size, rest = divmod(self.evaluations, n_rounds)
        return [size + 1] * rest + [size] * (n_rounds - rest)


class RandomSearchSelector(SearchSelector):
    """Keep the best of many random selections of all sizes.

    This is the control of every other search.

    .. code-block:: python

        RandomSearchSelector(evaluations=64).select(load_bank("toy"), seed=0)

    :param evaluator: see :class:`SearchSelector`
    :param evaluations: see :class:`SearchSelector`
    """

    name = "random search"

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Return 1 for candidates in the best selection, and -1 for the others.  (n,)"""
        rng = np.random.default_rng(seed)
        n = len(bank.candidates)
        best = np.zeros(n, bool)
        best_value = -np.inf
        for k in self.rounds():
            masks = rng.random((k, n)) < rng.random((k, 1))
            values = evaluator.evaluate(masks, seed).log_likelihood
            if values.max() > best_value:
                best = masks[values.argmax()]
                best_value = values.max()
        return np.where(best, 1.0, -1.0)


class CrossEntropySelector(SearchSelector):
    """Cross-entropy method (Rubinstein 1999) on one probability per candidate.

    Each round draws selections by the probabilities, and moves these towards the best ones.

    .. code-block:: python

        CrossEntropySelector(evaluations=64, elite=0.5).select(load_bank("toy"), seed=0)

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
        self.elite = elite
        self.smoothing = smoothing

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Return the final probabilities, less one half.  (n,)"""
        rng = np.random.default_rng(seed)
        n = len(bank.candidates)
        p = np.full(n, 0.5)
        for k in self.rounds():
            masks = rng.random((k, n)) < p
            values = evaluator.evaluate(masks, seed).log_likelihood
            best = np.argsort(-values)[: max(1, round(self.elite * k))]
            p = self.smoothing * p + (1 - self.smoothing) * masks[best].mean(0)
        return p - 0.5


class BanzhafSelector(SearchSelector):
    """Data Banzhaf (Wang and Jia 2023) by maximum sample reuse.

    A candidate's value is the mean score of random selections with it, less that of those without
    it. Each candidate is in half of the selections, so every selection tells about every candidate.

    .. code-block:: python

        BanzhafSelector(evaluations=64).select(load_bank("toy"), seed=0)

    :param evaluator: see :class:`SearchSelector`
    :param evaluations: see :class:`SearchSelector`
    """

    name = "Data Banzhaf"

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Return the estimated values.  (n,)"""
        # Score random selections.
        rng = np.random.default_rng(seed)
        n = len(bank.candidates)
        groups, group_values = [], []
        for k in self.rounds():
            groups.append(rng.random((k, n)) < 0.5)
            group_values.append(evaluator.evaluate(groups[-1], seed).log_likelihood)
        masks = np.concatenate(groups)  # (evaluations, n)
        values = np.concatenate(group_values)  # (evaluations,)

        # A candidate that was always drawn, or never, lacks one mean: zero must be the average.
        values = values - values.mean()

        def mean_value(chosen: np.ndarray) -> np.ndarray:  # (evaluations, n) -> (n,)
            return chosen.T @ values / np.maximum(chosen.sum(0), 1)

        return mean_value(masks.astype(float)) - mean_value(1.0 - masks)


class CreditSelector(SearchSelector):
    """Gradient ascent on one log-odds per candidate, along the evaluator's exact credit.

    There is no policy: this shows what the credit alone is good for.

    .. code-block:: python

        CreditSelector("linear_probe", evaluations=64).select(load_bank("toy"), seed=0)

    :param evaluator: see :class:`SearchSelector`; must have credit
    :param evaluations: see :class:`SearchSelector`
    :param learning_rate: learning rate of Adam
    :param samples_per_step: number of selections that each step draws, about
    :raises NotImplementedError: if the evaluator has no credit; raised on selecting
    """

    name = "credit ascent"

    def __init__(
        self,
        evaluator: str | Evaluator | None = None,
        evaluations: int = 1024,
        learning_rate: float = 0.15,
        samples_per_step: int = 4,
    ) -> None:
        super().__init__(evaluator, evaluations)
        self.learning_rate = learning_rate
        self.samples_per_step = samples_per_step

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Return the final log-odds.  (n,)"""
        credited = require_credit(evaluator)
        rng = np.random.default_rng(seed)
        n = len(bank.candidates)
        log_odds = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([log_odds], lr=self.learning_rate)
        for k in self.rounds(self.samples_per_step):
            p = log_odds.sigmoid()
            masks = rng.random((k, n)) < p.detach().numpy()
            credit = torch.from_numpy(credited.credit(masks, seed).mean(0))  # (n,)
            loss = -(p * credit).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return log_odds.detach().numpy()


class DVRLSelector(SearchSelector):
    """Data valuation using reinforcement learning (Yoon, Arik and Pfister 2020).

    A network sees the scores of one candidate at a time, and answers the probability of
    keeping it. It learns by REINFORCE. Two things differ from the paper. The evaluator scores
    selections, and not a predictor that is trained along. Several selections are drawn per step,
    each compared with the mean of the others, and not with a moving average of earlier steps.

    .. code-block:: python

        DVRLSelector(evaluations=64).select(load_bank("toy"), seed=0)

    :param evaluator: see :class:`SearchSelector`
    :param evaluations: see :class:`SearchSelector`
    :param width: width of the network's two hidden layers
    :param learning_rate: learning rate of Adam
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
        self.width = width
        self.learning_rate = learning_rate

    def search(self, bank: FeatureBank, evaluator: Evaluator, seed: int) -> np.ndarray:
        """Return the final log-odds.  (n,)"""
        # Prepare one row per candidate, and the network. All randomness comes from the seed.
        whole_pool = [np.arange(len(bank.candidates))]
        scores, _ = candidate_rows(bank)
        rows = torch.from_numpy(batch_observations(scores, whole_pool)[0])  # (n, d)
        generator = torch.Generator().manual_seed(seed)
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
            # Draw selections and score them.
            log_odds = network(rows)[:, 0]
            masks = torch.rand(k, len(rows), generator=generator) < log_odds.detach().sigmoid()
            evaluations = evaluator.evaluate(masks.numpy(), seed)
            values = torch.from_numpy(evaluations.log_likelihood).float()  # (k,)

            # Compare each with the mean of the others.
            others = (values.sum() - values) / (k - 1)
            advantage = (values - others) / (values.std() + MIN_DEVIATION)

            # Make the better selections more likely.
            cross_entropy = nn.functional.binary_cross_entropy_with_logits(
                log_odds.expand(k, -1), masks.float(), reduction="none"
            )  # (k, n)
            log_p = -cross_entropy.sum(1)
            loss = -(advantage * log_p).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return network(rows)[:, 0].double().numpy()
