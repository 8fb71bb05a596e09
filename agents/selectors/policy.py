"""A trained policy as a selector."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.policies import SelectionPolicy, TransformerPolicy, check_not_normalised
from agents.selectors.base import Selector, best_of_each_class
from synthselect_env import FeatureBank, Selection, SelectionVecEnv
from synthselect_env.bank import N_BATCHES
from synthselect_env.envs.observations import batch_observations, rows_of_width
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward
from synthselect_env.evaluators import Evaluator
from synthselect_env.training.device import pick_device


class PolicySelector(Selector):
    """Keeps what a trained policy keeps, each candidate scored by its probability of being kept.

    A policy is rewarded for what it draws, not for its most probable action: of each class, as many candidates are kept as
    the policy keeps on average, the most probable ones. Cutting at a probability of one half instead can select far fewer or
    more candidates, or of one class only, which no reward has ever judged.

    :param model: a trained SB3 algorithm with one of this library's policies
    :param n_batches: batches that the pool is shown in; by default as many as make batches of the size that the policy was trained on,
        the paper's eight where they do
    :param name: name in tables; the algorithm's by default
    :raises ValueError: when the model's policy is another kind, or saw observations normalised by their running statistics
        (which a model that was loaded without its environment does not tell)
    """

    is_rl = True

    def __init__(
        self, model: BaseAlgorithm, n_batches: int | None = None, name: str | None = None
    ) -> None:
        if not isinstance(model.policy, SelectionPolicy):
            raise ValueError(
                f"PolicySelector reads policies over a controller (TransformerPolicy, …), not {type(model.policy).__name__}"
            )
        check_not_normalised(model)
        self.policy: SelectionPolicy = model.policy
        self.batch_size = model.observation_space.shape[0]  # type: ignore[index]
        self.n_batches = n_batches
        self.evaluations = model.num_timesteps
        self.name = name or type(model).__name__

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Keep the most probable candidates; nothing here is random.

        :raises ValueError: when the bank's features do not fit the policy
        """
        d = self.policy.observation_space.shape[1]  # type: ignore[index]
        batches = bank.make_batches(self.n_batches or self._default_batches(bank))
        table = batch_observations(rows_of_width(bank, d), batches)
        probabilities = np.zeros(len(bank.candidates))
        for batch, rows in zip(batches, torch.from_numpy(table)):
            probabilities[batch] = (
                self.policy.keep_probabilities(rows[None])[0, : len(batch)].cpu().numpy()
            )
        labels = bank.candidates.labels
        expected = np.bincount(labels, weights=probabilities, minlength=len(bank.classes))
        return Selection.of(
            bank, best_of_each_class(probabilities, labels, expected), probabilities, self.name
        )

    def _default_batches(self, bank: FeatureBank) -> int:
        n = len(bank.candidates)
        about = max(1, round(n / self.batch_size))
        nearest = sorted(
            range(max(1, about - 8), about + 9), key=lambda k: abs(k - n / self.batch_size)
        )  # batches of one pool differ in length
        for count in (N_BATCHES, *nearest):
            if count <= n and max(map(len, bank.make_batches(count))) == self.batch_size:
                return count
        return nearest[0]


class TrainingSelector(Selector):
    """Trains an agent on the bank, and keeps what it keeps.

    :param algorithm: an SB3 on-policy algorithm: PPO, A2C, REINFORCE, CreditPPO, …
    :param policy: a policy over a controller
    :param evaluations: environment steps, each of which scores a selection; a rollout that no longer fits is not begun
    :param n_envs: selections that are scored at once; fewer where a rollout would not fit
    :param evaluator: what rewards; None for the default
    :param reward: a name, a :class:`~synthselect_env.envs.rewards.Reward`, or a dictionary of its parameters
    :param extended_features: whether the agent sees more than features, see :func:`~synthselect_env.envs.selection_env.observations`
    :param name: name in tables; the algorithm's by default
    :param kwargs: passed to the algorithm; ``n_steps`` is one episode by default
    :raises ValueError: when not even one rollout of one environment fits
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
        extended_features: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.algorithm, self.policy, self.kwargs = (
            algorithm,
            policy,
            {"n_steps": N_BATCHES, **kwargs},
        )
        n_steps = self.kwargs["n_steps"]
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        if evaluations < n_steps:
            raise ValueError(
                f"{evaluations} evaluations are less than a rollout of n_steps={n_steps}"
            )
        n_envs = min(n_envs, evaluations // n_steps)
        evaluations -= evaluations % (n_steps * n_envs)
        self.evaluations, self.n_envs, self.evaluator, self.reward = (
            evaluations,
            n_envs,
            evaluator,
            reward,
        )
        self.extended_features = extended_features
        self.name = name or algorithm.__name__

    def settings(self) -> dict[str, object]:
        """Its attributes, and the kind of device that it trains on, whose random numbers are its own."""
        return {**super().settings(), "device": pick_device(self.kwargs.get("device", "auto")).type}

    def train(self, bank: FeatureBank, seed: int) -> OnPolicyAlgorithm:
        """The trained agent.

        :param bank: the bank
        :param seed: of the evaluations and of the agent
        """
        env = SelectionVecEnv(
            bank, self.n_envs, self.evaluator, self.reward, extended_features=self.extended_features
        )
        env.seed(seed)
        return self.algorithm(self.policy, env, seed=seed, **self.kwargs).learn(self.evaluations)  # type: ignore[call-arg]

    def select(self, bank: FeatureBank, seed: int) -> Selection:
        """Train, and select as :class:`PolicySelector` does."""
        return PolicySelector(self.train(bank, seed), N_BATCHES, self.name).select(bank, seed)


def mask_of_episode(model: BaseAlgorithm, env: gym.Env[Any, Any], seed: int) -> np.ndarray:
    """What any trained algorithm keeps in one episode of the environment that it plays, by its most probable actions.

    :param model: a trained SB3 algorithm, of whatever policy; one of this library's is read by :class:`PolicySelector`
    :param env: a selection environment, wrapped as the algorithm needs it
    :param seed: of the episode
    :return: bool (n,)
    """
    observation, _ = env.reset(seed=seed)
    normalised = model.get_vec_normalize_env()
    state, start, finished = None, np.ones(1, bool), False
    while not finished:
        seen = observation if normalised is None else normalised.normalize_obs(observation)
        action, state = model.predict(seen, state=state, episode_start=start, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        start, finished = np.zeros(1, bool), terminated or truncated
    return env.unwrapped.selection  # type: ignore[attr-defined]
