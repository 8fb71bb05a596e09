"""Measure what agents learn from real retrainings, beside a datamodel in the same time.

    python benchmarks/real_rewards.py                       # about an hour on two cores
    python benchmarks/real_rewards.py --bank pcam-few --folds 5

Each agent is trained twice: rewarded by a retraining per evaluation, and by the bank's datamodel for
as long. The retrainings that the datamodel was fitted to do not count as time. All selections are
then retrained, and scored on the test split.

Results: benchmarks/results/real_rewards.md
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from learning import AGENTS
from machine import (
    add_worker_arguments,
    describe_machine,
    markdown_row,
    markdown_table,
    score_on,
)

from agents.runs import RETRAINED
from agents.selectors import TrainingSelector
from synthselect_env import FeatureBank
from synthselect_env.bank import resolve_bank
from synthselect_env.evaluators import CachedEvaluator, Evaluator, RetrainEvaluator, spread

METRICS = ("accuracy", "auc", "log_likelihood")
MOST_EVALUATIONS = 16_384
"""Evaluations of a datamodel at most, however much time there is."""


def select(
    name: str, bank: FeatureBank, evaluator: Evaluator | None, evaluations: int, seed: int
) -> tuple[np.ndarray, float]:
    """Train an agent, and return its selection and the seconds that it took.

    :param name: name of the agent in learning.py
    :param bank: feature bank
    :param evaluator: evaluator that rewards; None for the bank's datamodel
    :param evaluations: number of evaluations
    :param seed: random seed of the agent
    """
    algorithm, settings, more = AGENTS[name]
    options = {**settings, **more, "device": "cpu"}
    selector = TrainingSelector(
        algorithm, evaluations=evaluations, evaluator=evaluator, warm_start=False, **options
    )
    start = time.perf_counter()
    mask = selector.select(bank.sealed, seed).mask
    return mask, time.perf_counter() - start


def as_many_as_fit(name: str, bank: FeatureBank, seconds: float, seed: int) -> int:
    """Return the number of a datamodel's evaluations that take so many seconds."""
    few = 256
    _, taken = select(name, bank, None, few, seed)
    return int(np.clip(few * seconds / taken, few, MOST_EVALUATIONS))


def main(args: argparse.Namespace) -> None:
    """Train, judge, and print the table."""
    bank = resolve_bank(args.bank)
    print(f"{describe_machine()}\n{bank.describe()}\n", flush=True)
    none = np.zeros(len(bank.candidates), bool)
    arms: dict[str, list[tuple[np.ndarray, int, float]]] = {
        "none": [(none, 0, 0.0)] * args.seeds,
        "all": [(~none, 0, 0.0)] * args.seeds,
    }
    evaluator = RetrainEvaluator(bank.sealed, folds=args.folds, device=args.device)
    with spread(evaluator, args.workers) as parallel:
        # Start the workers and decode the images, so that no agent's time holds it.
        parallel.evaluate(np.repeat(none[None], args.workers, axis=0), 0)
        for name in args.agents:
            for seed in range(args.seeds):
                mask, seconds = select(name, bank, parallel, args.evaluations, seed)
                row = mask, args.evaluations, seconds
                arms.setdefault(f"{name}, retrainings", []).append(row)
                print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)

                evaluations = as_many_as_fit(name, bank, seconds, seed)
                mask, seconds = select(name, bank, None, evaluations, seed)
                row = mask, evaluations, seconds
                arms.setdefault(f"{name}, datamodel", []).append(row)

    # Judge by retrainings with seeds that no reward has used.
    judge = RetrainEvaluator(bank.sealed, device=args.device)
    found: dict[str, list[list[float]]] = {}
    with spread(judge, args.workers) as parallel:
        cached = CachedEvaluator(parallel, RETRAINED)
        for seed in range(args.seeds):
            masks = np.stack([rows[seed][0] for rows in arms.values()])
            (test,) = score_on(cached, masks, 1000 + seed, bank.test)
            for k, name in enumerate(arms):
                found.setdefault(name, []).append([getattr(test, m)[k] for m in METRICS])
    print("\n" + markdown_table(["agent, rewarded by", "evaluations", "s", "selected", *METRICS]))
    for name, rows in arms.items():
        masks, evaluations, seconds = zip(*rows)
        cells = [name, f"{np.mean(evaluations):,.0f}", f"{np.mean(seconds):,.0f}"]
        cells.append(f"{np.mean([mask.sum() for mask in masks]):,.0f}")
        values = np.array(found[name])
        spreads = values.std(0, ddof=1) if len(values) > 1 else np.full(len(METRICS), np.nan)
        cells += [f"{v:.4f} ± {s:.4f}" for v, s in zip(values.mean(0), spreads)]
        print(markdown_row(cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam-planted")
    parser.add_argument("--folds", type=int, help="folds of the rewards (default: the valid split)")
    parser.add_argument("--agents", nargs="+", default=["PPO", "CreditPPO, no credit"])
    parser.add_argument("--evaluations", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    add_worker_arguments(parser)
    main(parser.parse_args())
