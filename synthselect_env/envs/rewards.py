"""Evaluation to scalar: which figure, of which epochs, against what, smoothed how."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from synthselect_env.evaluators import Evaluations
from synthselect_env.metrics import METRICS, better

BASELINES = ("zero", "none", "previous")


@dataclass(frozen=True)
class Reward:
    """How an evaluation becomes a reward.

    :param metric: one of :data:`~synthselect_env.metrics.METRICS`; the Brier score counts negative, so that more is better
    :param window: the best of this many last epochs, as far as an evaluator keeps them: a retraining five, all others the last;
        1 for the last
    :param baseline: "zero" for the figure itself; "none" to subtract that of the classifier without candidates;
        "previous" to subtract that of the step before, so that an episode's rewards add up to its gain over none
    :param smoothing: α of the paper's moving average, ``r̂ = α r̂ + (1 - α) r``, kept across episodes; 0 for no smoothing
    :param scale: factor on the result, so that returns are of the order of one
    :raises ValueError: when a value is unknown or out of range
    """

    metric: str = "log_likelihood"
    window: int = 1
    baseline: str = "previous"
    smoothing: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; one of {', '.join(METRICS)}")
        if self.baseline not in BASELINES:
            raise ValueError(f"unknown baseline {self.baseline!r}; one of {', '.join(BASELINES)}")
        if self.window < 1 or not 0 <= self.smoothing < 1:
            raise ValueError(f"window must be at least 1 and smoothing in [0, 1), got {self.window} and {self.smoothing}")

    def figure(self, evaluations: Evaluations) -> np.ndarray:
        """The metric, more is better: the best of the last ``window`` epochs.  (k,)"""
        values = better(self.metric, evaluations.epochs[self.metric])
        return values[:, -self.window :].max(1)


REWARDS: dict[str, Reward] = {
    "paper": Reward(metric="accuracy", window=5, baseline="zero", smoothing=0.8),
    "log_likelihood_gain": Reward(metric="log_likelihood", baseline="previous", scale=100.0),
    "log_likelihood_delta": Reward(metric="log_likelihood", baseline="none", scale=100.0),
}
"""Rewards by name.  ``paper``: the best validation accuracy of the last five epochs, moving average with α = 0.8."""

DEFAULT_REWARD = "log_likelihood_gain"


def resolve_reward(reward: str | Reward | dict[str, object]) -> Reward:
    """A reward from what a user may give for one.

    :param reward: a key of :data:`REWARDS`, a :class:`Reward`, or a dictionary of its parameters
    :raises ValueError: when the name or a parameter is unknown
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, dict):
        unknown = sorted(set(reward) - set(Reward.__dataclass_fields__))
        if unknown:
            raise ValueError(f"unknown reward parameter {', '.join(unknown)}; there are {', '.join(Reward.__dataclass_fields__)}")
        return replace(Reward(), **reward)  # type: ignore[arg-type]
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}; one of {', '.join(REWARDS)}, or a Reward")
    return REWARDS[reward]


class RewardTracker:
    """The state that a :class:`Reward` needs along an episode (the previous figure) and across episodes (the average).

    :param reward: how to reward
    :param none: evaluation of the classifier without candidates (k = 1)
    :param n: episodes that run side by side, each with its own state
    """

    def __init__(self, reward: Reward, none: Evaluations, n: int) -> None:
        self.reward = reward
        self.n = n
        self._average: np.ndarray | None = None
        self.restart(none)

    def restart(self, none: Evaluations) -> None:
        """Begin new episodes; the moving average goes on."""
        self._none = np.repeat(self.reward.figure(none), self.n)
        self._previous = self._none

    def __call__(self, evaluations: Evaluations) -> np.ndarray:
        """The rewards of one step.  float64 (n,)"""
        figure = self.reward.figure(evaluations)
        value = self.reward.scale * (figure - {"zero": 0.0, "none": self._none, "previous": self._previous}[self.reward.baseline])
        self._previous = figure
        if self.reward.smoothing:
            # the first reward starts the average: from zero, the early rewards would measure the start, not the selection
            a = self.reward.smoothing
            self._average = value if self._average is None else a * self._average + (1 - a) * value
            return self._average
        return value
