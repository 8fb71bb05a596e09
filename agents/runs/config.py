"""RunConfig: all settings of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.credit_ppo import CreditPPO
from agents.defaults import CREDIT_PPO_DEFAULTS, PPO_DEFAULTS
from synthselect_env.envs.rewards import DEFAULT_REWARD, resolve_reward
from synthselect_env.evaluators import EVALUATORS, ClassifierEvaluator, RetrainEvaluator
from synthselect_env.training.augmentation import AUGMENTATIONS

ALGORITHMS: dict[str, tuple[type[OnPolicyAlgorithm], dict[str, Any]]] = {
    "PPO": (PPO, {"clip_range": 0.2, **PPO_DEFAULTS}),
    "CreditPPO": (CreditPPO, dict(CREDIT_PPO_DEFAULTS)),
}
"""Algorithms by name, with their settings."""

OVERRIDES = ("learning_rate", "batch_size", "n_epochs", "gamma", "clip_range")
"""Settings of the algorithm that a run may change."""

COUNTS = ("timesteps", "n_envs", "rounds", "batch_size", "n_epochs", "width")
"""Settings that are numbers of something."""

JUDGES = [name for name, e in EVALUATORS.items() if issubclass(e, ClassifierEvaluator)]
"""Evaluators that train a classifier, which can be scored on the test split."""

RETRAINING = [name for name, e in EVALUATORS.items() if issubclass(e, RetrainEvaluator)]
"""Evaluators that retrain a network."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of a training run. An unknown name raises a TypeError.

    .. code-block:: python

        train_run(RunConfig(bank="toy", judges=("linear_probe",), timesteps=256))

    :param bank: name of an embedded bank (pcam-few, pcam, cervical, pcam-planted, toy), or a file
    :param algorithm: PPO, or CreditPPO, which is told what each decision was worth
    :param reward: log_likelihood_gain, log_likelihood_delta or paper; see
        ``synthselect_env.envs.rewards.REWARDS``
    :param reward_evaluator: evaluator that rewards: datamodel, linear_probe, small_cnn or resnet34;
        None for the datamodel where the bank has retrainings, else the linear probe
    :param judges: classifiers that judge the selection on the test split: linear_probe, small_cnn,
        resnet34; none for the selection alone
    :param size: (height, width) in pixels at which a network is retrained; None for its own
    :param folds: number of folds of the real images by which retrainings are scored; None to score
        them on the validation split
    :param rounds: number of trainings of a judge on each selection, each with its own seed
    :param augmentation: augmentation of the training images where a network is retrained; None for
        the network's own
    :param timesteps: number of environment steps; each evaluates a selection
    :param n_envs: number of selections evaluated at once
    :param seed: random seed of the agent, the evaluations and the first round
    :param device: "auto", or a torch device
    :param out: run directory; None for ``runs/TIME-BANK-seedSEED``
    :param learning_rate: learning rate; None for the algorithm's, as in the next four
    :param batch_size: number of actions per gradient step
    :param n_epochs: number of passes over a rollout
    :param gamma: discount factor
    :param clip_range: clipping range of the probability ratio
    :param width: width of the policy's network
    :raises ValueError: if a name is unknown or a number is too small
    """

    bank: str = "pcam"
    algorithm: str = "PPO"
    reward: str = DEFAULT_REWARD
    reward_evaluator: str | None = None
    judges: Sequence[str] = ("linear_probe", "small_cnn")
    size: tuple[int, int] | None = None
    folds: int | None = None
    rounds: int = 1
    augmentation: str | None = None
    timesteps: int = 1024
    n_envs: int = 16
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    n_epochs: int | None = None
    gamma: float | None = None
    clip_range: float | None = None
    width: int = 64

    def __post_init__(self) -> None:
        # Plain values, so that the configuration can be written as JSON.
        object.__setattr__(self, "bank", str(self.bank))
        object.__setattr__(self, "judges", tuple(self.judges))
        if self.out is not None:
            object.__setattr__(self, "out", str(self.out))
        if self.size is not None:
            object.__setattr__(self, "size", (self.size[0], self.size[1]))

        resolve_reward(self.reward)
        _check_known("algorithm", [self.algorithm], ALGORITHMS)
        _check_known("classifier", self.judges, JUDGES)
        augmentation = [self.augmentation] if self.augmentation else []
        _check_known("augmentation", augmentation, AUGMENTATIONS)
        _check_known(
            "evaluator", [self.reward_evaluator] if self.reward_evaluator else [], EVALUATORS
        )
        for name in COUNTS:
            # SB3's PPO scales advantages by their deviation within a batch.
            least = 2 if (name, self.algorithm) == ("batch_size", "PPO") else 1
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    @property
    def algorithm_class(self) -> type[OnPolicyAlgorithm]:
        """Class of the algorithm."""
        return ALGORITHMS[self.algorithm][0]

    @property
    def algorithm_settings(self) -> dict[str, Any]:
        """Settings of the algorithm: its tuned ones, and those that the run changes."""
        return {**ALGORITHMS[self.algorithm][1], **given(self, OVERRIDES)}

    def resolved(self) -> RunConfig:
        """Return this configuration with the algorithm's settings in the place of None."""
        settings = self.algorithm_settings
        return replace(self, **{name: settings[name] for name in OVERRIDES})

    def evaluator_settings(self, name: str) -> dict[str, Any]:
        """Return the constructor arguments of an evaluator.

        :param name: name of the evaluator
        """
        if name in RETRAINING:
            training = given(self, ("augmentation", "size"))
            return {"config": training, "folds": self.folds, "device": self.device}
        return {"device": self.device} if name in JUDGES else {}


def given(options: object, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that are not None, by name.

    :param options: object with an attribute per option
    :param names: names of the options to look at
    """
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _check_known(what: str, names: Sequence[str], known: Sequence[str] | dict[str, Any]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {', '.join(unknown)}; one of {', '.join(known)}")
