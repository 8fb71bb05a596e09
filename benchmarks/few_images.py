"""Measure what candidates are worth where few real images are annotated, by number and by selector.

    python benchmarks/few_images.py                      # about 6 minutes per draw on two cores
    python benchmarks/few_images.py --parts folds        # on a GPU
    python benchmarks/few_images.py --draws 0 1 2 --ratios 1 2

selections: each selector's best candidates, at several numbers of synthetic per real image. The
network is trained on all annotated images of a draw and the selection, and scored on the patches
that this draw, the generators and the selectors have not seen. "upper bound" is credit ascent on a datamodel of the
judge's own likelihood. It looks at the test patches, and shows what there is to win.

folds: does a reward by folds pick better selections than a 3:1 split of the same images? Both score
the same selections. The best of each is then judged on the test patches.

Finished retrainings are kept in runs/. Results: benchmarks/results/few_images.md
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from machine import (
    add_worker_arguments,
    describe_machine,
    markdown_row,
    markdown_table,
    mean_and_error,
)
from scipy.stats import spearmanr

from agents.runs import RETRAINED
from agents.selectors import SELECTORS, CreditSelector
from agents.selectors.base import best_of_each_class
from synthselect_env import Dataset, FeatureBank, load_bank
from synthselect_env.bank.embedded import draw_few
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    RetrainEvaluator,
    draw_design,
    spread,
    with_retrainings,
)
from synthselect_env.training.config import SMALL

PARTS = ("selections", "folds")
METRICS = ("accuracy", "auc", "log_likelihood")
SIMPLE = ("random", "centroid", "confidence", "Data-OOB", "triplet")
"""Selectors that order the candidates."""

UPPER_BOUND = "upper bound"
LUCK = 1000
"""Added to the seed of a retraining that must not share the luck of an earlier one."""


def judging(bank: FeatureBank) -> FeatureBank:
    """Return the bank that trains on all annotated images and is scored on the test patches."""
    annotated = Dataset.concatenate([bank.train, bank.valid])
    return replace(bank, train=annotated, valid=bank.test, test=None, retrainings=None)


def best_seen(
    judge: FeatureBank, retrain: CachedEvaluator, n: int, masks: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Return the selection that the judge likes best: of those given, of a design, and of ascent.

    :param judge: bank of :func:`judging`
    :param retrain: evaluator of that bank
    :param n: number of retrainings of the design
    :param masks: selections, bool (k, n)
    :param values: the judge's likelihood of each (k,)
    """
    judged = with_retrainings(judge, retrain, n, seed=0)
    assert judged.retrainings is not None
    ascent = CreditSelector(DatamodelEvaluator(judged)).select(judged, seed=0).mask[None]
    of_ascent = retrain.evaluate(ascent, 0).log_likelihood  # (1,)
    of_design = judged.retrainings.metrics["log_likelihood"][:, -1]
    seen = np.concatenate([masks, ascent, judged.retrainings.selections])
    return seen[np.concatenate([values, of_ascent, of_design]).argmax()]


def arms_of(
    bank: FeatureBank, args: argparse.Namespace
) -> dict[tuple[str, float | None], np.ndarray]:
    """Return selector and synthetic images per real one to its selection.

    The number is None for a selection that has its own size.
    """
    n_real = len(bank.train) + len(bank.valid)
    labels = bank.candidates.labels
    none = np.zeros(len(labels), bool)
    arms: dict[tuple[str, float | None], np.ndarray] = {("none", 0.0): none}
    arms["all", len(labels) / n_real] = ~none
    groups = bank.candidates.groups or ()
    for generator in sorted(set(groups)):
        arms[generator, None] = np.array([group == generator for group in groups])
    for name in SIMPLE:
        scores = SELECTORS[name]().select(bank.sealed, args.seed).scores
        for ratio in args.ratios:
            counts = ratio * n_real * np.bincount(labels) / len(labels)
            arms[name, ratio] = best_of_each_class(scores, labels, counts)
    return arms


def measure_selections(args: argparse.Namespace) -> None:
    """Print the gain of each selector at each ratio, over the draws."""
    found: dict[tuple[str, float | None], list[dict[str, float]]] = {}
    for draw in args.draws:
        bank = load_bank("pcam-few", draw)
        judge = judging(bank)
        with spread(RetrainEvaluator(judge, device=args.device), args.workers) as parallel:
            retrain = CachedEvaluator(parallel, RETRAINED)
            arms = arms_of(bank, args)
            masks = np.stack(list(arms.values()))
            judged = retrain.evaluate(masks, draw)
            rows = [{m: float(getattr(judged, m)[k]) for m in METRICS} for k in range(len(arms))]
            if args.retrainings:
                # Judge the best once more, as the best of many is also a lucky one.
                likelihood = judged.log_likelihood
                best = best_seen(judge, retrain, args.retrainings, masks, likelihood)
                again = retrain.evaluate(best[None], LUCK + draw)
                arms[UPPER_BOUND, None] = best
                rows.append({m: float(getattr(again, m)[0]) for m in METRICS})
        for arm, metrics in zip(arms, rows):
            found.setdefault(arm, []).append(metrics)
        print(f"draw {draw}: {retrain}", flush=True)

    # Print the table of means, and the gains over none.
    columns = ["selector", "synthetic per real", *METRICS, *(f"gain in {m}" for m in METRICS)]
    print(f"\nmean ± standard error over {len(args.draws)} draws\n{markdown_table(columns)}")
    none = {m: np.array([row[m] for row in found["none", 0.0]]) for m in METRICS}
    for (name, ratio), rows in found.items():
        values = {m: np.array([row[m] for row in rows]) for m in METRICS}
        cells = [f"{values[m].mean():.4f}" for m in METRICS]
        cells += [mean_and_error(values[m] - none[m]) for m in METRICS]
        print(markdown_row([name, "its own" if ratio is None else f"{ratio:.3g}", *cells]))


def measure_folds(args: argparse.Namespace) -> None:
    """Print what the selection chosen by folds, and the one chosen by a split, are worth."""
    columns = ["annotated", "reward", "test log-likelihood of its choice", "Spearman with test"]
    print(f"{args.choices} selections per draw, {len(args.draws)} draws\n{markdown_table(columns)}")
    for n_real in args.annotated:
        rows: dict[str, list[tuple[float, float]]] = {}
        for draw in args.draws:
            bank = draw_few(load_bank("pcam-few"), draw, n_real)
            masks = draw_design(bank.sealed, args.choices, draw)
            options = {"config": SMALL, "device": args.device}  # as many steps for all
            evaluators = {
                "5 folds": RetrainEvaluator(bank, folds=5, **options),
                "3:1 split": RetrainEvaluator(bank, **options),
                "test": RetrainEvaluator(judging(bank), **options),
            }
            found = {}
            for name, evaluator in evaluators.items():
                with spread(evaluator, args.workers) as parallel:
                    retrain = CachedEvaluator(parallel, RETRAINED)
                    # The judge has a seed of its own, so that no reward shares its noise.
                    seed = draw + LUCK * (name == "test")
                    found[name] = retrain.evaluate(masks, seed).log_likelihood
            truth = found.pop("test")
            for name, reward in found.items():
                chosen = float(truth[reward.argmax()])
                rows.setdefault(name, []).append((chosen, float(spearmanr(reward, truth)[0])))
            rows.setdefault("any of them", []).append((float(truth.mean()), np.nan))
        for name, values in rows.items():
            chosen_by, agreement_of = np.array(values).T
            cells = [mean_and_error(chosen_by), mean_and_error(agreement_of)]
            print(markdown_row([f"{n_real}", name, *cells]), flush=True)


MEASURES = dict(zip(PARTS, (measure_selections, measure_folds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["selections"])
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 1, 2, 4])
    parser.add_argument(
        "--retrainings", type=int, default=48, help="of the upper bound's datamodel; 0 for none"
    )
    parser.add_argument("--annotated", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--choices", type=int, default=32, help="selections to choose among")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the selectors")
    parser.add_argument("--device", default="auto")
    add_worker_arguments(parser)
    args = parser.parse_args()
    print(describe_machine(), flush=True)
    for part in args.parts:
        print(f"\n## {part}\n", flush=True)
        MEASURES[part](args)
