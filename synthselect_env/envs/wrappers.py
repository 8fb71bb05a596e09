"""The environment for algorithms that cannot answer 512 bits at once: a real number each, or one decision a step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def _check(env: gym.Env[Any, Any]) -> tuple[spaces.Box, int]:
    space = env.observation_space
    if (
        not isinstance(env.action_space, spaces.MultiBinary)
        or not isinstance(space, spaces.Box)
        or len(space.shape) != 2
    ):
        raise ValueError(
            f"a selection environment has Box(n, d) and MultiBinary(n); this one has {env.observation_space} and {env.action_space}"
        )
    return space, space.shape[0]


class BoxThresholdWrapper(gym.ActionWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """A candidate is kept where the action is above zero: ``Box(-1, 1, (n,))`` for SAC, TD3, TQC, CrossQ and their like.

    :param env: a selection environment
    :raises ValueError: when its spaces are not a selection environment's
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        super().__init__(env)
        _, n = _check(env)
        self.action_space = spaces.Box(-1.0, 1.0, (n,), np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Real numbers to bits.  (n,) -> int8 (n,)"""
        return (np.asarray(action) > 0).astype(np.int8)


class PerCandidateWrapper(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """One candidate a step, keep (1) or discard (0): ``Discrete(2)`` for DQN, QRDQN and their like.

    The observation is the candidate's row, and the share of the batch that has been decided and the share that was kept of it
    (the two things that a step changes). The reward of the batch is paid at its last candidate, zero before: an episode of 8 × 512
    decisions has 8 rewards that are not zero. Padding rows are passed over.

    :param env: a selection environment
    :raises ValueError: when its spaces are not a selection environment's
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        super().__init__(env)
        space, self._n = _check(env)
        low, high = (
            np.concatenate([bound[0], [edge, edge]]).astype(np.float32)
            for bound, edge in ((space.low, 0), (space.high, 1))
        )
        self.observation_space = spaces.Box(low, high)
        self.action_space = spaces.Discrete(2)
        self._batch: np.ndarray | None = None
        self._bits, self._position, self._size = np.zeros(self._n, np.int8), 0, 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode at the first candidate of the first batch."""
        batch, info = self.env.reset(seed=seed, options=options)
        self._begin(batch)
        return self._observe(), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one candidate.

        :raises gymnasium.error.ResetNeeded: before the first reset and after the last candidate
        """
        if self._batch is None:
            raise gym.error.ResetNeeded(
                "the episode is over (or has not begun): call reset() before step()"
            )
        self._bits[self._position] = int(action)
        self._position += 1
        if self._position < self._size:
            return self._observe(), 0.0, False, False, {}
        batch, reward, terminated, truncated, info = self.env.step(self._bits)
        if terminated or truncated:
            self._position = self._size - 1
            last = self._observe()
            self._batch = None
            return last, float(reward), terminated, truncated, info
        self._begin(batch)
        return self._observe(), float(reward), False, False, info

    def action_masks(self) -> np.ndarray:
        """Either may be done with any candidate; padding is passed over.  bool (2,)"""
        return np.ones(2, bool)

    def _begin(self, batch: np.ndarray) -> None:
        self._batch, self._bits, self._position = batch, np.zeros(self._n, np.int8), 0
        may_be_kept = self.env.get_wrapper_attr("action_masks")().reshape(self._n, 2)[:, 1]
        self._size = max(int(may_be_kept.sum()), 1)  # padding rows stand at the end

    def _observe(self) -> np.ndarray:
        assert self._batch is not None
        decided = self._bits[: self._position]
        shares = [self._position / self._size, decided.mean() if len(decided) else 0.0]
        return np.concatenate([self._batch[self._position], shares]).astype(np.float32)
