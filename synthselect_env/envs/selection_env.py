"""SyntheticSelectionEnv: keep or discard candidates, rewarded by the retrained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from synthselect_env.bank import N_BATCHES, FeatureBank, resolve_bank
from synthselect_env.envs.episodes import SelectionEpisodes
from synthselect_env.envs.rendering import framed_candidates
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward, resolve_reward
from synthselect_env.evaluators import Evaluator, make_evaluator
from synthselect_env.training.device import in_forked_process


class SyntheticSelectionEnv(gym.Env[np.ndarray, np.ndarray]):
    """Choose which synthetic candidates join the training set.

    The environment of Ye, Xue et al. (MICCAI 2020, arXiv:2008.11331). An episode shows the pool in
    class-balanced batches, nearest to their class centroid first. The observation is one batch,
    ``Box(batch, d)``. The action keeps or discards each candidate, ``MultiBinary(batch)``. The
    reward is the validation score of a classifier trained on real + kept images, or its gain. By
    default a cheap model predicts it; ``evaluator="resnet34", reward="paper"`` retrains, as the
    paper does. The test split is not used.

    .. code-block:: python

        env = gym.make("SynthSelect-Toy-v0")
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

    :param bank: a :class:`FeatureBank`, the name of an embedded one, the path of a file, or None
        for ``default_bank``
    :param evaluator: "datamodel", "linear_probe", "small_cnn", "resnet34", or an :class:`Evaluator`.
        None for the datamodel where the bank has retrainings, else the linear probe
    :param reward: name in :data:`~synthselect_env.envs.rewards.REWARDS`, a :class:`Reward`, or a
        dictionary of its parameters
    :param n_batches: steps per episode
    :param observation: "scores" for rows of class and ranks by label fit, realism and centroid cosines,
        or "features" for the paper's features; see
        :func:`~synthselect_env.envs.observations.candidate_rows`
    :param evaluator_kwargs: arguments of an evaluator that is given by name
    :param render_mode: None, or "rgb_array" for the last batch, kept candidates framed green and
        discarded ones red
    :param default_bank: bank of a registered id
    :raises ValueError: if an argument is unknown
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        bank: FeatureBank | str | Path | None = None,
        evaluator: str | Evaluator | None = None,
        reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
        n_batches: int = N_BATCHES,
        observation: str = "scores",
        evaluator_kwargs: dict[str, object] | None = None,
        render_mode: str | None = None,
        default_bank: str = "pcam",
    ) -> None:
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise ValueError(
                f"unknown render_mode {render_mode!r}; None or one of {', '.join(modes)}"
            )
        if in_forked_process():
            # A forked worker (AsyncVectorEnv) lacks the threads that torch believes it has, and
            # would wait for them for ever.
            torch.set_num_threads(1)
        self.bank = resolve_bank(default_bank if bank is None else bank).sealed
        self.render_mode = render_mode
        self._episodes = SelectionEpisodes(
            self.bank,
            make_evaluator(evaluator, self.bank, **(evaluator_kwargs or {})),
            resolve_reward(reward),
            1,
            n_batches,
            observation,
        )
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space
        self._seeded = False

    @property
    def evaluator(self) -> Evaluator:
        """Evaluator of the selections. It is fixed: another one makes another environment."""
        return self._episodes.evaluator

    @property
    def selection(self) -> np.ndarray:
        """Candidates kept so far in this episode.  bool (n,)"""
        return self._episodes.masks[0].copy()

    @property
    def observation_columns(self) -> dict[str, slice]:
        """Position of each named column in a row of the observation."""
        return self._episodes.columns

    def action_masks(self) -> np.ndarray:
        """Return MaskablePPO's action mask: [discard, keep] per row.  bool (2 * batch,)"""
        return self._episodes.action_masks()

    @property
    def has_credit(self) -> bool:
        """True if :meth:`credit` is the derivative of the reward."""
        return self._episodes.has_credit

    def credit(self) -> np.ndarray:
        """Return the gradient of the last reward by each decision so far.

        See :meth:`~synthselect_env.envs.episodes.SelectionEpisodes.credit`.

        :return: float64 (steps so far, batch)
        """
        return self._episodes.credit()[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        :param seed: random seed. Without one, evaluations keep that of the episode before (common
            random numbers)
        :param options: not used
        """
        super().reset(seed=seed)
        new_seed = None
        if seed is not None or not self._seeded:
            new_seed = int(self.np_random.integers(2**31))
        self._seeded = True
        self._episodes.restart(new_seed)
        return self._episodes.observe(), self._episodes.infos()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply the decisions on the current batch, and show the next one.

        :param action: 1 keeps a candidate, 0 discards it (batch,)
        :raises gymnasium.error.ResetNeeded: before the first reset and after the last batch
        :raises ValueError: if the action has another shape
        """
        rewards, evaluations = self._episodes.step(np.asarray(action)[None])
        observation = self._episodes.observe()
        info = self._episodes.infos(evaluations)[0]
        return observation, float(rewards[0]), self._episodes.finished, False, info

    def render(self) -> np.ndarray | None:
        """Draw the batch of the last step, grey before the first step.  uint8 (h, w, 3)"""
        if self.render_mode is None:
            return None
        episodes = self._episodes
        decided = self._seeded and episodes.step_index > 0
        batch = episodes.batches[episodes.step_index - 1 if decided else 0]
        return framed_candidates(self.bank, batch, episodes.masks[0][batch] if decided else None)
