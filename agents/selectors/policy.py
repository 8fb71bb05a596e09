"""A trained policy as a selector."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.policies import SelectionPolicy
from agents.selectors.base import Selector
from synthselect_env import FeatureBank, Selection
from synthselect_env.bank import N_BATCHES
from synthselect_env.env import observations


class PolicySelector(Selector):
    """Keeps what a trained policy keeps, each candidate scored by its probability of being kept.

    :param model: a trained SB3 algorithm with one of this library's policies
    :param n_batches: batches that the pool is shown in, as in training
    :param name: name in tables; the algorithm's by default
    :param threshold: least probability to keep
    :raises ValueError: when the model's policy is another kind
    """

    def __init__(self, model: BaseAlgorithm, n_batches: int = N_BATCHES, name: str | None = None, threshold: float = 0.5) -> None:
        if not isinstance(model.policy, SelectionPolicy):
            raise ValueError(f"PolicySelector reads policies over a controller (TransformerPolicy, …), not {type(model.policy).__name__}")
        self.model, self.n_batches, self.threshold = model, n_batches, threshold
        self.name = name or type(model).__name__

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the candidates whose probability reaches the threshold; nothing here is random.

        :raises ValueError: when the bank's features do not fit the policy
        """
        d = self.model.observation_space.shape[1]
        batches = bank.make_batches(self.n_batches)
        table = observations(bank, batches, context=d != bank.n_features)
        if table.shape[2] != d:
            raise ValueError(
                f"the policy was trained on rows of {d} numbers, {bank.source} gives {table.shape[2]}; extract its features with the same extractor"
            )
        probabilities = np.zeros(len(bank.candidates))
        for batch, rows in zip(batches, torch.from_numpy(table)):
            probabilities[batch] = self.model.policy.keep_probabilities(rows[None])[0, : len(batch)].cpu().numpy()
        return Selection.of(bank, probabilities >= self.threshold, probabilities, self.name)
