"""CreditPPO: PPO with a credit for each decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from agents.credit_ppo.buffer import CreditRollout, CreditRolloutBuffer
from agents.credit_ppo.critic import RidgeCritic
from agents.defaults import CREDIT_PPO_DEFAULTS
from agents.policies import SelectionPolicy, check_not_normalised

CREDITS = ("none", "control_variate", "advantage")
RATIOS = ("joint", "per_candidate")

SUMS_DECAY = 0.5
"""Weight of earlier rollouts in the coefficient of the control variate."""

Self = TypeVar("Self", bound="CreditPPO")


class CreditPPO(PPO):
    """Train a selection policy by PPO, with a credit for each decision.

    An action is hundreds of decisions with one reward. The credit ``c_i`` tells the decisions
    apart: it is the derivative of the return with respect to candidate i's training weight. The
    return is the discounted sum of the rewards from this step on. The advantage A of an action is
    its return less the mean return of the others in its group: the selections that were drawn from
    the same batch. There are three ways to use the credit:

    * "advantage": decision i has the advantage ``c_i (a_i − p_i)``, where ``p_i`` is its keep
      probability and ``c`` the mean over the selections that were drawn from the same batch. This
      is first order in a candidate's effect on the reward, and has little noise.
    * "control_variate": the action has the advantage ``A − β Σ c_i (a_i − p_i)``. The expectation
      that this takes away, ``β Σ c_i ∇p_i``, is added in closed form. ``c`` is the mean over the
      *other* selections, and ``β`` the regression coefficient of earlier rollouts. Neither depends
      on the action, so the gradient keeps its expectation and loses variance. This is exact at a
      rollout's first update; later the ratio is clipped, as in PPO.
    * "none": the reward alone.

    Full retraining has no derivative, nor has any reward but an unsmoothed log-likelihood. There a
    :class:`RidgeCritic` estimates the credit from pairs of selection and return.

    The ratio of new to old policy is that of the whole action ("joint"), as in PPO, or each
    decision has a ratio of its own that is clipped by itself ("per_candidate").

    .. code-block:: python

        model = CreditPPO(TransformerPolicy, SelectionVecEnv("toy", n_envs=16)).learn(1024)

    :param policy: policy over a controller, e.g. :class:`~agents.TransformerPolicy`
    :param env: environment, best a :class:`~synthselect_env.SelectionVecEnv`
    :param learning_rate: learning rate of the optimizer, or a schedule
    :param n_steps: steps of a rollout per environment
    :param batch_size: actions per minibatch
    :param n_epochs: passes over a rollout
    :param gamma: discount factor. 1 credits a decision with its effect on the final selection, 0
        with its effect on its own step, if rewards are each step's gain. If ``credit`` is not
        "advantage", take 0: later steps then add more noise than signal
    :param clip_range: clipping range of the ratio, or a schedule
    :param credit: one of :data:`CREDITS`
    :param ratio: one of :data:`RATIOS`
    :param group_baseline: whether an action is compared with its group. False takes PPO's
        generalised advantage estimate with the value head
    :param budget: share of candidates to keep on average, or None. The squared deviation is added
        to the loss
    :param budget_weight: weight of the squared deviation from the budget
    :param kwargs: arguments of PPO, e.g. ent_coef, max_grad_norm, tensorboard_log, policy_kwargs,
        seed, device and verbose, without target_kl, clip_range_vf and normalize_advantage.
        gae_lambda and vf_coef need ``group_baseline=False``. ``ent_coef`` weighs the mean entropy
        of a decision, where PPO's weighs the sum over an action
    :raises ValueError: if an argument is unknown, out of range or without effect; if the policy is
        of another kind; if a saved model has an option that was removed; on learning, if one
        environment has no group, or VecNormalize changes the observations
    """

    def __init__(
        self,
        policy: type[SelectionPolicy] | str,
        env: GymEnv | str,
        learning_rate: float | Schedule = CREDIT_PPO_DEFAULTS["learning_rate"],
        n_steps: int = CREDIT_PPO_DEFAULTS["n_steps"],
        batch_size: int = CREDIT_PPO_DEFAULTS["batch_size"],
        n_epochs: int = CREDIT_PPO_DEFAULTS["n_epochs"],
        gamma: float = CREDIT_PPO_DEFAULTS["gamma"],
        clip_range: float | Schedule = CREDIT_PPO_DEFAULTS["clip_range"],
        credit: str = "advantage",
        ratio: str = "per_candidate",
        group_baseline: bool = True,
        budget: float | None = None,
        budget_weight: float = 10.0,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if credit not in CREDITS:
            raise ValueError(f"unknown credit {credit!r}; one of {', '.join(CREDITS)}")
        if ratio not in RATIOS:
            raise ValueError(f"unknown ratio {ratio!r}; one of {', '.join(RATIOS)}")
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
            kwargs["gae_lambda"] = 1.0  # returns without a learned value in them
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=n_steps,  # PPO would warn of the real one, if it does not divide a rollout
            n_epochs=n_epochs,
            gamma=gamma,
            clip_range=clip_range,
            normalize_advantage=False,
            rollout_buffer_class=CreditRolloutBuffer,
            _init_setup_model=False,
            **kwargs,
        )
        self.batch_size = batch_size
        self.credit = credit
        self.ratio = ratio
        self.group_baseline = group_baseline
        self.budget = budget
        self.budget_weight = budget_weight
        self._sums = np.zeros(2)  # of h · A and h · h over earlier rollouts, where β h explains A
        self._critic: RidgeCritic | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._drop_removed_options()
        super()._setup_model()
        if not isinstance(self.policy, SelectionPolicy):
            raise ValueError(
                "CreditPPO trains policies over a controller (TransformerPolicy, …), "
                f"not {type(self.policy).__name__}"
            )

    def _drop_removed_options(self) -> None:
        """Drop options of earlier versions from a saved model.

        :raises ValueError: if such an option had an effect
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

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "CreditPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn, as :meth:`stable_baselines3.PPO.learn` does.

        :raises ValueError: if one environment has no group, or VecNormalize changes the
            observations
        """
        assert isinstance(self.rollout_buffer, CreditRolloutBuffer)
        self._choose_credit(self.rollout_buffer)
        try:
            return super().learn(
                total_timesteps,
                callback,
                log_interval,
                tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
        finally:
            self.rollout_buffer.credit_source = None

    def _choose_credit(self, buffer: CreditRolloutBuffer) -> None:
        """Take the credit from the environment if it knows it, else from a critic."""
        assert self.env is not None
        check_not_normalised(self)
        env = self.env.unwrapped
        is_exact = self.credit != "none" and env.get_attr("has_credit")[0]
        buffer.credit_source = env if is_exact else None
        if self.credit == "none" or is_exact:
            self._critic = None
        elif self._critic is None:
            self._critic = RidgeCritic()

        compares_actions = self.group_baseline and self.credit != "advantage"
        compares_credit = self._critic is not None or self.credit == "control_variate"
        if self.n_envs < 2 and (compares_actions or compares_credit):
            raise ValueError(
                "one selection has no group to be compared with: "
                "take two environments or more, e.g. SelectionVecEnv(bank, 16)"
            )

    def train(self) -> None:
        """Update the policy with the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range: float = self.clip_range(progress)  # type: ignore[operator]

        # Minibatch updates
        rollout = self._rollout()
        history: dict[str, list[torch.Tensor]] = defaultdict(list)
        for _ in range(self.n_epochs):
            for t, e in self._minibatches(*rollout.returns.shape):
                loss, metrics = self._loss(rollout.minibatch(t, e), clip_range)
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                for name, value in metrics.items():
                    history[name].append(value.detach())
            self._n_updates += 1

        # Mean metrics, read here so that no update waits for a GPU
        for name, values in history.items():
            mean = np.mean([value.item() for value in values])
            self.logger.record(f"train/{name}", float(mean))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)

    def _minibatches(self, steps: int, envs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw minibatches as pairs of steps and environments.  (b,), (b,)"""
        # The generator that SB3 seeds, and that its own buffers draw from
        order = np.random.permutation(steps * envs)  # noqa: NPY002
        for start in range(0, steps * envs, self.batch_size):
            yield np.divmod(order[start : start + self.batch_size], envs)  # type: ignore[misc]

    def _loss(
        self, batch: CreditRollout, clip_range: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a minibatch, and what is logged of it."""
        assert isinstance(self.policy, SelectionPolicy)
        metrics = {}

        # Policy, with one log-ratio per decision
        logits, values = self.policy.decide(batch.observations)
        log_prob = _log_probability(logits, batch.actions)
        log_ratio = (log_prob - batch.old_log_prob) * batch.mask  # (b, n)
        loss, metrics["clip_fraction"] = self._clipped_loss(batch, log_ratio, clip_range)

        # Expectation of the control variate
        keep_prob = logits.sigmoid()  # (b, n)
        if batch.expected_weight is not None:
            expected = (batch.expected_weight * keep_prob).sum(1)
            if self.ratio == "per_candidate":
                expected = expected / batch.mask.sum(1)
            loss = loss - expected.mean()
        metrics["policy_gradient_loss"] = loss

        # Entropy bonus
        entropy = _entropy_of_a_decision(logits, keep_prob, batch.mask)
        loss = loss - self.ent_coef * entropy
        metrics["entropy_of_a_decision"] = entropy

        # Deviation from the budget
        selection_rate = (keep_prob * batch.mask).sum() / batch.mask.sum()
        metrics["selection_rate"] = selection_rate
        if self.budget is not None:
            loss = loss + self.budget_weight * (selection_rate - self.budget) ** 2

        # Value
        if not self.group_baseline:
            value_loss = F.mse_loss(values[:, 0], batch.returns)
            loss = loss + self.vf_coef * value_loss
            metrics["value_loss"] = value_loss

        metrics["loss"] = loss
        metrics["approx_kl"] = _approx_kl(log_ratio, batch.mask)
        return loss, metrics

    def _clipped_loss(
        self, batch: CreditRollout, log_ratio: torch.Tensor, clip_range: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return PPO's clipped policy loss, and the share of clipped ratios.

        :param batch: minibatch
        :param log_ratio: log-ratios of new to old probability (b, n)
        :param clip_range: clipping range of the ratio
        :return: two scalars
        """
        if self.ratio == "per_candidate":
            ratio = log_ratio.exp()  # (b, n)
            advantages = batch.advantages
            weight = batch.mask / batch.mask.sum(1, keepdim=True)
        else:
            ratio = log_ratio.sum(1, keepdim=True).exp()  # (b, 1)
            advantages = batch.advantages.sum(1, keepdim=True)
            weight = torch.ones_like(ratio)
        clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
        surrogate = torch.min(ratio * advantages, clipped_ratio * advantages)
        is_clipped = (ratio.detach() - 1).abs() > clip_range
        return -(surrogate * weight).sum(1).mean(), (is_clipped * weight).sum(1).mean()

    def _rollout(self) -> CreditRollout:
        """Return the buffer's rollout on the training device, with its advantages."""
        policy, buffer = self.policy, self.rollout_buffer
        assert isinstance(policy, SelectionPolicy)
        observations = torch.as_tensor(buffer.observations, device=self.device)
        actions = torch.as_tensor(buffer.actions, device=self.device, dtype=torch.float32)
        with torch.no_grad():
            old_logits = torch.stack([policy.decide(step)[0] for step in observations])
        mask = observations.any(-1)
        advantages, expected_weight = self._advantages(actions, mask, old_logits.sigmoid())
        return CreditRollout(
            observations=observations,
            actions=actions,
            mask=mask,
            returns=torch.as_tensor(buffer.returns, device=self.device),
            old_log_prob=_log_probability(old_logits, actions),
            advantages=advantages,
            expected_weight=expected_weight,
        )

    def _advantages(
        self, actions: torch.Tensor, mask: torch.Tensor, keep_prob: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the advantages, and the weights of the control variate's expectation.

        Both are divided by the root mean square of the advantages.

        :param actions: decisions, 0 or 1 (steps, envs, n)
        :param mask: False in padding rows, bool (steps, envs, n)
        :param keep_prob: keep probabilities under the old policy (steps, envs, n)
        :return: advantages, (steps, envs, n) with credit as advantage and (steps, envs, 1) without;
            weights (steps, envs, n) with a control variate, else None
        """
        credit = self._rollout_credit()

        # One advantage per decision
        if credit is not None and self.credit == "advantage":
            mean_credit = np.broadcast_to(credit.mean(1, keepdims=True), credit.shape).copy()
            shared_credit = torch.as_tensor(mean_credit, device=self.device)
            decision_advantages = shared_credit * (actions - keep_prob) * mask
            return decision_advantages / rms(decision_advantages), None

        # One advantage per action
        buffer = self.rollout_buffer
        if self.group_baseline:
            centred = buffer.returns - mean_of_others(buffer.returns)
        else:
            centred = buffer.advantages - buffer.advantages.mean()
        advantages = torch.as_tensor(centred, device=self.device)
        if credit is None:
            return (advantages / rms(advantages))[..., None], None

        # Less what the credit of the other selections explains
        others_credit = torch.as_tensor(mean_of_others(credit), device=self.device) * mask
        explained = (others_credit * (actions - keep_prob)).sum(2)
        beta = self._coefficient(explained, advantages)
        self.logger.record("train/control_variate_coefficient", beta)
        advantages, weight = control_variate(advantages, others_credit, actions, keep_prob, beta)
        scale = rms(advantages)
        return (advantages / scale)[..., None], weight / scale

    def _rollout_credit(self) -> np.ndarray | None:
        """Return the credit of each decision, or None without.  (steps, envs, n)"""
        buffer = self.rollout_buffer
        assert isinstance(buffer, CreditRolloutBuffer)
        if self.credit == "none":
            return None
        if self._critic is None:
            return buffer.credits
        rows = self._rows_per_class(buffer.observations[:, 0])  # the same in all environments
        # A control variate must not know this rollout.
        earlier_credit = self._critic.credit(rows)
        self._critic.update(rows, buffer.actions, buffer.returns)
        is_control = self.credit == "control_variate"
        credit = earlier_credit if is_control else self._critic.credit(rows)
        return np.broadcast_to(credit[:, None], buffer.credits.shape).astype(np.float32)

    def _rows_per_class(self, rows: np.ndarray) -> np.ndarray:
        """Give each class its own columns.  (t, n, d) -> (t, n, classes * d)

        The same score may speak for one class and against another. The paper's features do not tell
        the class, and rows of them stay as they are.
        """
        assert self.env is not None
        columns = self.env.unwrapped.get_attr("observation_columns")[0]
        if "class" not in columns:
            return rows
        classes = rows[..., columns["class"]]
        products = classes[..., :, None] * rows[..., None, :]
        return products.reshape(*rows.shape[:2], -1)

    def _coefficient(self, explained: torch.Tensor, advantages: torch.Tensor) -> float:
        """Return β of the earlier rollouts, then count this one in.

        :param explained: control variate h of each action (steps, envs)
        :param advantages: advantage A of each action (steps, envs)
        """
        beta = float(self._sums[0] / self._sums[1]) if self._sums[1] > 0 else 0.0
        product_sum = (explained * advantages).sum().item()
        square_sum = (explained * explained).sum().item()
        self._sums = SUMS_DECAY * self._sums + np.array([product_sum, square_sum])
        return beta


def _log_probability(logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each decision.  (…, n), (…, n) -> (…, n)"""
    return -F.binary_cross_entropy_with_logits(logits, actions, reduction="none")


def _entropy_of_a_decision(
    logits: torch.Tensor, keep_prob: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean entropy of a decision.  (b, n), (b, n), (b, n) -> ()"""
    entropy = F.binary_cross_entropy_with_logits(logits, keep_prob, reduction="none")
    return ((entropy * mask).sum(1) / mask.sum(1)).mean()


@torch.no_grad()
def _approx_kl(log_ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return SB3's estimate of an action's KL divergence.  (b, n), (b, n) -> ()"""
    return ((log_ratio.exp() - 1 - log_ratio) * mask).sum(1).mean()


def rms(values: torch.Tensor) -> torch.Tensor:
    """Return the root mean square, which is above zero.  (…) -> ()"""
    return values.pow(2).mean().sqrt() + 1e-8


def mean_of_others(values: np.ndarray) -> np.ndarray:
    """Return the mean over the other environments, for each environment.

    It does not depend on the environment's own action. It is zero for an environment alone.

    :param values: values of each environment (steps, envs, …)
    :return: means of the same shape
    """
    return (values.sum(1, keepdims=True) - values) / max(values.shape[1] - 1, 1)


def control_variate(
    advantages: torch.Tensor,
    credit: torch.Tensor,
    actions: torch.Tensor,
    keep_prob: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract the part of the advantages that the credit explains.

    ``E[∇ log π(a) (A − β Σ c_i (a_i − p_i))] + β Σ c_i ∇p_i = E[∇ log π(a) A]`` for any c and β
    that do not depend on a.

    :param advantages: advantage A of each action (…,)
    :param credit: credit c of each decision (…, n)
    :param actions: decisions a, 0 or 1 (…, n)
    :param keep_prob: keep probabilities p (…, n)
    :param beta: coefficient β
    :return: rest of the advantages (…,), and weight of each probability's gradient (…, n)
    """
    explained = beta * (credit * (actions - keep_prob)).sum(-1)
    return advantages - explained, beta * credit
