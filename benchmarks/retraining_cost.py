"""What a full retraining costs, beside a bare training loop over tensors that are already in memory.

    python benchmarks/retraining_cost.py --classifier quick

Both sides train the same network on the embedded bank's real patches for the same number of steps, in turn. The bare loop is what
anyone would write: forward, backward, AdamW, in bf16 and channels-last where the machine has it, without augmentation; the
evaluator decodes, draws batches, augments, scores validation after each of the last five epochs, and leaves out what weights do that meet
padding only (`synthselect_env.training.padding_pruning`). The bare loop scores as often and leaves nothing out; rates are of the whole network's arithmetic.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine
from torch.utils.flop_counter import FlopCounterMode

from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import decode
from synthselect_env.evaluators import RetrainEvaluator
from synthselect_env.evaluators.retrain import LAST_EPOCHS
from synthselect_env.training.classifier import QUICK, TrainingConfig, build_network
from synthselect_env.training.device import autocast, has_bfloat16, pick_device

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--bank", default="pcam")
parser.add_argument(
    "--classifier",
    choices=("quick", "resnet34"),
    default="resnet34",
    help="ResNet18 at 32 px in batches of 32, or the default",
)
parser.add_argument("--epochs", type=int, default=TrainingConfig.epochs)
parser.add_argument("--steps", type=int, default=25, help="steps an epoch")
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--device", default="auto")
parser.add_argument("--compile", action="store_true", help="through torch.compile, on both sides")
args = parser.parse_args()
torch.set_num_threads(2)
device, bank = pick_device(args.device), resolve_bank(args.bank)
config = replace(
    QUICK if args.classifier == "quick" else TrainingConfig(),
    epochs=args.epochs,
    steps_per_epoch=args.steps,
)
print(
    f"{describe_machine()}; {config.architecture}, {config.size[0]} px, {args.epochs} epochs of {args.steps} steps of {config.batch_size}"
)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Normalised images in memory."""
    return ((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).to(
        device, memory_format=torch.channels_last
    )


train, valid = (to_tensor(decode(split.images, config.size)) for split in (bank.train, bank.valid))
labels = torch.from_numpy(bank.train.labels).to(device)


def bare() -> None:
    """The loop that anyone would write."""
    network = (
        build_network(config, len(bank.classes), 0).to(device).to(memory_format=torch.channels_last)
    )
    step = torch.compile(network, dynamic=False) if args.compile else network
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    for epoch in range(args.epochs):
        network.train()
        for i in range(args.steps):
            at = slice(i * config.batch_size % (len(train) - config.batch_size), None)
            images, targets = train[at][: config.batch_size], labels[at][: config.batch_size]
            with autocast(device):
                loss = F.cross_entropy(step(images), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if epoch >= args.epochs - LAST_EPOCHS:
            network.eval()
            with torch.no_grad(), autocast(device):
                torch.cat([network(part).float() for part in valid.split(256)]).argmax(1).cpu()


evaluator, none = (
    RetrainEvaluator(bank, config=config, device=args.device, compile=args.compile),
    np.zeros((1, len(bank.candidates)), bool),
)
with FlopCounterMode(display=False) as counter:
    network = build_network(config, len(bank.classes), 0)
    network(
        torch.zeros(2, 3, *config.size)
    ).sum().backward()  # two, as a batch has no spread where one pixel of one image is left
flops = counter.get_total_flops() / 2 * args.epochs * args.steps * config.batch_size
with FlopCounterMode(display=False) as counter, torch.no_grad():
    network.eval()(torch.zeros(1, 3, *config.size))
flops += counter.get_total_flops() * LAST_EPOCHS * len(bank.valid)

start = time.perf_counter()
evaluator.evaluate_on(none, 0, bank.valid)  # decoding and compiling are paid for once
print(
    f"the first retraining, with what is paid for once: {time.perf_counter() - start:.2f} s",
    flush=True,
)
bare()
ours, theirs = [], []
for repetition in range(args.repetitions):
    for times, call in (
        (theirs, bare),
        (ours, lambda seed=repetition: evaluator.evaluate(none, seed)),
    ):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)

dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
a, b = (torch.rand(4096, 4096, device=device).to(dtype) for _ in range(2))
a @ b
if device.type == "cuda":
    torch.cuda.synchronize()
start = time.perf_counter()
for _ in range(5):
    a @ b
if device.type == "cuda":
    torch.cuda.synchronize()
peak = 5 * 2 * 4096**3 / (time.perf_counter() - start)
for name, times in (("bare loop", theirs), ("RetrainEvaluator", ours)):
    images = args.epochs * args.steps * config.batch_size / np.array(times)
    print(
        f"{name:<17} {np.median(times):7.2f} s ({min(times):.2f} to {max(times):.2f}, n = {len(times)}), {np.median(images):,.0f} pictures/s, "
        f"{flops / np.median(times) / peak:.0%} of the {str(dtype).removeprefix('torch.')} matrix-product rate ({peak / 1e12:.2f} TFLOP/s)"
    )
print(f"ratio {np.median(ours) / np.median(theirs):.3f}")
