"""Selectors by reinforcement learning: a trained policy, and an agent that is trained first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.policies import SelectionPolicy, TransformerPolicy, check_not_normalised
from agents.policy_files import load_policy, save_policy
from agents.selectors.base import Selector, best_of_each_class
from agents.warm_start import EVALUATIONS as RATE_EVALUATIONS
from agents.warm_start import best_random_rate
from synthselect_env import FeatureBank, Selection, SelectionVecEnv
from synthselect_env.bank import N_BATCHES
from synthselect_env.envs.observations import batch_observations, rows_of_width
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward
from synthselect_env.evaluators import Evaluator
from synthselect_env.training.device import pick_device

BATCHES_TO_TRY = 8
"""Numbers of batches that are tried on either side of the most likely one."""


class PolicySelector(Selector):
    """Keep the candidates that a trained policy keeps.

    Scores are probabilities of being kept. A policy is rewarded for the selections that it draws,
    and not for its most probable action. So as many candidates of each class are kept as the policy
    keeps on average, the most probable ones first. A cut at probability one half could keep far
    more or fewer, or one class only, which no reward has ever judged.

    .. code-block:: python

        env = SelectionVecEnv(load_bank("toy"), n_envs=4)
        model = PPO(TransformerPolicy, env, n_steps=8, batch_size=32).learn(64)
        PolicySelector(model).select(load_bank("toy"), seed=0)

    :param model: trained SB3 algorithm with one of this library's policies
    :param n_batches: number of batches that the pool is shown in. By default, batches have the size
        that the policy was trained on; there are the paper's eight where that fits
    :param name: name in tables; by default the algorithm's
    :raises ValueError: if the model has another kind of policy, or observations were normalised by
        running statistics (which a model loaded without its environment does not tell)
    """

    is_rl = True
    cross_fits = False

    def __init__(
        self, model: BaseAlgorithm, n_batches: int | None = None, name: str | None = None
    ) -> None:
        if not isinstance(model.policy, SelectionPolicy):
            raise ValueError(
                "PolicySelector reads policies over a controller (TransformerPolicy, …), "
                f"not {type(model.policy).__name__}"
            )
        check_not_normalised(model)
        self.policy: SelectionPolicy = model.policy
        self.batch_size = model.observation_space.shape[0]  # type: ignore[index]
        self.n_batches = n_batches
        self.evaluations = model.num_timesteps
        self.name = name or type(model).__name__

    def save(self, directory: str | Path, facts: Mapping[str, object] | None = None) -> None:
        """Write the policy without pickle: its weights, its settings, and a model card.

        :param directory: folder to write ``policy.safetensors``, ``policy.json`` and ``README.md``
            into
        :param facts: lines of the model card, by title
        :raises ValueError: if the policy's class is not one of this library's
        """
        save_policy(self.policy, self.name, self.evaluations, Path(directory), facts or {})

    @classmethod
    def load(cls, directory: str | Path, device: str = "auto") -> PolicySelector:
        """Read a folder of :meth:`save`. No code in it is run.

        :param directory: folder to read
        :param device: "auto", or a torch device
        :raises ValueError: if it is no such folder, or was damaged
        """
        selector = cls.__new__(cls)
        policy, settings = load_policy(Path(directory), device)
        selector.policy = policy
        selector.batch_size = policy.observation_space.shape[0]  # type: ignore[index]
        selector.n_batches = None
        selector.evaluations = settings["evaluations"]
        selector.name = settings["name"]
        return selector

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the most probable candidates. Nothing is random here.

        :raises ValueError: if the bank's features do not fit the policy
        """
        # Show the pool to the policy, batch by batch.
        width = self.policy.observation_space.shape[1]  # type: ignore[index]
        batches = bank.make_batches(self.n_batches or self._default_batches(bank))
        table = batch_observations(rows_of_width(bank, width), batches)  # (batches, batch_size, d)
        probabilities = np.zeros(len(bank.candidates))
        for batch, rows in zip(batches, torch.from_numpy(table)):
            answer = self.policy.keep_probabilities(rows[None])  # (1, batch_size)
            probabilities[batch] = answer[0, : len(batch)].cpu().numpy()

        # Keep as many of each class as the policy does on average.
        labels = bank.candidates.labels
        expected = np.bincount(labels, weights=probabilities, minlength=len(bank.classes))
        mask = best_of_each_class(probabilities, labels, expected)
        return Selection.of(bank, mask, probabilities, self.name)

    def _default_batches(self, bank: FeatureBank) -> int:
        """Return the number of batches that makes them as large as in training."""
        n = len(bank.candidates)
        expected = n / self.batch_size
        middle = max(1, round(expected))
        nearby = range(max(1, middle - BATCHES_TO_TRY), middle + BATCHES_TO_TRY + 1)
        # Batches of one pool differ in size, so the largest one is compared.
        nearest = sorted(nearby, key=lambda count: abs(count - expected))
        for count in (N_BATCHES, *nearest):
            if count <= n and max(map(len, bank.make_batches(count))) == self.batch_size:
                return count
        return nearest[0]


class TrainingSelector(Selector):
    """Train an agent on the bank, and keep the candidates that it keeps.

    .. code-block:: python

        selector = TrainingSelector(CreditPPO, evaluations=64)
        compare(load_bank("toy"), ["centroid", selector], rounds=1)

    :param algorithm: SB3 on-policy algorithm: PPO, A2C, REINFORCE, CreditPPO, …
    :param policy: policy over a controller
    :param evaluations: number of environment steps, each of which scores one selection. A rollout
        that no longer fits is not begun. A warm start takes some more
    :param n_envs: number of selections scored at once; fewer where a rollout would not fit
    :param evaluator: evaluator of the reward; None for the bank's default
    :param reward: name, :class:`~synthselect_env.envs.rewards.Reward`, or dictionary of its
        parameters
    :param observation: "scores" or "features", which the agent sees; see
        :func:`~synthselect_env.envs.observations.candidate_rows`
    :param warm_start: whether the policy begins at the share of random candidates that scores
        best, which takes some evaluations more; see :func:`~agents.warm_start.best_random_rate`
    :param name: name in tables; by default the algorithm's
    :param kwargs: constructor arguments of the algorithm; ``n_steps`` is one episode by default
    :raises ValueError: if not even one rollout of one environment fits
    """

    is_rl = True

    def __init__(
        self,
        algorithm: type[OnPolicyAlgorithm],
        policy: type[SelectionPolicy] = TransformerPolicy,
        evaluations: int = 1024,
        n_envs: int = 16,
        evaluator: str | Evaluator | None = None,
        reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
        observation: str = "scores",
        warm_start: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.algorithm = algorithm
        self.policy = policy
        self.kwargs = {"n_steps": N_BATCHES, **kwargs}
        n_steps = self.kwargs["n_steps"]
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        if evaluations < n_steps:
            raise ValueError(
                f"{evaluations} evaluations are less than a rollout of n_steps={n_steps}"
            )
        # SB3 ends with a whole rollout: fit the environments, then drop the remainder.
        self.n_envs = min(n_envs, evaluations // n_steps)
        self.timesteps = evaluations - evaluations % (n_steps * self.n_envs)
        self.evaluations = self.timesteps + (RATE_EVALUATIONS if warm_start else 0)
        self.warm_start = warm_start
        self.evaluator = evaluator
        self.reward = reward
        self.observation = observation
        self.name = name or algorithm.__name__

    def settings(self) -> dict[str, object]:
        """Return all attributes, and the kind of device: each draws other random numbers."""
        device = pick_device(self.kwargs.get("device", "auto"))
        return {**super().settings(), "device": device.type}

    def train(self, bank: FeatureBank, seed: int) -> OnPolicyAlgorithm:
        """Return an agent trained on the bank.

        :param bank: feature bank
        :param seed: random seed of evaluations and agent
        """
        env = SelectionVecEnv(
            bank, self.n_envs, self.evaluator, self.reward, observation=self.observation
        )
        env.seed(seed)
        settings = dict(self.kwargs)
        if self.warm_start:
            rate = best_random_rate(env.bank, env.evaluator, self.reward, seed)
            given = settings.get("policy_kwargs") or {}
            settings["policy_kwargs"] = {"initial_rate": rate, **given}
        model = self.algorithm(self.policy, env, seed=seed, **settings)  # type: ignore[call-arg]
        return model.learn(self.timesteps)

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Train the agent, and select as :class:`PolicySelector` does."""
        return PolicySelector(self.train(bank, seed), N_BATCHES, self.name).select(bank, seed)


def mask_of_episode(model: BaseAlgorithm, env: gym.Env[Any, Any], seed: int) -> np.ndarray:
    """Play one episode with a model's most probable actions, and return the selection.

    Works for any trained algorithm. One with this library's policies is better read by
    :class:`PolicySelector`.

    :param model: trained SB3 algorithm with any policy
    :param env: selection environment, wrapped as the algorithm needs it
    :param seed: random seed of the episode
    :return: bool (n,)
    """
    observation, _ = env.reset(seed=seed)
    normalised = model.get_vec_normalize_env()
    state = None  # of a recurrent policy
    start = np.ones(1, bool)
    finished = False
    while not finished:
        seen = observation if normalised is None else normalised.normalize_obs(observation)
        action, state = model.predict(seen, state=state, episode_start=start, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        start = np.zeros(1, bool)
        finished = terminated or truncated
    return env.unwrapped.selection  # type: ignore[attr-defined]
