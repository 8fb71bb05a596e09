"""Linear probe: evaluations a second, beside a loop that fits scikit-learn's LogisticRegression on each selection.

    python benchmarks/evaluator_throughput.py

Both sides score the same selections of the same bank in one run. The probe is timed over repeated calls, each with fresh
random selections; the spread is over the repetitions.
"""

import argparse
import time

import numpy as np
import torch
from machine import describe_machine
from sklearn.linear_model import LogisticRegression

from synthselect_env.embedded import resolve_bank
from synthselect_env.evaluators import LinearProbeEvaluator

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bank", default="pcam")
parser.add_argument("--k", type=int, nargs="+", default=[1, 16, 64, 256])
parser.add_argument("--repetitions", type=int, default=20)
parser.add_argument("--loop", type=int, default=5, help="selections for the scikit-learn side")
parser.add_argument("--device", default="auto")
args = parser.parse_args()
torch.set_num_threads(2)

bank = resolve_bank(args.bank)
start = time.perf_counter()
probe = LinearProbeEvaluator(bank, device=args.device)
print(describe_machine())
print(
    f"{bank.source.split('/')[-1]}: {len(bank.train):,} real, {len(bank.candidates):,} candidates, {len(bank.valid):,} validation; set-up {time.perf_counter() - start:.2f} s"
)
rng = np.random.default_rng(0)
fastest = 0.0
for k in args.k:
    rates = []
    for repetition in range(args.repetitions + 1):
        masks = rng.random((k, len(bank.candidates))) < rng.random((k, 1))
        start = time.perf_counter()
        probe.evaluate(masks, 0)
        if repetition:  # the first call warms up
            rates.append(k / (time.perf_counter() - start))
    fastest = max(fastest, np.median(rates))
    print(f"linear probe, k = {k:>4}: {np.median(rates):>8,.0f} evaluations/s (n = {len(rates)}, {min(rates):,.0f} to {max(rates):,.0f})")

seconds = []
for _ in range(args.loop):
    mask = rng.random(len(bank.candidates)) < 0.5
    x, y = (
        np.concatenate([bank.train.features, bank.candidates.features[mask]]),
        np.concatenate([bank.train.labels, bank.candidates.labels[mask]]),
    )
    start = time.perf_counter()
    LogisticRegression(max_iter=1000).fit(x, y).predict_proba(bank.valid.features)
    seconds.append(time.perf_counter() - start)
print(
    f"scikit-learn LogisticRegression on all {bank.n_features} features: {1 / np.median(seconds):.2f} evaluations/s (n = {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f} s each)"
)
print(f"ratio at the best k: {fastest * np.median(seconds):,.0f}")
