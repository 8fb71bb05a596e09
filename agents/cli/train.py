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
        help="embedded bank (pcam, cervical, pcam-planted, toy) or a file (default: %(default)s)",
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=default.algorithm)
    parser.add_argument("--reward", choices=REWARDS, default=default.reward)
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
        help=f"classifiers of the final tables, of {', '.join(JUDGES)}; none for the selection "
        f"alone (default: {' '.join(default.judges)})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=default.rounds,
        help="trainings of a judge on each selection, with a seed each (default: %(default)s)",
    )
    add_size(parser, "size at which a network is retrained (default: its own, by short side)")
    parser.add_argument(
        "--augmentation",
        choices=AUGMENTATIONS,
        default=default.augmentation,
        help="augmentation of training images in retrainings (default: %(default)s)",
    )


def _add_training(parser: argparse.ArgumentParser, default: RunConfig) -> None:
    add = parser.add_argument
    add("--timesteps", type=int, default=default.timesteps, help="evaluations of a selection")
    add("--n-envs", type=int, default=default.n_envs, help="selections evaluated at once")
    add("--learning-rate", type=float, help="default: the algorithm's, as of the next four")
    add("--batch-size", type=int, help="actions per gradient step")
    add("--n-epochs", type=int, help="passes over a rollout")
    add("--gamma", type=float, help="discount factor")
    add("--clip-range", type=float, help="clipping range of the probability ratio")
    add("--width", type=int, default=default.width, help="width of the policy's network")


def run(args: argparse.Namespace) -> None:
    """Run the training."""
    names = RunConfig.__dataclass_fields__
    values = {name: getattr(args, ARGUMENT_NAMES.get(name, name)) for name in names}
    train_run(RunConfig(**values))
