"""Measure whether following the recommendation pays, and whether agents keep up with simple orders.

    python benchmarks/recommendation.py
    python benchmarks/recommendation.py --banks pcam-few --draws 0 1 2
    python benchmarks/recommendation.py --banks pcam-planted --ablation

Several ways to select are retrained and scored on the annotated images, and one is recommended,
as ``synthselect train`` and ``auto`` do. Patches that no choice has seen say what it
gained. Beside it stand the best simple order of all, chosen with hindsight, and each way by itself.

A case of ``pcam-few`` is a draw of annotated patches with its own retrainings, scored by folds. A
case of another bank is a seed of agents, orders and judges.

Time on two cores: about ten minutes per draw, and one to four per seed of another bank. Finished
retrainings are kept in runs/, so that a rerun is instant.

Results: recommendation.md in benchmarks/results/
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import (
    add_worker_arguments,
    describe_machine,
    markdown_row,
    markdown_table,
    mean_and_error,
)
from stable_baselines3 import PPO

from agents import CREDIT_PPO_DEFAULTS, PPO_DEFAULTS, CreditPPO
from agents.evaluation import Comparison
from agents.evaluation.bootstrap import standard_error
from agents.progress import hidden
from agents.runs import RETRAINED, RunConfig, compare_by
from agents.selectors import Selector, TrainingSelector
from synthselect_env import FeatureBank, load_bank
from synthselect_env.evaluators import CachedEvaluator, RetrainEvaluator, spread, with_retrainings
from synthselect_env.training.config import SMALL

SIMPLE = (
    "none",
    "all",
    "random@1",
    "random@2",
    "random@4",
    "random",
    "centroid",
    "confidence",
    "triplet",
    "label fit + realism@2",
    "label fit + realism",
)
"""Ways to select without learning. Without a size it is half of the pool."""

AGENTS: dict[str, TrainingSelector] = {
    "PPO": TrainingSelector(PPO, **PPO_DEFAULTS),
    "CreditPPO": TrainingSelector(CreditPPO, **CREDIT_PPO_DEFAULTS),
}

ABLATED: dict[str, TrainingSelector] = {
    "PPO that sees features": TrainingSelector(
        PPO, observation="features", name="PPO that sees features", **PPO_DEFAULTS
    ),
    "PPO from one half": TrainingSelector(
        PPO, warm_start=False, name="PPO from one half", **PPO_DEFAULTS
    ),
}
"""Agents that lack a part each."""

FEW, FOLDS = "pcam-few", 5
"""The bank whose annotated patches are drawn, and its folds."""

METRICS = ("accuracy", "log_likelihood")


def bank_of(name: str, case: int, args: argparse.Namespace) -> FeatureBank:
    """Return the bank of a case, with retrainings for the reward."""
    if name != FEW:
        return load_bank(name)
    bank = replace(load_bank(name, case), retrainings=None)  # the first draw has embedded ones
    evaluator = RetrainEvaluator(bank.sealed, folds=FOLDS, device=args.device)
    with spread(evaluator, args.workers) as parallel:
        cached = CachedEvaluator(parallel, RETRAINED)
        return with_retrainings(bank, cached, args.retrainings, seed=case)


def compared(name: str, case: int, args: argparse.Namespace) -> Comparison:
    """Return the comparison of one case."""
    bank = bank_of(name, case, args)
    contenders: list[str | Selector] = [*SIMPLE, *AGENTS.values()]
    if args.ablation:
        contenders += ABLATED.values()
    if bank.candidates.flaw is not None:
        contenders.append("oracle")
    config = RunConfig(
        folds=FOLDS if name == FEW else None, rounds=args.rounds, seed=case, device=args.device
    )
    folder = Path("runs/recommendation") / f"{name}-{case}"
    with hidden():
        return compare_by(config, bank, SMALL.architecture, contenders, folder, args.workers)


def gains(comparison: Comparison, name: str) -> np.ndarray:
    """Return the mean test gains of a selector over none.  (metrics,)"""
    none = [comparison.test_metrics("none", metric) for metric in METRICS]
    ours = [comparison.test_metrics(name, metric) for metric in METRICS]
    return np.array([(o - n).mean() for o, n in zip(ours, none)])


def error_of_a_gain(comparison: Comparison) -> float:
    """Return the standard error of random@2's gain in log-likelihood on the annotated images."""
    ours, none = comparison.of("random@2")[0], comparison.of("none")[0]
    return standard_error(ours.valid_likelihoods - none.valid_likelihoods)


def report(name: str, cases: list[Comparison]) -> None:
    """Print the table of a bank."""
    names = cases[0].selectors
    found = {n: np.stack([gains(case, n) for case in cases]) for n in names}  # (cases, metrics)
    chosen = [case.recommended() for case in cases]
    simple = [n for n in SIMPLE if n in names]
    best = max(simple, key=lambda n: found[n][:, 0].mean())
    followed = np.stack([found[n][i] for i, n in enumerate(chosen)])

    def row(title: str, values: np.ndarray, images: str) -> str:
        cells = [mean_and_error(values[:, 0], 100, 1), mean_and_error(values[:, 1], 1, 3)]
        not_worse = [f"{np.mean(values[:, m] >= 0):.0%}" for m in range(len(METRICS))]
        return markdown_row([title, images, *cells, *not_worse])

    columns = ["selection", "images", "gain in accuracy, points", "gain in log-likelihood"]
    columns += ["accuracy not below none", "log-likelihood not below none"]
    print(f"\n### {name}, {len(cases)} cases\n\n{markdown_table(columns)}")
    for n in names:
        counts = [o.selection.count for case in cases for o in case.of(n)]
        print(row(n, found[n], f"{np.mean(counts):,.0f}"))
    print(row("**recommended**", followed, ""))
    print(row(f"best simple order with hindsight: {best}", found[best], ""))
    behind = followed - found[best]
    told = ", ".join(f"{n} {count}" for n, count in Counter(chosen).most_common())
    errors = [error_of_a_gain(case) for case in cases]
    print(
        f"\nThe gain of random@2 in log-likelihood on the annotated images has a standard error of "
        f"{np.mean(errors):.3f}."
    )
    print(
        f"\nRecommended: {told}. Recommended less the best simple order: "
        f"{mean_and_error(behind[:, 0], 100, 1)} points, {mean_and_error(behind[:, 1], 1, 3)}.",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    banks = [FEW, "pcam-planted", "cervical", "pcam"]
    parser.add_argument("--banks", nargs="+", choices=banks, default=banks)
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--rounds", type=int, default=2, help="retrainings of each selection")
    parser.add_argument("--retrainings", type=int, default=48, help="per draw, for the reward")
    parser.add_argument("--ablation", action="store_true", help="also agents that lack a part")
    parser.add_argument("--device", default="auto")
    add_worker_arguments(parser)
    args = parser.parse_args()
    print(describe_machine(), flush=True)
    for bank in args.banks:
        results = []
        for case in args.draws if bank == FEW else args.seeds:
            results.append(compared(bank, case, args))
            print(f"{bank} {case}: {results[-1].recommended()}", flush=True)
        report(bank, results)
