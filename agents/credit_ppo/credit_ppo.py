"""CreditPPO: proximal policy optimisation with a credit for each decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from agents.credit_ppo.critic import RidgeCritic
from agents.policies import SelectionPolicy, refuse_normalised
from synthselect_env import FeatureBank, SelectionVecEnv

CREDITS = ("none", "control_variate", "advantage")
RATIOS = ("joint", "per_candidate")

Self = TypeVar("Self", bound="CreditPPO")


class CreditRolloutBuffer(RolloutBuffer):
    """A rollout buffer that also keeps what each decision is worth: the derivative of the return from its step on.  (steps, envs, n)"""

    env: VecEnv | None = None
    """Whom to ask after each step; None keeps zeros."""

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        self.credits = np.zeros((self.buffer_size, self.n_envs, self.action_dim), np.float32)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Keep a step, and credit its decisions, and those of the steps before it in the episode, with their part in its reward."""
        if self.env is not None:
            # the environments of a SelectionVecEnv share their evaluator, and are asked once
            asked = self.env.credit() if isinstance(self.env, SelectionVecEnv) else np.stack(self.env.env_method("credit"))
            for age in range(min(asked.shape[1], self.pos + 1)):  # an episode may have begun in the rollout before
                self.credits[self.pos - age] += self.gamma**age * asked[:, -1 - age]
        super().add(*args, **kwargs)


class CreditPPO(PPO):
    """PPO (Schulman et al. 2017) for hundreds of decisions a step, told what each of them was worth.

    An action has one reward for 512 decisions. Where the evaluator is differentiable, ``c_i``, the derivative of the return (the
    rewards from this step on, discounted by ``gamma``) by candidate i's weight in the training set, says how it came about. It is used in
    one of three ways:

    * "advantage": decision i has the advantage ``c_i (a_i − p_i)``, where ``p_i`` is the probability with which it was kept, and
      ``c`` the mean over the selections that were drawn from the batch. First order in what a candidate does to the reward, and
      almost free of noise.
    * "control_variate": the action's advantage is ``A − β Σ c_i (a_i − p_i)``, and the expectation that this takes away,
      ``β Σ c_i ∇p_i``, is added in closed form. ``c`` is the mean over the *other* selections, and β the regression coefficient of
      earlier rollouts, so that neither depends on the action: the gradient keeps its expectation and loses variance.
    * "none": the reward alone.

    Where there is no such derivative (full retraining, a reward that is not a log-likelihood or is smoothed), a :class:`RidgeCritic` on
    (selection, return) pairs estimates it. The expectation is kept exactly at the first update of a rollout, after which the ratio is clipped as in PPO.

    The ratio of new to old policy is that of the whole action ("joint", as in PPO), or
    one for each decision, clipped each by itself ("per_candidate"). Without credit as advantage, returns are compared within the group of
    selections that were drawn from the same batch (leave-one-out mean), and not with a learned value.

    :param policy: a policy over a controller, e.g. :class:`~agents.TransformerPolicy`
    :param env: the environment, best a :class:`~synthselect_env.SelectionVecEnv`
    :param learning_rate: of the optimizer, or a schedule
    :param n_steps: steps a rollout for each environment
    :param batch_size: actions an update
    :param n_epochs: passes over a rollout
    :param gamma: discount. With 1, and rewards that are each step's gain, a decision is worth what it does to the final selection; with 0,
        what it did to that of its step. For the credit as advantage, 1 finds a better predicted reward and 0 a better order of the
        candidates, and retrained they are level; without, take 0: the noise of later steps costs more than it tells
        (benchmarks/learning.py)
    :param clip_range: of the ratio
    :param credit: one of :data:`CREDITS`
    :param ratio: one of :data:`RATIOS`
    :param group_baseline: compare within the group; False for PPO's generalised advantage estimate by the value head
    :param budget: share of the candidates that should be kept on average; the squared deviation is added to the loss, times
        ``budget_weight``; None for no budget
    :param budget_weight: see ``budget``
    :param kwargs: as PPO's, without target_kl, clip_range_vf and normalize_advantage; gae_lambda and vf_coef only without
        ``group_baseline``. ``ent_coef`` weighs the entropy of a decision, where PPO's weighs that of all of an action's together
    :raises ValueError: when an argument is unknown, out of range or without effect, or the policy is another kind; on learning, when
        there is one environment alone and a group, a critic or a control variate needs several, or VecNormalize changes the observations
    """

    def __init__(
        self,
        policy: type[SelectionPolicy] | str,
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 8,
        batch_size: int = 32,
        n_epochs: int = 10,
        gamma: float = 1.0,
        clip_range: float | Schedule = 0.2,
        credit: str = "advantage",
        ratio: str = "per_candidate",
        group_baseline: bool = True,
        budget: float | None = None,
        budget_weight: float = 10.0,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (("credit", credit, CREDITS), ("ratio", ratio, RATIOS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; one of {', '.join(known)}")
        if budget is not None and not 0 <= budget <= 1:
            raise ValueError(f"budget must lie between 0 and 1, got {budget}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if unused := sorted({"target_kl", "clip_range_vf", "normalize_advantage"} & set(kwargs)):
            raise ValueError(f"CreditPPO has no {', '.join(unused)}; PPO has")
        if group_baseline:
            if unused := sorted({"gae_lambda", "vf_coef"} & set(kwargs)):
                raise ValueError(f"{', '.join(unused)} is about a learned value, which group_baseline=True does without")
            kwargs["gae_lambda"] = 1.0  # the return itself, which no value stands in for
        super().__init__(
            policy, env, learning_rate, n_steps, n_steps, n_epochs, gamma, clip_range=clip_range, normalize_advantage=False,
            rollout_buffer_class=CreditRolloutBuffer, _init_setup_model=False, **kwargs,
        )  # fmt: skip
        self.batch_size = batch_size  # set here: PPO would warn of rollouts that it does not divide, which it may here
        self.credit, self.ratio, self.group_baseline = credit, ratio, group_baseline
        self.budget, self.budget_weight = budget, budget_weight
        self._sums = np.zeros(2)  # of h · gain and h · h over earlier rollouts, for β
        self._critic: RidgeCritic | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._refuse_removed_options()
        super()._setup_model()
        if not isinstance(self.policy, SelectionPolicy):
            raise ValueError(f"CreditPPO trains policies over a controller (TransformerPolicy, …), not {type(self.policy).__name__}")

    def _refuse_removed_options(self) -> None:
        """Drop what a model saved by an earlier version holds too much, where it had no effect."""
        if self.ratio not in RATIOS:
            raise ValueError(
                f"the saved model has ratio={self.ratio!r}, which CreditPPO no longer has; "
                f"to go on with another, load it with ratio= one of {', '.join(RATIOS)}"
            )
        options = vars(self)
        if target_entropy := options.get("target_entropy", 0):
            raise ValueError(
                f"the saved model has target_entropy={target_entropy}, which CreditPPO no longer has; "
                "to go on without, load it with target_entropy=0"
            )
        for name in ("target_entropy", "entropy_weight"):
            options.pop(name, None)

    def _ask(self) -> None:
        """Let the buffer ask the environment for credit, or make a critic where there is none to ask for."""
        assert self.env is not None and isinstance(self.rollout_buffer, CreditRolloutBuffer)
        refuse_normalised(self)
        base = self.env.unwrapped
        exact = self.credit != "none" and base.get_attr("has_credit")[0]
        self.rollout_buffer.env = base if exact else None
        if self.credit == "none" or exact:
            self._critic = None
        elif self._critic is None:
            self._critic = RidgeCritic()
        grouped = self.group_baseline and self.credit != "advantage"
        if self.n_envs < 2 and (grouped or self._critic is not None or self.credit == "control_variate"):
            raise ValueError(
                "one selection has no group to be compared with: take two environments or more, e.g. SelectionVecEnv(bank, 16)"
            )

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "CreditPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn, as :meth:`stable_baselines3.PPO.learn` does."""
        self._ask()
        try:
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            self.rollout_buffer.env = None  # type: ignore[attr-defined]  # an environment is not saved with the model

    def train(self) -> None:
        """Several passes over the rollout."""
        policy, buffer, device = self.policy, self.rollout_buffer, self.device
        assert isinstance(policy, SelectionPolicy) and isinstance(buffer, CreditRolloutBuffer)
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        clip_range: float = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]

        steps, envs = buffer.rewards.shape
        with torch.no_grad():
            observations = torch.as_tensor(buffer.observations, device=device)  # moved once for all passes
            before = torch.stack([policy.decide(rows)[0] for rows in observations])  # (t, e, n)
        bits = torch.as_tensor(buffer.actions, device=device, dtype=torch.float32)
        kept = before.sigmoid()
        real = observations.any(-1)  # a padding row's bit changes nothing
        old = _log_probability(before, bits)
        relative = buffer.returns - mean_of_others(buffer.returns) if self.group_baseline else buffer.advantages - buffer.advantages.mean()
        gain = torch.as_tensor(relative, device=device)
        worth = self._worth()
        own: torch.Tensor | None = None  # advantage of each decision
        expected: torch.Tensor | None = None  # what the control variate takes away
        if worth is not None and self.credit == "advantage":
            shared = torch.as_tensor(np.broadcast_to(worth.mean(1, keepdims=True), worth.shape).copy(), device=device)
            own = shared * (bits - kept) * real
            own = own / _size(own)
        elif worth is not None:
            others = torch.as_tensor(mean_of_others(worth), device=device) * real
            beta = self._coefficient((others * (bits - kept)).sum(2), gain)
            gain, expected = control_variate(gain, others, bits, kept, beta)
            expected = expected / _size(gain)
            self.logger.record("train/control_variate_coefficient", beta)
        gain = gain / _size(gain)

        losses: dict[str, list[torch.Tensor]] = {}  # read at the end: a GPU need not be waited for
        for _ in range(self.n_epochs):
            for t, e in self._minibatches(steps, envs):
                logits, values = policy.decide(observations[t, e])
                mask = real[t, e]
                log_ratio = (_log_probability(logits, bits[t, e]) - old[t, e]) * mask  # (b, n)
                n = mask.sum(1)
                if self.ratio == "per_candidate":
                    advantage = gain[t, e][:, None].expand_as(log_ratio) if own is None else own[t, e]
                    ratio, weight = log_ratio.exp(), mask / n[:, None]
                else:
                    total = log_ratio.sum(1)
                    advantage = (gain[t, e] if own is None else own[t, e].sum(1))[:, None]
                    ratio, weight = total.exp()[:, None], torch.ones_like(total)[:, None]
                clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
                policy_loss = -(torch.min(ratio * advantage, clipped * advantage) * weight).sum(1).mean()
                p = logits.sigmoid()
                if expected is not None:
                    analytic = (expected[t, e] * p).sum(1)
                    policy_loss = policy_loss - (analytic / (1 if self.ratio == "joint" else n)).mean()
                entropy = ((F.binary_cross_entropy_with_logits(logits, p, reduction="none") * mask).sum(1) / n).mean()
                rate = (p * mask).sum() / mask.sum()
                loss = policy_loss - self.ent_coef * entropy
                if self.budget is not None:
                    loss = loss + self.budget_weight * (rate - self.budget) ** 2
                if not self.group_baseline:
                    value_loss = F.mse_loss(values[:, 0], torch.as_tensor(buffer.returns[t, e], device=device))
                    loss = loss + self.vf_coef * value_loss
                    losses.setdefault("value_loss", []).append(value_loss.detach())
                policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), self.max_grad_norm)
                policy.optimizer.step()
                with torch.no_grad():
                    figures = {
                        "policy_gradient_loss": policy_loss, "entropy_of_a_decision": entropy, "selection_rate": rate, "loss": loss,
                        "clip_fraction": (((ratio - 1).abs() > clip_range) * weight).sum(1).mean(),
                        "approx_kl": ((log_ratio.exp() - 1 - log_ratio) * mask).sum(1).mean(),
                    }  # fmt: skip
                for name, value in figures.items():
                    losses.setdefault(name, []).append(value.detach())
            self._n_updates += 1
        for name, recorded in losses.items():
            self.logger.record(f"train/{name}", float(np.mean([value.item() for value in recorded])))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)

    def _worth(self) -> np.ndarray | None:
        """Credit of each decision of the rollout.  (steps, envs, n)"""
        buffer = self.rollout_buffer
        assert isinstance(buffer, CreditRolloutBuffer)
        if self._critic is not None:
            rows = self._by_class(buffer.observations[:, 0])  # the environments show the same batch
            earlier = self._critic.credit(rows)[:, None]  # knows nothing of this rollout, as a control variate must
            self._critic.update(rows, buffer.actions, buffer.returns)
            estimated = earlier if self.credit == "control_variate" else self._critic.credit(rows)[:, None]
            return np.broadcast_to(estimated, buffer.credits.shape).astype(np.float32)
        return buffer.credits if self.credit != "none" else None

    def _by_class(self, rows: np.ndarray) -> np.ndarray:
        """A row's numbers in columns of their own for each class: a feature speaks for one class and against another.  (t, n, c · d)"""
        assert self.env is not None
        bank: FeatureBank = self.env.unwrapped.get_attr("bank")[0]
        n_classes = len(bank.classes)
        if rows.shape[2] == bank.n_features:
            return rows  # without context, nothing says which class a candidate is of
        classes = rows[..., bank.n_features : bank.n_features + n_classes]
        return (classes[..., :, None] * rows[..., None, :]).reshape(*rows.shape[:2], -1)

    def _coefficient(self, h: torch.Tensor, gain: torch.Tensor) -> float:
        """β of the rollouts before this one, which is then counted in."""
        beta = float(self._sums[0] / self._sums[1]) if self._sums[1] > 0 else 0.0
        self._sums = 0.5 * self._sums + np.array([(h * gain).sum().item(), (h * h).sum().item()])
        return beta

    def _minibatches(self, steps: int, envs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.permutation(steps * envs)  # noqa: NPY002  # what SB3 seeds and its own buffers draw from
        for start in range(0, steps * envs, self.batch_size):
            yield np.divmod(order[start : start + self.batch_size], envs)  # type: ignore[misc]


def _log_probability(logits: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Of each decision.  (…, n), (…, n) -> (…, n)"""
    return -F.binary_cross_entropy_with_logits(logits, bits, reduction="none")


def _size(values: torch.Tensor) -> torch.Tensor:
    """Root mean square: advantages are divided by it; they are centred already."""
    return values.pow(2).mean().sqrt() + 1e-8


def mean_of_others(values: np.ndarray) -> np.ndarray:
    """For each environment the mean over the others, which does not depend on its own action; zero where there is one alone.

    :param values: (steps, envs, …)
    :return: of the same shape
    """
    return (values.sum(1, keepdims=True) - values) / max(values.shape[1] - 1, 1)


def control_variate(
    gain: torch.Tensor, credits: torch.Tensor, bits: torch.Tensor, kept: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take from the gain what the credit explains of it, and hand back what that takes from its expected gradient.

    ``E[∇ log π(a) (A − β Σ c_i (a_i − p_i))] + β Σ c_i ∇p_i = E[∇ log π(a) A]`` for any c and β that do not depend on a.

    :param gain: A, of each action (…,)
    :param credits: c (…, n)
    :param bits: a (…, n)
    :param kept: p (…, n)
    :param beta: coefficient
    :return: the rest of the gain (…,), and the weight of each probability's gradient (…, n)
    """
    return gain - beta * (credits * (bits - kept)).sum(-1), beta * credits
