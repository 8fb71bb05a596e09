"""REINFORCE (Williams 1992), the paper's ablation of PPO."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance

BASELINES = ("none", "moving_average", "leave_one_out")

Self = TypeVar("Self", bound="REINFORCE")


class REINFORCE(OnPolicyAlgorithm):
    """Monte-Carlo policy gradient, with one step per rollout.

    The step is along ``∇ log π(a|s) · (G − b)``. ``G`` is the discounted return of the rest of the
    episode. The baseline ``b`` does not depend on the action that it is subtracted for, so the
    gradient stays unbiased. There are three:

    * "none": zero.
    * "moving_average": average return of earlier rollouts at the same step of the episode.
    * "leave_one_out" (Kool et al. 2019): mean return of the other environments at the same step of
      this rollout. A step with only one return is left out.

    Steps of an episode that does not end within the rollout have no return, and are left out.

    The policy's value is not used. Its head is zero and stays so, because SB3 would add the value
    to the last reward of an episode that a time limit cuts.

    .. code-block:: python

        env = SelectionVecEnv("toy", n_envs=16)
        model = REINFORCE(TransformerPolicy, env, gamma=0.0).learn(1024)

    :param policy: policy class, e.g. :class:`~agents.TransformerPolicy`
    :param env: environment
    :param learning_rate: learning rate of the optimizer, or a schedule
    :param n_steps: steps of a rollout per environment. A multiple of the episode's length wastes
        none
    :param gamma: discount factor
    :param baseline: one of :data:`BASELINES`
    :param baseline_decay: weight of the old average against the new rollout's
    :param ent_coef: weight of the entropy bonus. SB3 adds up the entropy of an action's decisions
    :param normalize_advantage: whether to divide ``G − b`` by its root mean square over the rollout
    :param max_grad_norm: norm to which gradients are clipped
    :param kwargs: arguments of :class:`~stable_baselines3.PPO`: tensorboard_log, policy_kwargs,
        verbose, seed, device, stats_window_size
    :raises ValueError: if the baseline is unknown or its decay out of range; on learning, if it
        needs more environments than there are
    """

    policy_aliases = {name: PPO.policy_aliases[name] for name in ("MlpPolicy", "CnnPolicy")}

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 8,
        gamma: float = 0.99,
        baseline: str = "leave_one_out",
        baseline_decay: float = 0.8,
        ent_coef: float = 0.0,
        normalize_advantage: bool = True,
        max_grad_norm: float = 0.5,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}; one of {', '.join(BASELINES)}")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"baseline_decay must be at least 0 and below 1, got {baseline_decay}")
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            supported_action_spaces=(
                spaces.Box,
                spaces.Discrete,
                spaces.MultiDiscrete,
                spaces.MultiBinary,
            ),
            _init_setup_model=False,
            **kwargs,
        )
        self.baseline = baseline
        self.baseline_decay = baseline_decay
        self.normalize_advantage = normalize_advantage
        self._average: dict[int, float] = {}  # step of the episode to mean return
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        with torch.no_grad():
            for parameter in self.policy.value_net.parameters():
                parameter.zero_()
        # A saved model's steps are strings.
        self._average = {int(step): value for step, value in self._average.items()}
        self._clock = np.zeros(self.n_envs, int)  # steps since each environment's episode began

    def train(self) -> None:
        """Take one gradient step on the rollout.

        :raises ValueError: if no step of the rollout can be learnt from
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)

        # Advantages of the steps whose episode has ended
        returns, complete = self._returns()
        baselines = self._baselines(returns, complete)
        if self.baseline == "leave_one_out":
            complete &= complete.sum(1, keepdims=True) > 1
        self._check_any(complete)
        advantages = returns - baselines
        if self.normalize_advantage:
            rms = np.sqrt((advantages[complete] ** 2).mean())
            advantages = advantages / (rms + 1e-8)

        # Log-probabilities of the actions, and the loss
        buffer = self.rollout_buffer
        actions = self._tensor(buffer.actions[complete].astype(np.float32))
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        observations = self._tensor(buffer.observations[complete])
        _, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        policy_loss = -(log_prob * self._tensor(advantages[complete])).mean()
        entropy_loss = -log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss

        # One step of the optimizer
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1

        # Metrics of the update
        explained = explained_variance(baselines[complete], returns[complete])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/policy_gradient_loss", policy_loss.item())
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/loss", loss.item())
        self.logger.record("train/baseline_explained_variance", explained)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, device=self.device)

    def _check_any(self, complete: np.ndarray) -> None:
        """Raise an error if no step has a return to learn from."""
        if complete.any():
            return
        where = ""
        if self.baseline == "leave_one_out":
            where = " in two environments at the same step"
        raise ValueError(
            f"no episode ended within n_steps={self.n_steps}{where}, "
            "so there is no return to learn from; raise n_steps"
        )

    def _returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return discounted returns, and a mask of the steps whose episode has ended.

        :return: (steps, envs) and bool (steps, envs)
        """
        buffer = self.rollout_buffer
        next_starts = [*buffer.episode_starts[1:], self._last_episode_starts]
        ended = np.array(next_starts).astype(bool)  # (steps, envs)
        returns = np.zeros_like(buffer.rewards)
        complete = np.zeros(buffer.rewards.shape, bool)
        following = np.zeros(buffer.n_envs, buffer.rewards.dtype)
        known = np.zeros(buffer.n_envs, bool)
        for t in reversed(range(len(returns))):
            known |= ended[t]
            following = buffer.rewards[t] + self.gamma * np.where(ended[t], 0, following)
            returns[t] = following
            complete[t] = known
        return returns, complete

    def _baselines(self, returns: np.ndarray, complete: np.ndarray) -> np.ndarray:
        """Return the baseline of each return.

        :param returns: (steps, envs)
        :param complete: mask of the steps that have a return, bool (steps, envs)
        :return: (steps, envs)
        """
        if self.baseline == "none":
            return np.zeros_like(returns)
        if self.baseline == "leave_one_out":
            others = np.maximum(complete.sum(1, keepdims=True) - 1, 1)
            total = np.where(complete, returns, 0).sum(1, keepdims=True)
            return (total - returns) / others
        steps = self._episode_steps()
        return self._moving_average(returns, complete, steps)

    def _episode_steps(self) -> np.ndarray:
        """Return the step of its episode of each step of the rollout.  int (steps, envs)"""
        starts = self.rollout_buffer.episode_starts.astype(bool)
        steps = np.zeros(starts.shape, int)
        clock = self._clock
        for t in range(len(starts)):
            clock = np.where(starts[t], 0, clock)
            steps[t] = clock
            clock = clock + 1
        self._clock = clock
        return steps

    def _moving_average(
        self, returns: np.ndarray, complete: np.ndarray, steps: np.ndarray
    ) -> np.ndarray:
        """Return the averages of earlier rollouts, then add this one to them."""
        baselines = np.zeros_like(returns)
        for step in np.unique(steps).tolist():
            baselines[steps == step] = self._average.get(step, 0.0)
            seen = returns[(steps == step) & complete]
            if len(seen):
                mean = float(seen.astype(np.float64).mean())
                old = self._average.get(step, mean)
                decay = self.baseline_decay
                self._average[step] = decay * old + (1 - decay) * mean
        return baselines

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "REINFORCE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn, as :meth:`stable_baselines3.PPO.learn` does.

        :raises ValueError: if the baseline needs more environments than there are
        """
        if self.baseline == "leave_one_out" and self.n_envs < 2:
            raise ValueError(
                "the leave-one-out baseline needs two environments or more; "
                "add some, or take baseline='moving_average'"
            )
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
