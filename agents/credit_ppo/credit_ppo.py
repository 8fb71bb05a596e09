"""Train selection policies by PPO with a credit for each decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from agents.credit_ppo.critic import RidgeCritic
from agents.policies import SelectionPolicy, refuse_normalised
from synthselect_env import SelectionVecEnv

CREDITS = ("none", "control_variate", "advantage")
RATIOS = ("joint", "per_candidate")

Self = TypeVar("Self", bound="CreditPPO")


class CreditRolloutBuffer(RolloutBuffer):
    """Store a rollout with a credit for each decision.

    A decision's credit is the derivative of the return from its step on.
    ``credits`` has the shape (steps, envs, n).
    """

    env: VecEnv | None = None
    """Environment to ask after each step. None keeps zeros."""

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, self.action_dim)
        self.credits = np.zeros(shape, np.float32)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step and credit the episode's decisions so far.

        Each decision gets its part in the step's reward, discounted by its age.
        """
        if self.env is not None:
            if isinstance(self.env, SelectionVecEnv):  # one evaluator for all environments
                step_credit = self.env.credit()
            else:
                step_credit = np.stack(self.env.env_method("credit"))
            # An episode may have begun in the rollout before
            n_credited = min(step_credit.shape[1], self.pos + 1)
            for age in range(n_credited):
                self.credits[self.pos - age] += self.gamma**age * step_credit[:, -1 - age]
        super().add(*args, **kwargs)


class _Rollout(NamedTuple):
    """Hold a rollout, or a minibatch of it, on the training device.

    A rollout's leading shape is (steps, envs), a minibatch's is (b,).
    """

    observations: torch.Tensor
    """Candidates' rows.  (…, n, d)"""
    actions: torch.Tensor
    """Decisions, 0 or 1.  (…, n)"""
    mask: torch.Tensor
    """False in padding rows, whose decisions change nothing.  bool (…, n)"""
    returns: torch.Tensor
    """Discounted rewards.  (…,)"""
    old_log_prob: torch.Tensor
    """Log probabilities of the decisions, under the old policy.  (…, n)"""
    advantage: torch.Tensor
    """Advantages of the actions (…,) or of the decisions (…, n)."""
    expected_weight: torch.Tensor | None
    """Weights of the control variate's expectation.  (…, n)"""

    def rows(self, t: np.ndarray, e: np.ndarray) -> _Rollout:
        """Take a minibatch of steps t in environments e.  (b,), (b,)"""
        taken = (None if values is None else values[t, e] for values in self)
        return _Rollout(*taken)  # type: ignore[arg-type]


class CreditPPO(PPO):
    """Train a selection policy by PPO, with a credit for each decision.

    An action is hundreds of decisions with one reward.
    The credit ``c_i`` tells the decisions apart.
    It is the derivative of the return by candidate i's weight in the training set.
    The return is the sum of the rewards from this step on, discounted by ``gamma``.
    There are three ways to use the credit:

    * "advantage": decision i has the advantage ``c_i (a_i − p_i)``.
      Here ``p_i`` is its probability of being kept.
      ``c`` is the mean over the selections that were drawn from the same batch.
      This is first order in a candidate's effect on the reward, and has little noise.
    * "control_variate": the action has the advantage ``A − β Σ c_i (a_i − p_i)``.
      The expectation that this takes away, ``β Σ c_i ∇p_i``, is added in closed form.
      ``c`` is the mean over the *other* selections.
      ``β`` is the regression coefficient of earlier rollouts.
      Neither depends on the action, so the gradient keeps its expectation and loses variance.
      This is exact at a rollout's first update; later the ratio is clipped, as in PPO.
    * "none": the reward alone.

    Some rewards have no derivative: full retraining, and all but an unsmoothed log-likelihood.
    There a :class:`RidgeCritic` estimates the credit from pairs of selection and return.

    The ratio of new to old policy is that of the whole action ("joint"), as in PPO.
    With "per_candidate", each decision has a ratio of its own, and is clipped by itself.

    The advantage of an action is its return less the mean return of the others in its group.
    A group is the selections that were drawn from the same batch.

    >>> from agents import CreditPPO, TransformerPolicy
    >>> from synthselect_env import SelectionVecEnv
    >>> model = CreditPPO(TransformerPolicy, SelectionVecEnv("toy", n_envs=16)).learn(256)

    :param policy: Policy over a controller, e.g. :class:`~agents.TransformerPolicy`.
    :param env: Environment, best a :class:`~synthselect_env.SelectionVecEnv`.
    :param learning_rate: Learning rate of the optimizer, or a schedule.
    :param n_steps: Steps of a rollout in each environment.
    :param batch_size: Actions in a minibatch.
    :param n_epochs: Passes over a rollout.
    :param gamma: Discount factor.
        1 credits a decision with its effect on the final selection,
        0 with its effect on its own step.
        This holds for rewards that are each step's gain.
        Take 0 without credit as advantage: later steps then add more noise than signal.
        See benchmarks/results.
    :param clip_range: Clipping range of the ratio, or a schedule.
    :param credit: One of :data:`CREDITS`.
    :param ratio: One of :data:`RATIOS`.
    :param group_baseline: Comparison within the group.
        False takes PPO's generalised advantage estimate with the value head.
    :param budget: Share of the candidates to keep on average, or None for no budget.
        The squared deviation is added to the loss.
    :param budget_weight: Weight of the squared deviation from the budget.
    :param kwargs: Arguments of PPO, without target_kl, clip_range_vf and normalize_advantage.
        gae_lambda and vf_coef need ``group_baseline=False``.
        ``ent_coef`` weighs the entropy of a decision; PPO's weighs that of a whole action.
    :raises ValueError: if an argument is unknown, out of range or without effect.
        Also if the policy is of another kind, or a saved model has an option that was removed.
        On learning: if one environment has no group to be compared with.
        On learning: if VecNormalize changes the observations.
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
                raise ValueError(
                    f"{', '.join(unused)} is about a learned value, "
                    "which group_baseline=True does without"
                )
            kwargs["gae_lambda"] = 1.0  # the return itself, without a value in its place
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=n_steps,
            n_epochs=n_epochs,
            gamma=gamma,
            clip_range=clip_range,
            normalize_advantage=False,
            rollout_buffer_class=CreditRolloutBuffer,
            _init_setup_model=False,
            **kwargs,
        )
        # Set here: PPO would warn of rollouts that batch_size does not divide
        self.batch_size = batch_size
        self.credit = credit
        self.ratio = ratio
        self.group_baseline = group_baseline
        self.budget = budget
        self.budget_weight = budget_weight
        self._sums = np.zeros(2)  # of h · advantage and h · h over earlier rollouts, for β
        self._critic: RidgeCritic | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._refuse_removed_options()
        super()._setup_model()
        if not isinstance(self.policy, SelectionPolicy):
            raise ValueError(
                "CreditPPO trains policies over a controller (TransformerPolicy, …), "
                f"not {type(self.policy).__name__}"
            )

    def _refuse_removed_options(self) -> None:
        """Drop options of earlier versions from a saved model.

        :raises ValueError: if such an option had an effect.
        """
        if self.ratio not in RATIOS:
            raise ValueError(
                f"the saved model has ratio={self.ratio!r}, which CreditPPO no longer has; "
                f"to go on with another, load it with ratio= one of {', '.join(RATIOS)}"
            )
        options = vars(self)
        if target_entropy := options.get("target_entropy", 0):
            raise ValueError(
                f"the saved model has target_entropy={target_entropy}, "
                "which CreditPPO no longer has; to go on without, load it with target_entropy=0"
            )
        for name in ("target_entropy", "entropy_weight"):
            options.pop(name, None)

    def _ask(self) -> None:
        """Choose the source of credit: the environment or a critic."""
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
        needs_others = grouped or self._critic is not None or self.credit == "control_variate"
        if self.n_envs < 2 and needs_others:
            raise ValueError(
                "one selection has no group to be compared with: "
                "take two environments or more, e.g. SelectionVecEnv(bank, 16)"
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
            return super().learn(
                total_timesteps=total_timesteps,
                callback=callback,
                log_interval=log_interval,
                tb_log_name=tb_log_name,
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=progress_bar,
            )
        finally:
            # An environment is not saved with the model
            self.rollout_buffer.env = None  # type: ignore[attr-defined]

    def train(self) -> None:
        """Update the policy from the gathered rollout."""
        policy = self.policy
        assert isinstance(policy, SelectionPolicy)
        # Switch to train mode (this affects batch norm / dropout)
        policy.set_training_mode(True)
        # Update optimizer learning rate
        self._update_learning_rate(policy.optimizer)
        # Compute current clip range
        progress = self._current_progress_remaining
        clip_range: float = self.clip_range(progress)  # type: ignore[operator]

        # Move the rollout to the device, once for all epochs
        rollout = self._rollout()

        losses: dict[str, list[torch.Tensor]] = {}
        # train for n_epochs epochs
        for _ in range(self.n_epochs):
            # Do a complete pass on the rollout
            for t, e in self._minibatches(*rollout.returns.shape):
                batch = rollout.rows(t, e)
                logits, values = policy.decide(batch.observations)

                # ratio between old and new policy, should be one at the first iteration
                log_prob = _log_probability(logits, batch.actions)
                log_ratio = (log_prob - batch.old_log_prob) * batch.mask

                # clipped surrogate loss
                policy_loss, clip_fraction = self._policy_loss(batch, log_ratio, clip_range)

                # expectation of the control variate, in closed form
                keep_prob = logits.sigmoid()
                if batch.expected_weight is not None:
                    policy_loss = policy_loss - self._expected_part(batch, keep_prob)

                # Entropy bonus favors exploration
                entropy = _entropy_of_a_decision(logits, keep_prob, batch.mask)
                loss = policy_loss - self.ent_coef * entropy

                # Squared deviation from the budget
                selection_rate = (keep_prob * batch.mask).sum() / batch.mask.sum()
                if self.budget is not None:
                    loss = loss + self.budget_weight * (selection_rate - self.budget) ** 2

                # Value loss using the TD(gae_lambda) target
                figures = {}
                if not self.group_baseline:
                    value_loss = F.mse_loss(values[:, 0], batch.returns)
                    loss = loss + self.vf_coef * value_loss
                    figures["value_loss"] = value_loss

                # Optimization step
                policy.optimizer.zero_grad()
                loss.backward()
                # Clip grad norm
                torch.nn.utils.clip_grad_norm_(policy.parameters(), self.max_grad_norm)
                policy.optimizer.step()

                # Logging
                figures["policy_gradient_loss"] = policy_loss
                figures["entropy_of_a_decision"] = entropy
                figures["selection_rate"] = selection_rate
                figures["loss"] = loss
                figures["clip_fraction"] = clip_fraction
                figures["approx_kl"] = _approx_kl(log_ratio, batch.mask)
                for name, figure in figures.items():
                    losses.setdefault(name, []).append(figure.detach())

            self._n_updates += 1

        # Logs
        self._log_losses(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)

    def _rollout(self) -> _Rollout:
        """Move the buffer's rollout to the device, with its advantages."""
        policy, buffer = self.policy, self.rollout_buffer
        assert isinstance(policy, SelectionPolicy)
        observations = torch.as_tensor(buffer.observations, device=self.device)
        actions = torch.as_tensor(buffer.actions, device=self.device, dtype=torch.float32)
        with torch.no_grad():
            old_logits = torch.stack([policy.decide(step)[0] for step in observations])
        mask = observations.any(-1)
        advantage, expected_weight = self._advantages(actions, mask, old_logits.sigmoid())
        return _Rollout(
            observations=observations,
            actions=actions,
            mask=mask,
            returns=torch.as_tensor(buffer.returns, device=self.device),
            old_log_prob=_log_probability(old_logits, actions),
            advantage=advantage,
            expected_weight=expected_weight,
        )

    def _advantages(
        self, actions: torch.Tensor, mask: torch.Tensor, keep_prob: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the advantages, and the weights of the control variate's expectation.

        Both are divided by the advantages' root mean square.

        :param actions: Decisions, 0 or 1.  (steps, envs, n)
        :param mask: False in padding rows.  bool (steps, envs, n)
        :param keep_prob: Probabilities of keeping, under the old policy.  (steps, envs, n)
        :return: Advantages, (steps, envs, n) with credit as advantage, else (steps, envs).
            Weights, (steps, envs, n) with a control variate, else None.
        """
        credit = self._rollout_credit()

        # An advantage for each decision
        if credit is not None and self.credit == "advantage":
            mean_credit = np.broadcast_to(credit.mean(1, keepdims=True), credit.shape).copy()
            shared_credit = torch.as_tensor(mean_credit, device=self.device)
            decision_advantage = shared_credit * (actions - keep_prob) * mask
            return decision_advantage / rms(decision_advantage), None

        # An advantage for each action
        buffer = self.rollout_buffer
        if self.group_baseline:
            relative = buffer.returns - mean_of_others(buffer.returns)
        else:
            relative = buffer.advantages - buffer.advantages.mean()
        advantage = torch.as_tensor(relative, device=self.device)
        if credit is None:
            return advantage / rms(advantage), None

        # Less what the credit of the other selections explains of it
        others_credit = torch.as_tensor(mean_of_others(credit), device=self.device) * mask
        explained = (others_credit * (actions - keep_prob)).sum(2)
        beta = self._coefficient(explained, advantage)
        self.logger.record("train/control_variate_coefficient", beta)
        advantage, weight = control_variate(advantage, others_credit, actions, keep_prob, beta)
        scale = rms(advantage)
        return advantage / scale, weight / scale

    def _policy_loss(
        self, batch: _Rollout, log_ratio: torch.Tensor, clip_range: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute PPO's clipped surrogate loss, and the clipped share.

        :param batch: Minibatch.
        :param log_ratio: Log ratios of new to old probability.  (b, n)
        :param clip_range: Clipping range of the ratio.
        :return: Loss and clipped share, scalars.
        """
        per_decision = batch.advantage.ndim == 2
        if self.ratio == "per_candidate":
            ratio = log_ratio.exp()
            weight = batch.mask / batch.mask.sum(1)[:, None]
            advantage = batch.advantage if per_decision else batch.advantage[:, None]
        else:
            ratio = log_ratio.sum(1).exp()[:, None]
            weight = torch.ones_like(ratio)
            action_advantage = batch.advantage.sum(1) if per_decision else batch.advantage
            advantage = action_advantage[:, None]

        policy_loss_1 = ratio * advantage
        policy_loss_2 = ratio.clamp(1 - clip_range, 1 + clip_range) * advantage
        policy_loss = -(torch.min(policy_loss_1, policy_loss_2) * weight).sum(1).mean()

        is_clipped = (ratio.detach() - 1).abs() > clip_range
        return policy_loss, (is_clipped * weight).sum(1).mean()

    def _expected_part(self, batch: _Rollout, keep_prob: torch.Tensor) -> torch.Tensor:
        """Compute the control variate's expectation, on the policy loss's scale.

        :param batch: Minibatch with weights of the expectation.
        :param keep_prob: Probabilities of keeping, under the new policy.  (b, n)
        :return: Mean over the minibatch, a scalar.
        """
        assert batch.expected_weight is not None
        expected = (batch.expected_weight * keep_prob).sum(1)
        if self.ratio == "per_candidate":
            expected = expected / batch.mask.sum(1)
        return expected.mean()

    def _log_losses(self, losses: dict[str, list[torch.Tensor]]) -> None:
        """Record the mean of each figure over the updates.

        They are read here, at the end, so that no update waits for a GPU.
        """
        for name, values in losses.items():
            mean = float(np.mean([value.item() for value in values]))
            self.logger.record(f"train/{name}", mean)

    def _rollout_credit(self) -> np.ndarray | None:
        """Return the credit of each decision, or None.  (steps, envs, n)"""
        buffer = self.rollout_buffer
        assert isinstance(buffer, CreditRolloutBuffer)
        if self._critic is None:
            return buffer.credits if self.credit != "none" else None
        rows = self._by_class(buffer.observations[:, 0])  # the same batch in all environments
        # A control variate must know nothing of this rollout
        earlier_credit = self._critic.credit(rows)
        self._critic.update(rows, buffer.actions, buffer.returns)
        control = self.credit == "control_variate"
        credit = earlier_credit if control else self._critic.credit(rows)
        return np.broadcast_to(credit[:, None], buffer.credits.shape).astype(np.float32)

    def _by_class(self, rows: np.ndarray) -> np.ndarray:
        """Give each class columns of its own.  (t, n, d) -> (t, n, c · d)

        A feature speaks for one class and against another.
        """
        assert self.env is not None
        columns = self.env.unwrapped.get_attr("observation_columns")[0]
        if "class" not in columns:
            return rows  # without extended features, no column tells a candidate's class
        classes = rows[..., columns["class"]]
        products = classes[..., :, None] * rows[..., None, :]
        return products.reshape(*rows.shape[:2], -1)

    def _coefficient(self, h: torch.Tensor, advantage: torch.Tensor) -> float:
        """Return β of the earlier rollouts, then count this one in.

        :param h: Control variate of each action.  (steps, envs)
        :param advantage: Advantage of each action.  (steps, envs)
        """
        beta = float(self._sums[0] / self._sums[1]) if self._sums[1] > 0 else 0.0
        new_sums = np.array([(h * advantage).sum().item(), (h * h).sum().item()])
        self._sums = 0.5 * self._sums + new_sums
        return beta

    def _minibatches(self, steps: int, envs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw minibatches as pairs of steps and environments.  (b,), (b,)"""
        # The generator that SB3 seeds and its own buffers draw from
        order = np.random.permutation(steps * envs)  # noqa: NPY002
        for start in range(0, steps * envs, self.batch_size):
            yield np.divmod(order[start : start + self.batch_size], envs)  # type: ignore[misc]


def _log_probability(logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Compute the log probability of each decision.  (…, n), (…, n) -> (…, n)"""
    return -F.binary_cross_entropy_with_logits(logits, actions, reduction="none")


def _entropy_of_a_decision(
    logits: torch.Tensor, keep_prob: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Compute the mean entropy of a decision.  (b, n), (b, n), (b, n) -> ()"""
    entropy = F.binary_cross_entropy_with_logits(logits, keep_prob, reduction="none")
    return ((entropy * mask).sum(1) / mask.sum(1)).mean()


def _approx_kl(log_ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Estimate an action's KL divergence, as SB3 does.  (b, n), (b, n) -> ()"""
    with torch.no_grad():
        return ((log_ratio.exp() - 1 - log_ratio) * mask).sum(1).mean()


def rms(values: torch.Tensor) -> torch.Tensor:
    """Compute the root mean square.  (…) -> ()

    Advantages are divided by it; they are centred already.
    """
    return values.pow(2).mean().sqrt() + 1e-8


def mean_of_others(values: np.ndarray) -> np.ndarray:
    """Average over the other environments, for each environment.

    The mean does not depend on the environment's own action.
    It is zero where there is one environment alone.

    :param values: Values of each environment.  (steps, envs, …)
    :return: Means of the same shape.
    """
    return (values.sum(1, keepdims=True) - values) / max(values.shape[1] - 1, 1)


def control_variate(
    advantage: torch.Tensor,
    credit: torch.Tensor,
    actions: torch.Tensor,
    keep_prob: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract the part of the advantage that the credit explains.

    ``E[∇ log π(a) (A − β Σ c_i (a_i − p_i))] + β Σ c_i ∇p_i = E[∇ log π(a) A]``
    for any c and β that do not depend on a.

    :param advantage: Advantage A of each action.  (…,)
    :param credit: Credit c of each decision.  (…, n)
    :param actions: Decisions a, 0 or 1.  (…, n)
    :param keep_prob: Probabilities p of keeping.  (…, n)
    :param beta: Coefficient β.
    :return: Rest of the advantage (…,), and weight of each probability's gradient (…, n).
    """
    explained = beta * (credit * (actions - keep_prob)).sum(-1)
    return advantage - explained, beta * credit
