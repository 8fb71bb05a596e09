"""The default run of examples/train_ppo.py over several seeds: seconds, memory, and the test table by probe and by retraining.

    python benchmarks/end_to_end.py

Each seed trains in a process of its own, whose wall-clock time and peak memory are measured. Then every selection is judged by
the linear probe and by full ResNet34 retraining, each with the seed of its run. Finished seeds are kept in runs/, so that an
interrupted run goes on where it stopped.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, digest
from stable_baselines3 import PPO

from agents.compare import compare
from agents.report import verdict
from agents.selectors import PolicySelector
from synthselect_env.embedded import resolve_bank
from synthselect_env.files import atomic_write

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_ppo.py"
METRICS = ("accuracy", "auc", "sensitivity", "specificity")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bank", default="pcam")
parser.add_argument("--seeds", type=int, default=3, help="at least two")
parser.add_argument("--classifiers", nargs="+", default=["linear_probe", "resnet34"])
args = parser.parse_args()
torch.set_num_threads(2)
print(describe_machine(), flush=True)

bank = resolve_bank(args.bank)
root = Path("runs") / f"end_to_end-{digest(bank)}"
for seed in range(args.seeds):
    run = root / f"seed{seed}"
    if not (run / "cost.json").exists():
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, EXAMPLE, "--bank", args.bank, "--seed", str(seed), "--run", run],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # the largest child so far: an upper bound from the second seed on
        cost = {"seconds": time.perf_counter() - start, "megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}
        with atomic_write(run / "cost.json") as path:
            path.write_text(json.dumps(cost))
    cost = json.loads((run / "cost.json").read_text())
    print(f"seed {seed}: {cost['seconds']:.0f} s, at most {cost['megabytes']:,.0f} MB", flush=True)

for classifier in args.classifiers:
    rows: list[dict[str, str]] = []
    for seed in range(args.seeds):
        run = root / f"seed{seed}"
        file = run / f"judged-{classifier}.csv"
        if not file.exists():
            policy = PolicySelector(PPO.load(run / "model.zip", device="cpu"))
            comparison = compare(bank, ["none", "all", "random", "centroid", policy], rounds=1, classifier=classifier, seed=seed)
            comparison.save(file)
            print(f"seed {seed}, {classifier}: {verdict(comparison, policy.name)}", flush=True)
        with file.open(newline="") as lines:
            rows += list(csv.DictReader(lines))
    print(f"\nTest split by {classifier}, {args.seeds} seeds, mean ± std")
    print("| selection | selected | " + " | ".join(METRICS) + " | validation − test accuracy |\n|---" + "|---" * (len(METRICS) + 2) + "|")
    for name in dict.fromkeys(row["selector"] for row in rows):
        own = [row for row in rows if row["selector"] == name]
        figures = [np.array([float(row[f"test_{m}"]) for row in own]) for m in METRICS]
        gap = np.array([float(row["valid_accuracy"]) - float(row["test_accuracy"]) for row in own])
        cells = [f"{v.mean():.4f} ± {v.std(ddof=1):.4f}" for v in figures] + [f"{gap.mean():+.4f} ± {gap.std(ddof=1):.4f}"]
        print(f"| {name} | {np.mean([int(row['selected']) for row in own]):,.0f} | " + " | ".join(cells) + " |")
