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
    """Monte-Carlo policy gradient: one step along ``∇ log π(a|s) · (G − b)`` for each rollout, which is then thrown away.

    ``G`` is the discounted return of the rest of the episode. The baseline ``b`` does not look at the action that it is subtracted for,
    so that the gradient stays unbiased: "moving_average" is that of the returns of earlier rollouts at the same step of the
    episode, "leave_one_out" (Kool et al. 2019) the mean return of the other environments at the same step of this rollout; a step
    that only one has a return of is left out. The policy's value is not used: its head is zero and stays so, as SB3 would add it to
    the last reward of an episode that a time limit cuts. Steps of episodes that do not end within the rollout have no return and are left out.

    :param policy: a policy class, e.g. :class:`~agents.TransformerPolicy`
    :param env: the environment
    :param learning_rate: of the optimizer, or a schedule
    :param n_steps: steps a rollout for each environment; a multiple of the episode's length wastes none
    :param gamma: discount
    :param baseline: one of :data:`BASELINES`
    :param baseline_decay: weight of the old average against the new rollout's
    :param ent_coef: weight of the entropy bonus; SB3 adds up the entropy of all decisions of an action
    :param normalize_advantage: divide ``G − b`` by its root mean square over the rollout
    :param max_grad_norm: gradients are clipped to this norm
    :param kwargs: as :class:`~stable_baselines3.PPO`'s: tensorboard_log, policy_kwargs, verbose, seed, device, stats_window_size
    :raises ValueError: when the baseline is unknown; on learning, when it needs more environments than there are
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
            policy, env, learning_rate, n_steps=n_steps, gamma=gamma, gae_lambda=1.0, ent_coef=ent_coef, vf_coef=0.0,
            max_grad_norm=max_grad_norm, use_sde=False, sde_sample_freq=-1, _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary), **kwargs,
        )  # fmt: skip
        self.baseline, self.baseline_decay, self.normalize_advantage = (
            baseline,
            baseline_decay,
            normalize_advantage,
        )
        self._average: dict[int, float] = {}  # step of the episode to return
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        with torch.no_grad():
            for parameter in self.policy.value_net.parameters():
                parameter.zero_()
        self._average = {
            int(step): value for step, value in self._average.items()
        }  # a saved model's are strings
        self._clock = np.zeros(self.n_envs, int)  # steps since each environment's episode began

    def train(self) -> None:
        """One gradient step on the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        buffer = self.rollout_buffer
        returns, complete = self._returns()
        baselines = self._baselines(returns, complete)
        if self.baseline == "leave_one_out":
            complete &= complete.sum(1, keepdims=True) > 1
        if not complete.any():
            two = (
                " in two environments at the same step" if self.baseline == "leave_one_out" else ""
            )
            raise ValueError(
                f"no episode ended within n_steps={self.n_steps}{two}, so there is no return to learn from; raise n_steps"
            )
        advantage = returns - baselines
        if self.normalize_advantage:
            advantage = advantage / (np.sqrt((advantage[complete] ** 2).mean()) + 1e-8)
        observations, actions, gain = (
            torch.as_tensor(values[complete], device=self.device)
            for values in (buffer.observations, buffer.actions.astype(np.float32), advantage)
        )
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        _, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        policy_loss = -(log_prob * gain).mean()
        entropy_loss = -log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/policy_gradient_loss", policy_loss.item())
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/loss", loss.item())
        self.logger.record(
            "train/baseline_explained_variance",
            explained_variance(baselines[complete], returns[complete]),
        )

    def _returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Discounted returns, and which steps' episodes ended within the rollout.  (steps, envs) each"""
        buffer = self.rollout_buffer
        ended = np.concatenate([buffer.episode_starts[1:], self._last_episode_starts[None]]).astype(
            bool
        )  # type: ignore[index]
        returns, complete = np.zeros_like(buffer.rewards), np.zeros(buffer.rewards.shape, bool)
        following, known = (
            np.zeros(buffer.n_envs, buffer.rewards.dtype),
            np.zeros(buffer.n_envs, bool),
        )
        for t in reversed(range(len(returns))):
            known |= ended[t]
            following = buffer.rewards[t] + self.gamma * np.where(ended[t], 0, following)
            returns[t], complete[t] = following, known
        return returns, complete

    def _baselines(self, returns: np.ndarray, complete: np.ndarray) -> np.ndarray:
        """What each return is compared with.  (steps, envs) -> (steps, envs)"""
        if self.baseline == "none":
            return np.zeros_like(returns)
        if self.baseline == "leave_one_out":
            others = np.maximum(complete.sum(1, keepdims=True) - 1, 1)
            total = np.where(complete, returns, 0).sum(1, keepdims=True)
            return (total - returns) / others
        starts = self.rollout_buffer.episode_starts.astype(bool)
        baselines = np.zeros_like(returns)
        clock, seen = self._clock, dict[int, list[float]]()
        for t in range(len(returns)):
            clock = np.where(starts[t], 0, clock)
            for env, step in enumerate(clock.tolist()):
                baselines[t, env] = self._average.get(step, 0.0)
                if complete[t, env]:
                    seen.setdefault(step, []).append(float(returns[t, env]))
            clock = clock + 1
        self._clock = clock
        for step, values in seen.items():
            mean = float(np.mean(values))
            old = self._average.get(step, mean)
            self._average[step] = self.baseline_decay * old + (1 - self.baseline_decay) * mean
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

        :raises ValueError: when the baseline needs more environments than there are
        """
        if self.baseline == "leave_one_out" and self.n_envs < 2:
            raise ValueError(
                "the leave-one-out baseline needs two environments or more; add some, or take baseline='moving_average'"
            )
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
