"""SelectionVecEnv: many episodes over one pool, one batched evaluation per step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from synthselect_env.bank import N_BATCHES, FeatureBank, resolve_bank
from synthselect_env.envs.episodes import SelectionEpisodes
from synthselect_env.envs.rendering import framed_candidates
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward, resolve_reward
from synthselect_env.evaluators import Evaluator, make_evaluator


class SelectionVecEnv(VecEnv):
    """n environments for Stable-Baselines3 whose selections are scored in one call.

    It returns the same numbers as n :class:`~synthselect_env.SyntheticSelectionEnv` in a
    ``DummyVecEnv`` that were reset with one seed, and is about as fast as one of them. All episodes
    end together. Their last ``infos`` hold ``episode`` (return, length, seconds), as SB3's
    ``Monitor`` writes it.

    .. code-block:: python

        env = SelectionVecEnv("toy", n_envs=16)
        model = PPO(TransformerPolicy, env, **PPO_DEFAULTS).learn(1024)

    :param bank: a :class:`FeatureBank`, the name of an embedded one, or the path of a file
    :param n_envs: number of environments
    :param evaluator: "datamodel", "linear_probe", "small_cnn", "resnet34", or an :class:`Evaluator`.
        None for the datamodel where the bank has retrainings, else the linear probe
    :param reward: name in :data:`~synthselect_env.envs.rewards.REWARDS`, a :class:`Reward`, or a
        dictionary of its parameters
    :param n_batches: steps per episode
    :param observation: "scores" for rows of class and ranks by label fit, realism and centroid cosines,
        or "features" for the paper's features; see
        :func:`~synthselect_env.envs.observations.candidate_rows`
    :param evaluator_kwargs: arguments of an evaluator that is given by name
    :param render_mode: "rgb_array" for images of the batches, e.g. for a VecVideoRecorder, or None
    :raises ValueError: if an argument is unknown or out of range
    """

    def __init__(
        self,
        bank: FeatureBank | str | Path = "pcam",
        n_envs: int = 16,
        evaluator: str | Evaluator | None = None,
        reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
        n_batches: int = N_BATCHES,
        observation: str = "scores",
        evaluator_kwargs: dict[str, object] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        self.bank = resolve_bank(bank).sealed
        self._episodes = SelectionEpisodes(
            self.bank,
            make_evaluator(evaluator, self.bank, **(evaluator_kwargs or {})),
            resolve_reward(reward),
            n_envs,
            n_batches,
            observation,
        )
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; None or 'rgb_array'")
        self.render_mode = render_mode
        self._actions = np.zeros((n_envs, self._episodes.batch_size), np.int8)
        self._seeded = False
        self._start = time.perf_counter()
        super().__init__(n_envs, self._episodes.observation_space, self._episodes.action_space)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # type: ignore[dict-item]

    @property
    def evaluator(self) -> Evaluator:
        """Evaluator of the selections. It is fixed: another one makes another environment."""
        return self._episodes.evaluator

    @property
    def observation_columns(self) -> dict[str, slice]:
        """Position of each named column in a row of the observation."""
        return self._episodes.columns

    @property
    def selections(self) -> np.ndarray:
        """Candidates kept so far in each episode.  bool (n_envs, n)"""
        return self._episodes.masks.copy()

    def action_masks(self) -> np.ndarray:
        """Return MaskablePPO's action mask: [discard, keep] per row.  bool (2 * batch,)"""
        return self._episodes.action_masks()

    @property
    def has_credit(self) -> bool:
        """True if :meth:`credit` is the derivative of the reward."""
        return self._episodes.has_credit

    def credit(self) -> np.ndarray:
        """Return the gradients of the last rewards by each decision so far.

        See :meth:`~synthselect_env.envs.episodes.SelectionEpisodes.credit`.

        :return: float64 (n_envs, steps so far, batch)
        """
        return self._episodes.credit()

    def reset(self) -> VecEnvObs:
        """Begin n episodes; a call of :meth:`seed` before it sets the evaluations' seed."""
        new_seed: int | None = None
        if self._seeds[0] is not None or not self._seeded:
            # The same draw as Gymnasium's reset(seed=…), so that both environments agree
            rng, _ = gym.utils.seeding.np_random(self._seeds[0])
            new_seed = int(rng.integers(2**31))
        self._seeded = True
        self._reset_seeds()
        self._reset_options()
        self._begin(new_seed)
        self.reset_infos = self._episodes.infos()
        return self._observe()

    def _begin(self, seed: int | None = None) -> None:
        self._episodes.restart(seed)
        self._returns = np.zeros(self.num_envs)

    def _observe(self) -> np.ndarray:
        return np.repeat(self._episodes.observe()[None], self.num_envs, axis=0)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next reset.

        All environments get the same seed, so that their selections can be compared.

        :param seed: random seed
        """
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of all environments.  (n_envs, batch)"""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Score all selections at once. New episodes begin after the last batch."""
        rewards, evaluations = self._episodes.step(self._actions)
        self._returns += rewards
        finished = self._episodes.finished
        infos = self._episodes.infos(evaluations)
        for info in infos:
            info["TimeLimit.truncated"] = False
        if finished:
            self._add_episode(infos)
            self._begin()
        dones = np.full(self.num_envs, finished)
        return self._observe(), rewards.astype(np.float32), dones, infos

    def _add_episode(self, infos: list[dict[str, Any]]) -> None:
        """Add what SB3 expects in the infos of an episode's last step."""
        last_observation = self._episodes.observe()
        length = self._episodes.step_index
        seconds = round(time.perf_counter() - self._start, 6)
        for info, total in zip(infos, self._returns):
            info["terminal_observation"] = last_observation
            info["episode"] = {"r": float(total), "l": length, "t": seconds}

    def close(self) -> None:
        """Do nothing; no resource is held open."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each requested environment. Most are shared by all."""
        if attr_name == "selection":
            return list(self.selections[list(self._get_indices(indices))])
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute, which all environments share.

        :raises ValueError: if it is to be set for some of them only
        """
        if len(list(self._get_indices(indices))) < self.num_envs:
            raise ValueError(
                "the environments of a SelectionVecEnv share their attributes: "
                "set them for all, or use DummyVecEnv"
            )
        setattr(self, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method, once per requested environment."""
        method = getattr(self, method_name)
        if method_name == "credit":
            return list(method()[list(self._get_indices(indices))])
        return [method(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether a wrapper's work is done here, which is true of SB3's ``Monitor``."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw each environment's last decided batch, grey before the first step."""
        if self.render_mode is None:
            return [None] * self.num_envs
        episodes = self._episodes
        decided = episodes.step_index > 0
        batch = episodes.batches[episodes.step_index - 1 if decided else 0]
        masks = episodes.masks[:, batch] if decided else [None] * self.num_envs
        return [framed_candidates(self.bank, batch, mask) for mask in masks]
