"""Train a policy, select candidates, and judge the selection.

synthselect train                                  # the embedded PCam bank, a few minutes
synthselect train --judge linear_probe             # the final table without a retraining
synthselect train --algorithm CreditPPO            # told what each decision was worth
synthselect train --judge resnet34                 # judged by the paper's network
synthselect train --bank mine.h5 --reward paper
"""

from __future__ import annotations

import argparse

from agents.cli.common import add_seed_and_device, add_size
from agents.defaults import PPO_DEFAULTS
from agents.runs import ALGORITHMS, JUDGES, RunConfig, train_run
from synthselect_env.envs.rewards import REWARDS
from synthselect_env.evaluators import EVALUATORS
from synthselect_env.training.augmentation import AUGMENTATIONS

ARGUMENT_NAMES = {"evaluator": "reward_evaluator", "judges": "judge"}
"""Field of RunConfig to the name of its argument, where it differs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, whose defaults are RunConfig's."""
    default = RunConfig()
    _add_choices(parser, default)
    _add_protocol(parser, default)
    _add_training(parser, default)
    add_seed_and_device(parser)
    parser.add_argument("--out", help="run directory (default: runs/TIME-BANK-seedSEED)")


def _add_choices(parser: argparse.ArgumentParser, default: RunConfig) -> None:
    parser.add_argument(
        "--bank",
        default=default.bank,
        help="embedded bank (pcam, cervical, pcam-planted, toy) or a file",
    )
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default=default.algorithm,
        help="learning algorithm of the policy; CreditPPO learns from each decision's worth",
    )
    parser.add_argument(
        "--reward",
        choices=REWARDS,
        default=default.reward,
        help="what a selection is rewarded for, on the validation split",
    )
    parser.add_argument(
        "--reward-evaluator",
        choices=EVALUATORS,
        help="evaluator that rewards (default: the datamodel where the bank has retrainings, "
        "else the linear probe)",
    )


def _add_protocol(parser: argparse.ArgumentParser, default: RunConfig) -> None:
    parser.add_argument(
        "--judge",
        nargs="*",
        default=default.judges,
        metavar="CLASSIFIER",
        help=f"classifiers of the final tables, of {', '.join(JUDGES)}; give no name for the "
        f"selection alone (default: {' '.join(default.judges)})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=default.rounds,
        help="trainings of a judge on each selection, with a seed each",
    )
    add_size(parser, "size at which a network is retrained (default: its own, by short side)")
    parser.add_argument(
        "--folds",
        type=int,
        help="folds of the real images by which retrainings are scored (default: they are scored "
        "on the valid split)",
    )
    parser.add_argument(
        "--augmentation",
        choices=AUGMENTATIONS,
        help="augmentation of training images in retrainings, over whose flips labels are averaged "
        "(default: the network's own)",
    )


def _add_training(parser: argparse.ArgumentParser, default: RunConfig) -> None:
    add = parser.add_argument
    add(
        "--timesteps",
        type=int,
        default=default.timesteps,
        help=f"environment steps, one evaluation each; rounded up to whole rollouts of "
        f"{PPO_DEFAULTS['n_steps']} × n-envs",
    )
    add("--n-envs", type=int, default=default.n_envs, help="selections evaluated at once")
    add("--learning-rate", type=float, help=_by_algorithm("learning rate", "learning_rate"))
    add("--batch-size", type=int, help=_by_algorithm("actions per gradient step", "batch_size"))
    add("--n-epochs", type=int, help=_by_algorithm("passes over a rollout", "n_epochs"))
    add("--gamma", type=float, help=_by_algorithm("discount factor", "gamma"))
    add(
        "--clip-range",
        type=float,
        help=_by_algorithm("clipping range of the probability ratio", "clip_range"),
    )
    add("--width", type=int, default=default.width, help="width of the policy's network")


def _by_algorithm(text: str, setting: str) -> str:
    """Return the help of an option whose default is the algorithm's."""
    defaults = [f"{settings[setting]} for {name}" for name, (_, settings) in ALGORITHMS.items()]
    return f"{text} (default: {', '.join(defaults)})"


def run(args: argparse.Namespace) -> None:
    """Run the training."""
    names = RunConfig.__dataclass_fields__
    values = {name: getattr(args, ARGUMENT_NAMES.get(name, name)) for name in names}
    train_run(RunConfig(**values))
