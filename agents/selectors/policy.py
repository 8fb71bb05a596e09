"""A trained policy as a selector."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.policies import SelectionPolicy
from agents.selectors.base import Selector, best_of_each_class
from synthselect_env import FeatureBank, Selection
from synthselect_env.env import observations


class PolicySelector(Selector):
    """Keeps what a trained policy keeps, each candidate scored by its probability of being kept.

    A policy is rewarded for what it draws, not for its most probable action: of each class, as many candidates are kept as
    the policy keeps on average, the most probable ones. Cutting at a probability of one half instead can select far fewer or
    more candidates, or of one class only, which no reward has ever judged.

    :param model: a trained SB3 algorithm with one of this library's policies
    :param n_batches: batches that the pool is shown in; as in training by default
    :param name: name in tables; the algorithm's by default
    :raises ValueError: when the model's policy is another kind
    """

    def __init__(self, model: BaseAlgorithm, n_batches: int | None = None, name: str | None = None) -> None:
        if not isinstance(model.policy, SelectionPolicy):
            raise ValueError(f"PolicySelector reads policies over a controller (TransformerPolicy, …), not {type(model.policy).__name__}")
        self.policy: SelectionPolicy = model.policy
        self.batch_size = model.observation_space.shape[0]  # type: ignore[index]
        self.n_batches = n_batches
        self.name = name or type(model).__name__

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the most probable candidates; nothing here is random.

        :raises ValueError: when the bank's features do not fit the policy
        """
        d = self.policy.features_dim
        batches = bank.make_batches(self.n_batches or max(1, round(len(bank.candidates) / self.batch_size)))
        table = observations(bank, batches, context=d != bank.n_features)
        if table.shape[2] != d:
            raise ValueError(
                f"the policy was trained on rows of {d} numbers, {bank.source} gives {table.shape[2]}; extract its features with the same extractor"
            )
        probabilities = np.zeros(len(bank.candidates))
        for batch, rows in zip(batches, torch.from_numpy(table)):
            probabilities[batch] = self.policy.keep_probabilities(rows[None])[0, : len(batch)].cpu().numpy()
        labels = bank.candidates.labels
        expected = np.bincount(labels, weights=probabilities, minlength=len(bank.classes))
        return Selection.of(bank, best_of_each_class(probabilities, labels, expected), probabilities, self.name)


def mask_of_episode(model: BaseAlgorithm, env: gym.Env[Any, Any], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """What any trained algorithm keeps in one episode of the environment that it plays, by its most probable actions.

    :param model: a trained SB3 algorithm, of whatever policy
    :param env: a selection environment, wrapped as the algorithm needs it
    :param seed: of the episode
    :return: bool (n,), and the last step's info with its validation metrics
    """
    observation, info = env.reset(seed=seed)
    state, start, finished = None, np.ones(1, bool), False
    while not finished:
        action, state = model.predict(observation, state=state, episode_start=start, deterministic=True)
        observation, _, terminated, truncated, info = env.step(action)
        start, finished = np.zeros(1, bool), terminated or truncated
    return env.unwrapped.selection, info  # type: ignore[attr-defined]
