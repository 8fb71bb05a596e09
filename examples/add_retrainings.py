"""Retrain a network on a few dozen selections of a bank, so that rewards can come from what retraining said.

python examples/add_retrainings.py --bank mine.h5                  # into the same file; 48 retrainings of a ResNet18 at 32 px
python examples/add_retrainings.py --bank pcam --out pcam.h5 --fresh --architecture resnet34 --size 48 48 --batch-size 64

An environment of a bank that has retrainings is rewarded by a datamodel that is fitted to them. Finished retrainings are kept in
runs/retrained, so that an interrupted run goes on where it stopped.
"""

import argparse
import importlib.util
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from synthselect_env.bank.embedded import EMBEDDED, resolve_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    with_retrainings,
)
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import QUICK

LEAST = 9
"""Retrainings that a datamodel of candidates with images is fitted to, at least."""

if __name__ == "__main__":  # the processes that retrain import this file, too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", required=True, help="a file, or an embedded bank")
    parser.add_argument("--out", type=Path, help="default: the bank's own file")
    parser.add_argument("--n", type=int, default=48, help="retrainings to add")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="drop the retrainings that the bank has, e.g. for another recipe",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the selections and all retrainings")
    parser.add_argument("--architecture", default=QUICK.architecture)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help=f"pixels (default: {min(QUICK.size)} on the shorter side)",
    )
    parser.add_argument("--epochs", type=int, default=QUICK.epochs)
    parser.add_argument("--steps-per-epoch", type=int, default=QUICK.steps_per_epoch)
    parser.add_argument("--batch-size", type=int, default=QUICK.batch_size)
    parser.add_argument("--learning-rate", type=float, default=QUICK.learning_rate)
    parser.add_argument(
        "--augmentation",
        choices=AUGMENTATIONS,
        default=QUICK.augmentation,
        help="of training pictures",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that retrain side by side (default: one a core, on a GPU one)",
    )
    args = parser.parse_args()
    if args.bank in EMBEDDED and args.out is None:
        parser.error("an embedded bank is not written to: give --out")

    bank = resolve_bank(args.bank)
    if args.fresh:
        bank = replace(bank, retrainings=None)
    held = 0 if bank.retrainings is None else len(bank.retrainings.selections)
    if held + args.n < LEAST:
        parser.error(
            f"--n: a datamodel needs {LEAST} retrainings, and {held + args.n} would be there"
        )
    recipe = (
        "architecture",
        "epochs",
        "steps_per_epoch",
        "batch_size",
        "learning_rate",
        "augmentation",
    )
    config = replace(QUICK, **{name: getattr(args, name) for name in recipe})
    if args.size:
        config = replace(config, size=tuple(args.size))
    elif bank.train.images is not None:
        config = config.for_images(*bank.train.image_size)
    with ExitStack() as stack:
        evaluator = RetrainEvaluator(bank, config=config, device=args.device)
        parallel = stack.enter_context(ParallelEvaluator(evaluator, args.workers))
        retrain = CachedEvaluator(parallel, "runs/retrained")
        report = None
        if importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            bar = stack.enter_context(tqdm(total=args.n, unit="retraining"))
            report = lambda done: bar.update(done - bar.n)  # noqa: E731
        bank = with_retrainings(bank, retrain, args.n, args.seed, on_retraining=report)
    bank.save(args.out or args.bank)

    datamodel = DatamodelEvaluator(bank)
    truth, predicted = datamodel.figures.log_likelihood, datamodel.leave_one_out()
    print(retrain)
    print(
        f"validation log-likelihood of {len(truth)} retrainings: {truth.min():.3f} to {truth.max():.3f}, none {truth[0]:.3f}, all {truth[1]:.3f}"
    )
    print(
        f"predicted without itself: correlation {np.corrcoef(truth, predicted)[0, 1]:.2f}, root mean square error {np.std(truth - predicted):.4f}"
    )
