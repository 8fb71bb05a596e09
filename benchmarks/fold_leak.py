"""Measure how much too good a selection looks by folds that was made with the labels it is scored on.

    python benchmarks/fold_leak.py --draws 1

A fold is labelled by a network that was not trained on it. But the selection may have been made
with its labels: by features of an extractor that was trained on it, or by scores that it enters.
Each order is therefore selected twice: once on all annotated images, as a user does, and once for
each fold on a bank without it, whose extractor has never seen it (cross-fitted). Both are retrained
and scored on the same folds.

Time on two cores: about five minutes per draw.

Results: fold_leak.md in benchmarks/results/
"""

from __future__ import annotations

import argparse

import numpy as np
from machine import add_worker_arguments, describe_machine, markdown_row, markdown_table

from agents.selectors import make_selector
from synthselect_env import load_bank
from synthselect_env.bank.extraction import without_fold
from synthselect_env.evaluators import Evaluations, RetrainEvaluator, spread

SELECTORS = (
    "none",
    "random@2",
    "centroid",
    "confidence",
    "label fit + realism",
    "centroid@2",
    "confidence@2",
)
FOLDS = 5
METRICS = ("log_likelihood", "accuracy")


def measure(draw: int, workers: int) -> dict[tuple[str, str], np.ndarray]:
    """Return the metrics by way and selector, means over all annotated images."""
    bank = load_bank("pcam-few", draw).sealed
    evaluator = RetrainEvaluator(bank, folds=FOLDS)
    masks = [make_selector(name).select(bank, draw).mask for name in SELECTORS]
    sums: dict[tuple[str, str], np.ndarray] = {}
    with spread(evaluator, workers) as parallel:
        for number in range(FOLDS):
            held, fold = evaluator.fold_of == number, evaluator.fold(number)
            without = without_fold(bank, number, FOLDS, draw)
            crossed = [make_selector(name).select(without, draw).mask for name in SELECTORS]
            log_p = parallel.predict(np.stack([*masks, *crossed]), draw, fold)
            found = Evaluations.from_predictions(log_p, fold.labels)
            values = np.stack([getattr(found, metric) for metric in METRICS], axis=1)
            keys = [(way, name) for way in ("same", "crossed") for name in SELECTORS]
            for key, row in zip(keys, values):
                sums[key] = sums.get(key, 0) + row * held.sum() / len(held)
    return sums


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, nargs="+", default=[1])
    add_worker_arguments(parser)
    args = parser.parse_args()
    print(describe_machine(), flush=True)
    columns = [
        "draw",
        "selection",
        "by folds, with all labels",
        "cross-fitted",
        "the same, accuracy",
        "",
    ]
    print(markdown_table(columns), flush=True)
    for draw in args.draws:
        found = measure(draw, args.workers)
        for name in SELECTORS:
            same, crossed = found["same", name], found["crossed", name]
            cells = [f"{same[0]:.4f}", f"{crossed[0]:.4f}", f"{same[1]:.4f}", f"{crossed[1]:.4f}"]
            print(markdown_row([f"{draw}", name, *cells]), flush=True)
