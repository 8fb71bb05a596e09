"""Linear probe: evaluations a second, beside a loop that fits scikit-learn's LogisticRegression on each selection.

    python benchmarks/evaluator_throughput.py

Both sides score the same kind of selections of the same bank in one run. "fresh" selections have nothing in common with those of
the call before; "episode" ones grow by one of eight batches a call, as the environment plays them. The spread is over repeated
calls. The larger pools are made from the bank's own candidates with noise, and lie in a memory-mapped file.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from sklearn.linear_model import LogisticRegression

from synthselect_env import FeatureBank, Dataset
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.evaluators import LinearProbeEvaluator


def seconds(call: Callable[[], object], repetitions: int) -> np.ndarray:
    """Seconds of each repetition after one that warms up."""
    call()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times)


def scoring(probe: LinearProbeEvaluator, calls: list[np.ndarray]) -> Callable[[], object]:
    """Score the next selections, call by call."""
    queue = iter(calls)
    return lambda: probe.evaluate(next(queue), 0)


def product_rate(device: torch.device, size: int = 2048) -> float:
    """Float64 matrix-product rate of the machine, in floating-point operations a second."""
    a, b = (torch.rand(size, size, dtype=torch.float64, device=device) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / float(np.median(seconds(product, 5)))


def operations(probe: LinearProbeEvaluator, candidates: int) -> float:
    """Multiplications and additions in one evaluation: sums over the candidates, the solve, the validation scores."""
    p, c, v = probe.n_components + 1, len(probe.bank.classes), len(probe.bank.valid)
    return 2 * candidates * (p * (p + 1) / 2 + p * c) + 2 / 3 * p**3 + 2 * p * p * c + 2 * v * p * c


def anonymous_memory() -> float:
    """Megabytes that the process holds beside mapped files (Linux)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next(
        (int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan")
    )


def enlarged(bank: FeatureBank, n: int, directory: Path) -> FeatureBank:
    """The bank with n candidates: its own over and over, with noise, in a memory-mapped file."""
    rng, own = np.random.default_rng(0), bank.candidates
    features = np.memmap(directory / "features", np.float32, "w+", shape=(n, bank.n_features))
    scale = own.features.std(0)
    for start in range(0, n, len(own)):
        part = features[start : start + len(own)]
        part[:] = own.features[: len(part)] + 0.1 * scale * rng.standard_normal(
            part.shape, np.float32
        )
    return replace(bank, candidates=Dataset(features, np.resize(own.labels, n)), retrainings=None)


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--bank", default="pcam")
parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
parser.add_argument("--pools", type=int, nargs="*", default=[4_000, 40_000, 400_000])
parser.add_argument("--repetitions", type=int, default=40)
parser.add_argument("--loop", type=int, default=5, help="selections for the scikit-learn side")
parser.add_argument("--device", default="auto")
args = parser.parse_args()
torch.set_num_threads(2)

bank, rng = resolve_bank(args.bank), np.random.default_rng(0)
start = time.perf_counter()
probe = LinearProbeEvaluator(bank, device=args.device)
print(describe_machine())
print(
    f"{bank.source.split('/')[-1]}: {len(bank.train):,} real, {len(bank.candidates):,} candidates, {len(bank.valid):,} validation; "
    f"{probe.n_components} components; set-up {time.perf_counter() - start:.2f} s"
)
peak = product_rate(probe.device)
print(f"float64 matrix product of the machine: {peak / 1e9:,.0f} GFLOP/s\n")

batches = bank.batches
print(
    "| k | fresh selections: evaluations/s | share of the product rate | episode: evaluations/s | share |\n|---|---|---|---|---|"
)
rates = {}
for k in args.k:
    pools = [
        rng.random((k, len(bank.candidates))) < rng.random((k, 1))
        for _ in range(args.repetitions + 1)
    ]
    fresh = k / seconds(scoring(probe, pools), args.repetitions)
    masks, steps = np.zeros((k, len(bank.candidates)), bool), []
    for step in range(args.repetitions + 1):
        masks = masks.copy() if step % len(batches) else np.zeros_like(masks)
        masks[:, batches[step % len(batches)]] = (
            rng.random((k, len(batches[step % len(batches)]))) < 0.5
        )
        steps.append(masks)
    episode = k / seconds(scoring(probe, steps), args.repetitions)
    rates[k] = float(np.median(fresh))
    cells = [
        f"{np.median(rate):,.0f} ({rate.min():,.0f} to {rate.max():,.0f}) | {np.median(rate) * operations(probe, n) / peak:.1%}"
        for rate, n in (
            (fresh, len(bank.candidates)),
            (episode, len(bank.candidates) / len(batches)),
        )
    ]
    print(f"| {k:,} | {' | '.join(cells)} |", flush=True)

times = []
for _ in range(args.loop):
    mask = rng.random(len(bank.candidates)) < 0.5
    x = np.concatenate([bank.train.features, bank.candidates.features[mask]])
    y = np.concatenate([bank.train.labels, bank.candidates.labels[mask]])
    start = time.perf_counter()
    LogisticRegression(max_iter=1000).fit(x, y).predict_proba(bank.valid.features)
    times.append(time.perf_counter() - start)
loop = 1 / np.median(times)
print(
    f"\nscikit-learn LogisticRegression on all {bank.n_features} features, a selection at a time: {loop:.2f} evaluations/s"
)
print(
    f"(n = {len(times)}, {min(times):.2f} to {max(times):.2f} s each); ratio at k = {max(rates, key=rates.get):,}: {max(rates.values()) / loop:,.0f}"
)

if args.pools:
    print(
        "\n| candidates | set-up, s | k = 64, fresh: s a call | microseconds an evaluation and 1,000 candidates | memory beside the mapped file, MB |"
    )
    print("|---|---|---|---|---|")
for n in args.pools:
    with tempfile.TemporaryDirectory() as directory:
        large = enlarged(bank, n, Path(directory))
        start = time.perf_counter()
        probe = LinearProbeEvaluator(large, device=args.device)
        set_up = time.perf_counter() - start
        pools = [rng.random((64, n)) < rng.random((64, 1)) for _ in range(4)]
        call = seconds(scoring(probe, pools), 3)
        del pools
        print(
            f"| {n:,} | {set_up:.2f} | {np.median(call):.3f} ({call.min():.3f} to {call.max():.3f}) "
            f"| {np.median(call) / 64 / n * 1e9:,.1f} | {anonymous_memory():,.0f} |",
            flush=True,
        )
