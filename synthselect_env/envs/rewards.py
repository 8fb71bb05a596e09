"""Rewards: from validation metrics to one number per step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from synthselect_env.evaluators import Evaluations
from synthselect_env.metrics import METRICS, more_is_better

REFERENCES = (None, "empty", "previous")


@dataclass(frozen=True)
class Reward:
    """Definition of a reward.

    A dictionary of parameters starts from the values below, whose scale is 1, not from the default
    reward.

    .. code-block:: python

        env = gym.make("SynthSelect-Toy-v0", reward=Reward("accuracy", reference="empty"))

    :param metric: one of :data:`~synthselect_env.metrics.METRICS`. The sign of the Brier score is
        changed, so that more is better
    :param window: number of last epochs of which the best counts, of those that the evaluator
        keeps. The evaluator "resnet34" keeps five, others one
    :param reference: value that is subtracted. "empty" is that of the classifier without
        candidates. "previous" is that of the step before, so that the rewards of an episode add up
        to its gain over "empty". None subtracts nothing
    :param smoothing: α of the paper's moving average ``r̂ = α r̂ + (1 - α) r``, which runs on across
        episodes. 0 for no smoothing
    :param scale: factor on the result, which brings returns to the order of one
    :raises ValueError: if a value is unknown or out of range
    """

    metric: str = "log_likelihood"
    window: int = 1
    reference: str | None = "previous"
    smoothing: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; one of {', '.join(METRICS)}")
        if self.reference not in REFERENCES:
            raise ValueError(
                f"unknown reference {self.reference!r}; one of {', '.join(map(repr, REFERENCES))}"
            )
        if self.window < 1 or not 0 <= self.smoothing < 1:
            raise ValueError(
                f"window must be at least 1 and smoothing in [0, 1), "
                f"got {self.window} and {self.smoothing}"
            )

    def value(self, evaluations: Evaluations) -> np.ndarray:
        """Return the metric of k evaluations, the best of the last ``window`` epochs.  (k,)"""
        values = more_is_better(self.metric, evaluations.epochs[self.metric])  # (k, epochs)
        return values[:, -self.window :].max(1)


REWARDS: dict[str, Reward] = {
    "paper": Reward(metric="accuracy", window=5, reference=None, smoothing=0.8),
    "log_likelihood_gain": Reward(metric="log_likelihood", reference="previous", scale=100.0),
    "log_likelihood_delta": Reward(metric="log_likelihood", reference="empty", scale=100.0),
}
"""Rewards by name. ``paper`` is the best validation accuracy of the last five epochs, as a moving
average with α = 0.8 (Ye, Xue et al., 2020). The others are gains in validation log-likelihood, over
the step before and over no candidates."""

DEFAULT_REWARD = "log_likelihood_gain"


def resolve_reward(reward: str | Reward | dict[str, object]) -> Reward:
    """Return a reward from any form that a user may give it in.

    :param reward: name in :data:`REWARDS`, a :class:`Reward`, or a dictionary of its parameters
    :raises ValueError: if the name or a parameter is unknown
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, dict):
        known = Reward.__dataclass_fields__
        unknown = sorted(set(reward) - set(known))
        if unknown:
            raise ValueError(
                f"unknown reward parameter {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return replace(Reward(), **reward)  # type: ignore[arg-type]
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}; one of {', '.join(REWARDS)}, or a Reward")
    return REWARDS[reward]


class RewardTracker:
    """State of a :class:`Reward`: the previous value, and the moving average.

    :param reward: definition of the reward
    :param empty: evaluation of the classifier without candidates (k = 1)
    :param n: number of episodes side by side, each with its own state
    """

    def __init__(self, reward: Reward, empty: Evaluations, n: int) -> None:
        self.reward = reward
        self.n = n
        self._average: np.ndarray | None = None
        self.restart(empty)

    def restart(self, empty: Evaluations) -> None:
        """Begin new episodes; the moving average runs on."""
        self._empty = np.repeat(self.reward.value(empty), self.n)
        self._previous = self._empty

    def __call__(self, evaluations: Evaluations) -> np.ndarray:
        """Return the rewards of one step.  float64 (n,)"""
        value = self.reward.value(evaluations)
        reference = {None: 0.0, "empty": self._empty, "previous": self._previous}
        reward = self.reward.scale * (value - reference[self.reward.reference])
        self._previous = value
        alpha = self.reward.smoothing
        if not alpha:
            return reward
        # The first reward starts the average. Zero would make the early ones measure the start.
        if self._average is None:
            self._average = reward
        else:
            self._average = alpha * self._average + (1 - alpha) * reward
        return self._average
