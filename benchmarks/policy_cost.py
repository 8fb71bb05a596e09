"""What training a policy costs, by device.

    python benchmarks/policy_cost.py

Whole trainings with the settings of learning.py, on the processor and, where there is one, on the GPU, in turn: collecting, the environment's
default evaluator (which computes on the processor) and the policy's updates. The first training on each device warms up and is not counted.
"""

import argparse
import time

import numpy as np
import torch
from learning import AGENTS
from machine import describe_machine

from agents.selectors import TrainingSelector
from synthselect_env.bank.embedded import resolve_bank

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--bank", default="pcam")
parser.add_argument(
    "--agents", nargs="+", default=["PPO", "REINFORCE", "CreditPPO"], choices=AGENTS
)
parser.add_argument("--evaluations", type=int, default=256)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--repetitions", type=int, default=3)
args = parser.parse_args()
torch.set_num_threads(args.threads)
bank, devices = resolve_bank(args.bank), ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
print(
    f"{describe_machine()}\n{bank.describe()}\n{args.evaluations} evaluations; median (least to most) of {args.repetitions}\n"
)
print(
    "| agent | "
    + " | ".join(f"{device}, s" for device in devices)
    + " |\n|---|"
    + "---|" * len(devices)
)
for name in args.agents:
    algorithm, settings, more = AGENTS[name]
    seconds: dict[str, list[float]] = {device: [] for device in devices}
    for repetition in range(args.repetitions + 1):
        for device in devices:
            selector = TrainingSelector(
                algorithm, evaluations=args.evaluations, **{**settings, **more, "device": device}
            )
            start = time.perf_counter()
            selector.select(bank, repetition)
            seconds[device].append(time.perf_counter() - start)
    cells = [
        f"{np.median(s[1:]):.2f} ({min(s[1:]):.2f} to {max(s[1:]):.2f})" for s in seconds.values()
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
