"""Retrain a network on a few dozen selections of a bank.

    synthselect retrain --bank mine.h5                  # into the same file
    synthselect retrain --bank mine.h5 --folds 5        # few real images: score each of them
    synthselect retrain --bank pcam --out pcam.h5 --discard-existing --architecture resnet34

An environment of a bank with retrainings is rewarded by a datamodel that is fitted to them.
Finished retrainings are kept in runs/retrained, so that an interrupted command can go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agents.cli.common import Facts, SeededCommand, changed_config
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
from synthselect_env.training.classifier import build_network
from synthselect_env.training.config import SMALL, default_config

MIN_RETRAININGS = 10
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


def least_retrainings(folds: int | None) -> int:
    """Return how many retrainings a datamodel needs.

    By folds the first two of each are extremes, and one fold at a time is left out.

    :param folds: number of folds that score them, or None
    """
    return MIN_RETRAININGS + 2 * (folds or 0)


@dataclass(frozen=True, kw_only=True)
class Retrain(SeededCommand):
    """Retrain a network on a few dozen selections of a bank, for a datamodel to learn from.

    An environment of a bank with retrainings is rewarded by a datamodel that is fitted to them.
    Finished retrainings are kept in runs/retrained, so that an interrupted command can go on.

    :param bank: file, or name of an embedded bank
    :param out: bank to write; the bank's own file unless given
    :param retrainings: number to add; with the bank's own, at least 10, and two more per fold
    :param discard_existing: drop the bank's own retrainings, e.g. to use another configuration
    :param folds: score each real image by a network that was trained on the other folds;
        unless given, train on the train split and score the valid split
    :param architecture: small_cnn, or a torchvision network
    :param size: height and width in pixels; the architecture's unless given, as in the next five
    :param epochs: epochs of a retraining
    :param steps_per_epoch: steps per epoch
    :param batch_size: images per step
    :param learning_rate: highest learning rate
    :param augmentation: none, traditional, flips or histology
    :param workers: processes; one per core unless given, on a GPU one
    """

    bank: str
    out: Path | None = None
    retrainings: int = 48
    discard_existing: bool = False
    folds: int | None = None
    architecture: str = SMALL.architecture
    size: tuple[int, int] | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    augmentation: str | None = None
    workers: int | None = None

    def run(self) -> Facts:
        """Retrain, write the bank, and say how well a datamodel predicts the retrainings."""
        # An unknown architecture is said before anything is read.
        build_network(default_config(self.architecture), n_classes=2, seed=self.seed)
        if self.bank in EMBEDDED and self.out is None:
            raise ValueError("an embedded bank is not written to: give --out")
        bank = resolve_bank(self.bank)
        if self.discard_existing:
            bank = replace(bank, retrainings=None)
        n_held = 0 if bank.retrainings is None else len(bank.retrainings.selections)
        total = n_held + self.retrainings
        least = least_retrainings(self.folds)
        if total < least:
            raise ValueError(
                f"--retrainings: a datamodel needs {least} retrainings, and {total} would be there"
            )
        bank = _retrain(bank, self)
        out = self.out or Path(self.bank)
        bank.save(out)
        return {"bank": str(out), "retrainings": total, "left_out_correlation": _print_fit(bank)}


def _retrain(bank: FeatureBank, args: Retrain) -> FeatureBank:
    """Return the bank with further retrainings."""
    config = default_config(args.architecture, n_trained_on(bank, args.folds))
    config = changed_config(config, args, CONFIGURED, bank.train)
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


def _print_fit(bank: FeatureBank) -> float:
    """Print the range of the retrainings, and return how well each is predicted without it."""
    datamodel = DatamodelEvaluator(bank)
    truth = datamodel.metrics.log_likelihood
    predicted = datamodel.leave_one_out()
    counts = datamodel.selections.sum(1)
    none, whole = truth[counts == 0].mean(), truth[counts == counts.max()].mean()
    correlation = np.corrcoef(truth, predicted)[0, 1]
    print(
        f"validation log-likelihood of {len(truth)} retrainings: {truth.min():.3f} to "
        f"{truth.max():.3f}, none {none:.3f}, all {whole:.3f}"
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
    return float(correlation)
