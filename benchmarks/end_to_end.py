"""The default run of examples/train_ppo.py over several seeds: seconds, memory, and the test table by probe and by retraining.

    python benchmarks/end_to_end.py

Each seed's run, from start to report, is a process of its own, alone on the machine, whose wall-clock time and peak memory are measured. Then
every selection is judged by the linear probe and by full ResNet34 retraining, each with the seed of its run. Finished work is kept in runs/, so that
an interrupted run goes on where it stopped.
"""

import argparse
import csv
import json
import multiprocessing
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, digest
from stable_baselines3 import PPO

from agents.evaluation.comparison import compare
from agents.selectors import PolicySelector
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.storage import atomic_write
from synthselect_env.training.device import available_cores

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_ppo.py"
SELECTORS = ("none", "all", "random", "centroid", "PPO")
METRICS = ("accuracy", "auc", "sensitivity", "specificity")


def train(bank_name: str, seed: int, run: Path) -> dict[str, float]:
    """One default run, with its tables and report; wall-clock seconds and peak megabytes."""
    start = time.perf_counter()
    with (run.parent / f"{run.name}.log").open("w") as log:
        command = [sys.executable, EXAMPLE, "--bank", bank_name, "--seed", str(seed), "--run", run]
        subprocess.run(command, check=True, stdout=log, stderr=log)
    # the largest child so far: an upper bound from the second seed on
    return {
        "seconds": time.perf_counter() - start,
        "megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def judge(bank_name: str, name: str, classifier: str, seed: int, run: Path, threads: int) -> None:
    """One selection of one seed on the test split, as ``compare`` gives it."""
    torch.set_num_threads(threads)
    selector = PolicySelector(PPO.load(run / "model.zip", device="cpu")) if name == "PPO" else name
    compare(resolve_bank(bank_name), [selector], rounds=1, classifier=classifier, seed=seed).save(
        run / f"judged-{classifier}-{name}.csv"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", default="pcam")
    parser.add_argument("--seeds", type=int, default=3, help="at least two")
    parser.add_argument("--classifiers", nargs="+", default=["linear_probe", "resnet34"])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), choices=SELECTORS)
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that judge; they share the cores"
    )
    args = parser.parse_args()
    threads = max(1, available_cores() // args.workers)
    print(
        f"{describe_machine()}; judged by {args.workers} processes of {threads} threads", flush=True
    )
    root = Path("runs") / f"end_to_end-{digest(resolve_bank(args.bank))}"
    runs = [root / f"seed{seed}" for seed in range(args.seeds)]
    for seed, run in enumerate(runs):
        if not (run / "cost.json").exists():
            run.mkdir(parents=True, exist_ok=True)
            cost = train(args.bank, seed, run)
            with atomic_write(run / "cost.json") as path:
                path.write_text(json.dumps(cost))
        cost = json.loads((run / "cost.json").read_text())
        print(
            f"seed {seed}: {cost['seconds']:.0f} s, at most {cost['megabytes']:,.0f} MB", flush=True
        )

    for classifier in args.classifiers:
        rows: dict[str, list[dict[str, str]]] = {name: [] for name in args.selectors}
        with ProcessPoolExecutor(
            args.workers, multiprocessing.get_context("spawn")
        ) as pool:  # CUDA does not survive a fork
            missing = [
                (n, s)
                for s, run in enumerate(runs)
                for n in args.selectors
                if not (run / f"judged-{classifier}-{n}.csv").exists()
            ]
            for task in [
                pool.submit(judge, args.bank, n, classifier, s, runs[s], threads)
                for n, s in missing
            ]:
                task.result()
        for name in args.selectors:
            for run in runs:
                rows[name] += csv.DictReader(
                    (run / f"judged-{classifier}-{name}.csv").read_text().splitlines()
                )
        print(f"\nTest split by {classifier}, {args.seeds} seeds, mean ± std")
        print(
            "| selection | selected | "
            + " | ".join(METRICS)
            + " | validation − test accuracy |\n|---"
            + "|---" * (len(METRICS) + 2)
            + "|"
        )
        for name, own in rows.items():
            figures = [np.array([float(row[f"test_{m}"]) for row in own]) for m in METRICS]
            gap = np.array(
                [float(row["valid_accuracy"]) - float(row["test_accuracy"]) for row in own]
            )
            cells = [f"{v.mean():.4f} ± {v.std(ddof=1):.4f}" for v in figures] + [
                f"{gap.mean():+.4f} ± {gap.std(ddof=1):.4f}"
            ]
            print(
                f"| {name} | {np.mean([int(row['selected']) for row in own]):,.0f} | "
                + " | ".join(cells)
                + " |",
                flush=True,
            )
