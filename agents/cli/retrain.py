"""Retrain a network on a few dozen selections of a bank.

    synthselect retrain --bank mine.h5                  # into the same file
    synthselect retrain --bank mine.h5 --folds 5        # few real images: score each of them
    synthselect retrain --bank pcam --out pcam.h5 --discard-existing --architecture resnet34

An environment of a bank with retrainings is rewarded by a datamodel that is fitted to them.
Finished retrainings are kept in runs/retrained, so that an interrupted command can go on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.cli.common import add_seed_and_device, add_size
from agents.progress import progress_bar
from agents.runs import RETRAINED
from synthselect_env import FeatureBank
from synthselect_env.bank import EMBEDDED, resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    RetrainEvaluator,
    differing_settings,
    spread,
    with_retrainings,
)
from synthselect_env.evaluators.retrain import n_trained_on
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import build_network
from synthselect_env.training.config import SMALL, TrainingConfig, default_config

MIN_RETRAININGS = 9
"""Retrainings that a datamodel of candidates with images needs."""

CONFIGURED = (
    "epochs",
    "steps_per_epoch",
    "batch_size",
    "learning_rate",
    "augmentation",
)
"""Arguments that are fields of the training configuration."""

MIN_CORRELATION = 0.3
"""Leave-one-out correlation below which a datamodel's predictions mean little."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--bank", required=True, help="file, or an embedded bank")
    add("--out", type=Path, help="bank to write (default: the bank's own file)")
    add(
        "--retrainings",
        type=int,
        default=48,
        help=f"number to add; with the bank's own, at least {MIN_RETRAININGS}",
    )
    add(
        "--discard-existing",
        action="store_true",
        help="drop the bank's own retrainings, e.g. to use another configuration",
    )
    add(
        "--folds",
        type=int,
        help="score each real image by a network that was trained on the other folds (default: "
        "train on the train split, score the valid split)",
    )
    add("--architecture", default=SMALL.architecture, help="small_cnn, or a torchvision network")
    own = "(default: the architecture's)"
    add_size(parser, f"size in pixels {own}")
    add("--epochs", type=int, help=f"epochs of a retraining {own}")
    add("--steps-per-epoch", type=int, help=f"steps per epoch {own}")
    add("--batch-size", type=int, help=f"images per step {own}")
    add("--learning-rate", type=float, help=f"highest learning rate {own}")
    add(
        "--augmentation",
        choices=AUGMENTATIONS,
        help=f"augmentation of the training images {own}",
    )
    add("--workers", type=int, help="processes (default: one per core, on a GPU one)")
    add_seed_and_device(parser, "random seed of the selections and of all retrainings")


def run(args: argparse.Namespace) -> None:
    """Retrain, write the bank, and say how well a datamodel predicts the retrainings."""
    # An unknown architecture is said before anything is read.
    build_network(default_config(args.architecture), n_classes=2, seed=args.seed)
    if args.bank in EMBEDDED and args.out is None:
        raise ValueError("an embedded bank is not written to: give --out")
    bank = resolve_bank(args.bank)
    if args.discard_existing:
        bank = replace(bank, retrainings=None)
    n_held = 0 if bank.retrainings is None else len(bank.retrainings.selections)
    total = n_held + args.retrainings
    if total < MIN_RETRAININGS:
        raise ValueError(
            f"--retrainings: a datamodel needs {MIN_RETRAININGS} retrainings, and {total} would "
            "be there"
        )
    bank = _retrain(bank, args)
    bank.save(args.out or args.bank)
    _print_fit(bank)


def _training_config(bank: FeatureBank, args: argparse.Namespace) -> TrainingConfig:
    """Return the configuration that the arguments ask for, at the images' proportions."""
    given = {name: getattr(args, name) for name in CONFIGURED}
    given = {name: value for name, value in given.items() if value is not None}
    config = default_config(args.architecture, n_trained_on(bank, args.folds))
    config = replace(config, **given)
    if args.size:
        return replace(config, size=tuple(args.size))
    if bank.train.images is None:
        return config
    return config.for_images(*bank.train.image_size)


def _retrain(bank: FeatureBank, args: argparse.Namespace) -> FeatureBank:
    """Return the bank with further retrainings."""
    config = _training_config(bank, args)
    evaluator = RetrainEvaluator(bank, config=config, folds=args.folds, device=args.device)
    if bank.retrainings is not None:
        differing = differing_settings(bank.retrainings, evaluator, args.seed)
        if differing:
            raise ValueError(
                f"{bank.source}: its retrainings have another configuration or seed "
                f"(theirs → yours), {', '.join(differing)}; give theirs, or use "
                "--discard-existing to drop them"
            )
    with (
        spread(evaluator, args.workers) as parallel,
        progress_bar(args.retrainings, "retraining") as bar,
    ):
        retrain = CachedEvaluator(parallel, RETRAINED)
        bank = with_retrainings(
            bank,
            retrain,
            args.retrainings,
            args.seed,
            on_retraining=lambda done: bar.update(done - bar.n),
        )
    print(retrain)
    return bank


def _print_fit(bank: FeatureBank) -> None:
    """Print the range of the retrainings, and how well a datamodel predicts each without it."""
    datamodel = DatamodelEvaluator(bank)
    truth = datamodel.metrics.log_likelihood
    predicted = datamodel.leave_one_out()
    correlation = np.corrcoef(truth, predicted)[0, 1]
    print(
        f"validation log-likelihood of {len(truth)} retrainings: {truth.min():.3f} to "
        f"{truth.max():.3f}, none {truth[0]:.3f}, all {truth[1]:.3f}"
    )
    print(
        f"predicted without itself: correlation {correlation:.2f}, "
        f"root mean square error {np.std(truth - predicted):.4f}"
    )
    if not correlation >= MIN_CORRELATION:  # nan where all retrainings score the same
        print(
            f"warning: a correlation below {MIN_CORRELATION} means that the datamodel's predictions "
            "mean little; add more retrainings, or use synthselect train --reward-evaluator "
            "linear_probe"
        )
