"""SelectionVecEnv: many episodes over one pool, one batched evaluation a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from synthselect_env.bank import N_BATCHES, FeatureBank
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.envs.episodes import SelectionEpisodes
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward, resolve_reward
from synthselect_env.evaluators import Evaluator, make_evaluator


class SelectionVecEnv(VecEnv):
    """n environments for Stable-Baselines3 that advance together, so that their selections are scored in one call.

    The same numbers as n :class:`SyntheticSelectionEnv` in a ``DummyVecEnv`` that were reset with one seed, at the cost of
    one. Episodes end together; ``infos`` then carry ``episode`` (return, length, seconds) as SB3's ``Monitor`` would.

    :param bank: a :class:`FeatureBank`, the name of an embedded one, or a path
    :param n_envs: number of environments
    :param evaluator: "datamodel", "linear_probe", "resnet18", "resnet34", or an :class:`Evaluator`; None for the first where the bank has
        retrainings, and the second where it has none
    :param reward: a name, a :class:`Reward`, or a dictionary of its parameters
    :param n_batches: steps in an episode
    :param extended_features: whether rows also hold class, centroid cosines, label fit and realism
    :param evaluator_kwargs: passed to the evaluator's constructor when it is given by name
    :raises ValueError: when an argument is unknown or out of range
    """

    def __init__(
        self,
        bank: FeatureBank | str | Path = "pcam",
        n_envs: int = 16,
        evaluator: str | Evaluator | None = None,
        reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
        n_batches: int = N_BATCHES,
        extended_features: bool = True,
        evaluator_kwargs: dict[str, object] | None = None,
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        self.bank = resolve_bank(bank).sealed
        scorer = make_evaluator(evaluator, self.bank, **(evaluator_kwargs or {}))
        self._episodes = SelectionEpisodes(
            self.bank, scorer, resolve_reward(reward), n_envs, n_batches, extended_features
        )
        self.render_mode = None
        self._actions = np.zeros((n_envs, self._episodes.batch_size), np.int8)
        self._seeded = False
        self._start = time.perf_counter()
        super().__init__(n_envs, self._episodes.observation_space, self._episodes.action_space)

    @property
    def evaluator(self) -> Evaluator:
        """What scores the selections; another one makes another environment."""
        return self._episodes.evaluator

    @property
    def observation_columns(self) -> dict[str, slice]:
        """Position of each named column in a row of the observation."""
        return self._episodes.columns

    @property
    def selections(self) -> np.ndarray:
        """What each episode has kept so far.  bool (n_envs, n)"""
        return self._episodes.masks.copy()

    def action_masks(self) -> np.ndarray:
        """For MaskablePPO: whether each row may be discarded, and whether it may be kept, in turn.  bool (2 * batch,)"""
        return self._episodes.action_masks()

    @property
    def has_credit(self) -> bool:
        """Whether :meth:`credit` is the derivative of what is rewarded."""
        return self._episodes.has_credit

    def credit(self) -> np.ndarray:
        """Derivatives of the last rewards by each decision so far; see :meth:`SelectionEpisodes.credit`.  float64 (n_envs, steps so far, batch)"""
        return self._episodes.credit()

    def reset(self) -> VecEnvObs:
        """Begin n episodes; ``seed`` before it sets the evaluations' seed."""
        seed: int | None = None
        if self._seeds[0] is not None or not self._seeded:
            rng, _ = gym.utils.seeding.np_random(self._seeds[0])
            seed = int(rng.integers(2**31))
        self._seeded = True
        self._reset_seeds()
        self._reset_options()
        self._begin(seed)
        self.reset_infos = self._episodes.infos()
        return self._observe()

    def _begin(self, seed: int | None = None) -> None:
        self._episodes.restart(seed)
        self._returns = np.zeros(self.num_envs)

    def _observe(self) -> np.ndarray:
        return np.repeat(self._episodes.observe()[None], self.num_envs, axis=0)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next reset.  All environments get the same seed: their selections are to be compared with each other."""
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of all environments.  (n_envs, batch)"""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Score all selections at once."""
        rewards, evaluations = self._episodes.step(self._actions)
        infos = self._episodes.infos(evaluations)
        self._returns += rewards
        finished = self._episodes.finished
        for info in infos:
            info["TimeLimit.truncated"] = False
        if finished:
            terminal, seconds = (
                self._episodes.observe(),
                round(time.perf_counter() - self._start, 6),
            )
            for info, total in zip(infos, self._returns):
                info.update(
                    terminal_observation=terminal,
                    episode={"r": float(total), "l": self._episodes.step_index, "t": seconds},
                )
            self._begin()
        return self._observe(), rewards.astype(np.float32), np.full(self.num_envs, finished), infos

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each environment asked for; they share it."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the attribute for all; they share it.

        :raises ValueError: when asked for some only
        """
        if len(list(self._get_indices(indices))) < self.num_envs:
            raise ValueError(
                "the environments of a SelectionVecEnv share their attributes: set them for all, or use DummyVecEnv"
            )
        setattr(self, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call the method, once for each environment asked for."""
        return [
            getattr(self, method_name)(*method_args, **method_kwargs)
            for _ in self._get_indices(indices)
        ]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
