"""Wrappers for algorithms without multi-binary actions: a real number or a step per candidate."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

AnySelectionEnv = gym.Env[np.ndarray, np.ndarray]
"""Environment whose observations are rows of candidates, and whose actions are decisions."""


def _selection_space(env: AnySelectionEnv) -> spaces.Box:
    """Return the observation space of a selection environment.

    :raises ValueError: if the spaces are not a selection environment's
    """
    space = env.observation_space
    is_table = isinstance(space, spaces.Box) and len(space.shape) == 2
    is_binary = isinstance(env.action_space, spaces.MultiBinary)
    if not (is_table and is_binary):
        raise ValueError(
            "a selection environment has Box(n, d) and MultiBinary(n); "
            f"this one has {space} and {env.action_space}"
        )
    return cast(spaces.Box, space)


class BoxThresholdWrapper(gym.ActionWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Keep a candidate if its action is above zero: ``Box(-1, 1, (n,))``.

    For algorithms with continuous actions, such as SAC, TD3, TQC and CrossQ.

    .. code-block:: python

        env = BoxThresholdWrapper(gym.make("SynthSelect-Toy-v0"))
        model = SAC("MlpPolicy", env, buffer_size=512).learn(512)

    :param env: selection environment
    :raises ValueError: if the spaces are not a selection environment's
    """

    def __init__(self, env: AnySelectionEnv) -> None:
        super().__init__(env)
        n, _ = _selection_space(env).shape
        self.action_space = spaces.Box(-1.0, 1.0, (n,), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Turn real numbers into decisions.  (n,) -> int8 (n,)"""
        return (np.asarray(action) > 0).astype(np.int8)


class PerCandidateWrapper(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """Decide one candidate per step, keep (1) or discard (0): ``Discrete(2)``.

    For algorithms with discrete actions, such as DQN and QRDQN.

    The observation is the candidate's row and two shares of its batch: the candidates decided so
    far, and those kept among them. The reward of a batch comes with its last candidate, and is zero
    before. Padding rows are skipped.

    .. code-block:: python

        env = PerCandidateWrapper(gym.make("SynthSelect-Toy-v0"))
        model = DQN("MlpPolicy", env, buffer_size=4096).learn(1024)

    :param env: selection environment
    :raises ValueError: if the spaces are not a selection environment's
    """

    def __init__(self, env: AnySelectionEnv) -> None:
        super().__init__(env)
        space = _selection_space(env)
        low = np.append(space.low[0], np.zeros(2, np.float32))
        high = np.append(space.high[0], np.ones(2, np.float32))
        self.observation_space = spaces.Box(low, high)
        self.action_space = spaces.Discrete(2)
        self._rows = space.shape[0]
        self._batch: np.ndarray | None = None
        self._bits = np.zeros(self._rows, np.int8)
        self._position = 0
        self._batch_size = 1

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode at the first candidate of the first batch."""
        batch, info = self.env.reset(seed=seed, options=options)
        self._begin(batch)
        return self._observe(), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one candidate, and show the next one.

        :raises gymnasium.error.ResetNeeded: before the first reset and after the last candidate
        """
        if self._batch is None:
            raise gym.error.ResetNeeded(
                "the episode is over (or has not begun): call reset() before step()"
            )
        self._bits[self._position] = int(action)
        self._position += 1
        if self._position < self._batch_size:
            return self._observe(), 0.0, False, False, {}

        # The batch is complete: its decisions are one action of the environment
        batch, reward, terminated, truncated, info = self.env.step(self._bits)
        is_over = terminated or truncated
        if is_over:
            self._position = self._batch_size - 1
        else:
            self._begin(batch)
        observation = self._observe()
        if is_over:
            self._batch = None
        return observation, float(reward), terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Return MaskablePPO's action mask: both decisions are always allowed.  bool (2,)"""
        return np.ones(2, bool)

    def _begin(self, batch: np.ndarray) -> None:
        self._batch = batch
        self._bits = np.zeros(self._rows, np.int8)
        self._position = 0
        action_masks = self.env.get_wrapper_attr("action_masks")
        masks = action_masks().reshape(self._rows, 2)
        is_candidate = masks[:, 1]  # padding rows come last and cannot be kept
        self._batch_size = max(int(is_candidate.sum()), 1)

    def _observe(self) -> np.ndarray:
        assert self._batch is not None
        decided = self._bits[: self._position]
        decided_share = self._position / self._batch_size
        kept_share = decided.mean() if len(decided) else 0.0
        row = self._batch[self._position]
        observation = np.append(row, [decided_share, kept_share])
        return observation.astype(np.float32)
