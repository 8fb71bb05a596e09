"""Measure how fast the linear probe scores, a retraining runs, and an agent trains.

    python benchmarks/speed.py                       # about a quarter of an hour on two cores
    python benchmarks/speed.py --part evaluators     # about three minutes
    python benchmarks/speed.py --part retraining     # about fifteen minutes
    python benchmarks/speed.py --part policy         # about a minute

evaluators: evaluations per second of the linear probe. Beside it stands a loop that fits
scikit-learn's LogisticRegression to each selection. "Fresh" selections have nothing in common with
the call before. "Episode" selections grow by one of eight batches per call, as in the environment.
The larger pools are copies of the bank's candidates with noise, in a memory-mapped file.

retraining: seconds of a retraining by the small network, by the former default and by the paper's
network, with as many side by side as the machine is given: a process per core, or the networks that
a GPU trains together. Rates count the arithmetic of the whole network, also of weights that are
left out because they meet padding only.

policy: seconds of a whole training with the settings of learning.py, on the processor and, if there
is one, on the GPU. The first training on each device warms up and is not counted.

Results: benchmarks/results/speed.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from learning import AGENTS
from machine import describe_machine, markdown_row, markdown_table, median_range
from sklearn.linear_model import LogisticRegression
from torch.utils.flop_counter import FlopCounterMode

from agents.selectors import TrainingSelector
from synthselect_env import Dataset, FeatureBank
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.evaluators import LinearProbeEvaluator, RetrainEvaluator, spread
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import build_network
from synthselect_env.training.config import TrainingConfig, default_config
from synthselect_env.training.device import default_workers, has_bfloat16, pick_device
from synthselect_env.training.trainer import SIDE_BY_SIDE

PARTS = ("evaluators", "retraining", "policy")
PRODUCT_SIZE = 2048
"""Rows and columns of the float64 matrices whose product rate is measured."""

NETWORK_PRODUCT_SIZE = 4096
"""The same for the retraining's own number format."""


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if it is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], repetitions: int) -> np.ndarray:
    """Return the seconds of each repetition after one that warms up."""
    call()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times)


# ---------------------------------------------------------------------------- evaluators


def scoring(probe: LinearProbeEvaluator, calls: list[np.ndarray]) -> Callable[[], object]:
    """Return a function that scores the next selections at each call."""
    queue = iter(calls)
    return lambda: probe.evaluate(next(queue), 0)


def product_rate(device: torch.device, size: int = PRODUCT_SIZE) -> float:
    """Return the machine's float64 matrix-product rate in operations per second."""
    a, b = (torch.rand(size, size, dtype=torch.float64, device=device) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        synchronize(device)

    return 2 * size**3 / float(np.median(seconds(product, 5)))


def operations(probe: LinearProbeEvaluator, candidates: float) -> float:
    """Count the operations of one evaluation: sums over candidates, solve, validation scores."""
    p, c, v = probe.n_components + 1, len(probe.bank.classes), len(probe.bank.valid)
    sums = 2 * candidates * (p * (p + 1) / 2 + p * c)
    return sums + 2 / 3 * p**3 + 2 * p * p * c + 2 * v * p * c


def anonymous_memory() -> float:
    """Return the megabytes that the process holds beside mapped files (Linux)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    held = (int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
    return next(held, float("nan"))


def enlarged(bank: FeatureBank, n: int, directory: Path) -> FeatureBank:
    """Return the bank with its candidates repeated with noise, n in all."""
    rng, own = np.random.default_rng(0), bank.candidates
    features = np.memmap(directory / "features", np.float32, "w+", shape=(n, bank.n_features))
    scale = own.features.std(0)
    for start in range(0, n, len(own)):
        part = features[start : start + len(own)]
        noise = rng.standard_normal(part.shape, np.float32)
        part[:] = own.features[: len(part)] + 0.1 * scale * noise
    return replace(bank, candidates=Dataset(features, np.resize(own.labels, n)), retrainings=None)


def measure_evaluators(args: argparse.Namespace) -> None:
    """Print evaluations per second by number of selections, by scikit-learn, and by pool size."""
    bank, rng = resolve_bank(args.bank), np.random.default_rng(0)
    start = time.perf_counter()
    probe = LinearProbeEvaluator(bank, device=args.device)
    print(
        f"{bank.source.split('/')[-1]}: {len(bank.train):,} real, {len(bank.candidates):,} "
        f"candidates, {len(bank.valid):,} validation; {probe.head}, {probe.n_components} "
        f"components; set-up {time.perf_counter() - start:.2f} s; {args.calls} calls each"
    )
    peak = product_rate(probe.device)
    print(f"float64 matrix product of the machine: {peak / 1e9:,.0f} GFLOP/s\n")

    fastest = print_rates(args, probe, rng, peak)

    # scikit-learn, one selection at a time
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
        f"\nscikit-learn LogisticRegression on all {bank.n_features} features, one selection at "
        f"a time: {loop:.2f} evaluations/s (n = {len(times)}, {min(times):.2f} to "
        f"{max(times):.2f} s each); the probe's best rate is {fastest / loop:,.0f} times as high"
    )
    if args.pools:
        print_pools(args, bank, rng)


def print_rates(
    args: argparse.Namespace,
    probe: LinearProbeEvaluator,
    rng: np.random.Generator,
    peak: float,
) -> float:
    """Print the rates by selections per call, and return the best."""
    n, batches = len(probe.bank.candidates), probe.bank.batches
    header = ("k", "fresh selections: evaluations/s", "share of the product rate")
    print(markdown_table([*header, "episode: evaluations/s", "share"]))
    fastest = 0.0
    for k in args.k:
        # selections that have nothing in common
        pools = [rng.random((k, n)) < rng.random((k, 1)) for _ in range(args.calls + 1)]
        fresh = k / seconds(scoring(probe, pools), args.calls)
        # selections that grow by one batch per call
        masks, steps = np.zeros((k, n), bool), []
        for step in range(args.calls + 1):
            batch = batches[step % len(batches)]
            masks = masks.copy() if step % len(batches) else np.zeros_like(masks)
            masks[:, batch] = rng.random((k, len(batch))) < 0.5
            steps.append(masks)
        episode = k / seconds(scoring(probe, steps), args.calls)
        fastest = max(fastest, float(np.median(fresh)))
        cells = [f"{k:,}"]
        for rate, summed in ((fresh, n), (episode, n / len(batches))):
            share = np.median(rate) * operations(probe, summed) / peak
            cells += [median_range(rate, ",.0f"), f"{share:.1%}"]
        print(markdown_row(cells), flush=True)
    return fastest


def print_pools(args: argparse.Namespace, bank: FeatureBank, rng: np.random.Generator) -> None:
    """Print the table of larger pools."""
    header = ("candidates", "set-up, s", "k = 64, fresh: s per call")
    more = ("microseconds per evaluation and 1,000 candidates", "memory beside the mapped file, MB")
    print(f"\n{markdown_table([*header, *more])}")
    for n in args.pools:
        with tempfile.TemporaryDirectory() as directory:
            large = enlarged(bank, n, Path(directory))
            start = time.perf_counter()
            probe = LinearProbeEvaluator(large, device=args.device)
            set_up = time.perf_counter() - start
            pools = [rng.random((64, n)) < rng.random((64, 1)) for _ in range(4)]
            call = seconds(scoring(probe, pools), 3)
            del pools
            cells = [f"{n:,}", f"{set_up:.2f}", median_range(call, ".3f")]
            cells += [f"{np.median(call) / 64 / n * 1e9:,.1f}", f"{anonymous_memory():,.0f}"]
            print(markdown_row(cells), flush=True)


# ---------------------------------------------------------------------------- retraining


CLASSIFIERS = ("small_cnn", "resnet18", "resnet34")
"""Networks that are retrained: today's default, the former one, and the paper's."""

FORMER_DEFAULT = TrainingConfig("resnet18", size=(32, 32), batch_size=32, learning_rate=1e-3)
"""Training configuration of ResNet18, from before there was a small network."""


def config_of(name: str, bank: FeatureBank) -> TrainingConfig:
    """Return the training configuration of a network."""
    if name == FORMER_DEFAULT.architecture:
        return FORMER_DEFAULT
    return default_config(name, len(bank.train))


def count_flops(bank: FeatureBank, config: TrainingConfig) -> float:
    """Return the arithmetic of a retraining and its validation, of all weights."""
    network = build_network(config, len(bank.classes), 0)
    with FlopCounterMode(display=False) as counter:
        # two images: batch norm needs a spread where one pixel per image is left
        network(torch.zeros(2, 3, *config.size)).sum().backward()
    drawn = config.epochs * config.steps(len(bank.train)) * config.batch_size
    flops = counter.get_total_flops() / 2 * drawn
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, *config.size))
    views = 1
    if config.average_views:
        views = len(AUGMENTATIONS[config.augmentation].views(torch.zeros(1, 3, *config.size)))
    return flops + counter.get_total_flops() * views * len(bank.valid)


def network_product_rate(device: torch.device) -> float:
    """Return the matrix-product rate of the whole machine in the retraining's number format."""
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    size = NETWORK_PRODUCT_SIZE
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    synchronize(device)
    start = time.perf_counter()
    for _ in range(5):
        a @ b
    synchronize(device)
    return 5 * 2 * size**3 / (time.perf_counter() - start)


def measure_retraining(args: argparse.Namespace) -> None:
    """Print seconds per retraining and the share of the product rate, by network."""
    device, bank = pick_device(args.device), resolve_bank(args.bank)
    rate = network_product_rate(device)
    print(
        f"{bank.describe()}\nproduct rate {rate / 1e12:.2f} TFLOP/s; one call retrains on as many"
    )
    print(f"selections as run side by side; median (least to most) of {args.repetitions} calls\n")
    columns = ["network", "side by side", "s per retraining", "retrainings a minute"]
    print(markdown_table([*columns, "share of the product rate"]))
    rng = np.random.default_rng(0)
    for name, k in product(args.classifiers, args.side_by_side):
        evaluator = RetrainEvaluator(bank, config=config_of(name, bank), device=args.device)
        if device.type == "cuda":
            evaluator.batch_size = k
        masks = rng.random((k, len(bank.candidates))) < rng.random((k, 1))
        with spread(evaluator, k) as all_at_once:
            times = seconds(partial(all_at_once.evaluate, masks, 0), args.repetitions) / k
        middle = np.median(times)
        share = count_flops(bank, config_of(name, bank)) / middle / rate
        cells = [name, f"{k}", median_range(times, ".3g"), f"{60 / middle:.3g}", f"{share:.0%}"]
        print(markdown_row(cells), flush=True)


# ---------------------------------------------------------------------------- policy


def measure_policy(args: argparse.Namespace) -> None:
    """Print the seconds of a whole training by agent and device."""
    bank = resolve_bank(args.bank)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    print(
        f"{bank.describe()}\n{args.evaluations} evaluations; median (least to most) of "
        f"{args.repetitions}\n"
    )
    print(markdown_table(["agent", *(f"{device}, s" for device in devices)]))
    for name in args.agents:
        algorithm, settings, more = AGENTS[name]
        times: dict[str, list[float]] = {device: [] for device in devices}
        for repetition in range(args.repetitions + 1):
            for device in devices:
                options = {**settings, **more, "device": device}
                selector = TrainingSelector(
                    algorithm, evaluations=args.evaluations, warm_start=False, **options
                )
                start = time.perf_counter()
                selector.select(bank, repetition)
                times[device].append(time.perf_counter() - start)
        print(markdown_row([name, *(median_range(s[1:]) for s in times.values())]), flush=True)


MEASURES = dict(zip(PARTS, (measure_evaluators, measure_retraining, measure_policy)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--bank", default="pcam")
    parser.add_argument("--device", default="auto", help="of evaluators and retraining")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3, help="of retraining and policy")
    group = parser.add_argument_group("evaluators")
    group.add_argument("--k", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    group.add_argument("--pools", type=int, nargs="*", default=[4_000, 40_000, 400_000])
    group.add_argument("--calls", type=int, default=40)
    group.add_argument("--loop", type=int, default=5, help="selections that scikit-learn fits")
    group = parser.add_argument_group("retraining")
    group.add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    group.add_argument(
        "--side-by-side",
        type=int,
        nargs="+",
        default=[SIDE_BY_SIDE if torch.cuda.is_available() else default_workers()],
        help="retrainings at a time: processes on a CPU, networks on a GPU",
    )
    group = parser.add_argument_group("policy")
    default = ["PPO", "REINFORCE", "CreditPPO"]
    group.add_argument("--agents", nargs="+", default=default, choices=AGENTS)
    group.add_argument("--evaluations", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(describe_machine(), flush=True)
    for part in PARTS if args.part == "all" else (args.part,):
        print(f"\n## {part}\n", flush=True)
        MEASURES[part](args)
