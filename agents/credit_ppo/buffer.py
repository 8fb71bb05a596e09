"""Rollouts of CreditPPO, with a credit per decision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from synthselect_env import SelectionVecEnv


class CreditRolloutBuffer(RolloutBuffer):
    """Rollout buffer with a credit for each decision: ``credits`` (steps, envs, n).

    A decision's credit is the derivative of the return from its step on.
    """

    credit_source: VecEnv | None = None
    """Environment that is asked for credit after each step. None keeps zeros."""

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, self.action_dim)
        self.credits = np.zeros(shape, np.float32)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step, and credit the episode's decisions so far.

        Each decision gets its part in the step's reward, discounted by its age.
        """
        if self.credit_source is not None:
            step_credit = _credit_of(self.credit_source)
            # An episode may have begun in the rollout before.
            n_credited = min(step_credit.shape[1], self.pos + 1)
            for age in range(n_credited):
                self.credits[self.pos - age] += self.gamma**age * step_credit[:, -1 - age]
        super().add(*args, **kwargs)


def _credit_of(env: VecEnv) -> np.ndarray:
    """Return the credits of all environments.  (envs, steps of the episode so far, n)"""
    if isinstance(env, SelectionVecEnv):
        return env.credit()  # one evaluation for all environments
    return np.stack(env.env_method("credit"))


class CreditRollout(NamedTuple):
    """A rollout, or a minibatch of it, on the training device.

    The leading shape of a rollout is (steps, envs), that of a minibatch (b,).
    """

    observations: torch.Tensor
    """Candidates' rows (…, n, d)."""
    actions: torch.Tensor
    """Decisions, 0 or 1 (…, n)."""
    mask: torch.Tensor
    """False in padding rows, whose decisions change nothing. bool (…, n)."""
    returns: torch.Tensor
    """Discounted rewards (…,)."""
    old_log_prob: torch.Tensor
    """Log-probabilities of the decisions under the old policy (…, n)."""
    advantages: torch.Tensor
    """Advantages of the actions (…, 1) or of the decisions (…, n)."""
    expected_weight: torch.Tensor | None
    """Weights of the control variate's expectation (…, n), or None."""

    def minibatch(self, t: np.ndarray, e: np.ndarray) -> CreditRollout:
        """Return the steps t of environments e.  (b,), (b,)"""
        values = (None if value is None else value[t, e] for value in self)
        return CreditRollout(*values)  # type: ignore[arg-type]
