"""Where and how torch computes: device, precision, and random numbers that leave the global generator alone."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Config = TypeVar("Config")

if hasattr(os, "register_at_fork"):
    # a forked process (Gymnasium's AsyncVectorEnv) has no thread of the pool that torch takes it to have, and would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on.

    :param device: "auto" for CUDA where there is a GPU and the CPU elsewhere, or a torch device. A process that was forked from one that
        computes on a GPU cannot, and "auto" is the CPU there
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and not torch.cuda._is_in_bad_fork() else "cpu")
    return torch.device(device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 there: an x86 processor with AVX512-BF16 or AMX, or a GPU from Ampere on.

    Elsewhere torch emulates bf16 on the CPU, at a fraction of float32's speed.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        with torch.cuda.device(device):  # it is the present one that is asked
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device) -> torch.autocast:
    """bf16 autocast where :func:`has_bfloat16`, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Let what draws from torch's global generators inside (initialisers, dropout) draw from ``seed``; they are as before afterwards.

    Modules take no generator, hence a scope instead of an argument.

    :param seed: of the draws
    :param device: a CUDA device whose generator is meant, too
    """
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.random.default_generator.manual_seed(int(seed))
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(seed))
        yield


def load_state(path: str | Path, writer: str, *fields: str) -> dict[str, Any]:
    """What ``torch.save`` wrote, on the CPU.

    :param path: the file
    :param writer: who should have written it, for the message
    :param fields: what it must have
    :raises ValueError: when it is something else, or damaged
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, KeyError, IndexError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} was not written by {writer}, or is damaged; make it again") from error
    if not isinstance(state, dict) or not set(fields) <= set(state):
        raise ValueError(f"{path} was not written by this release's {writer}: it lacks {', '.join(fields)} or one of them; make it again")
    return state


def load_config(kind: type[Config], fields: dict[str, Any], path: str | Path) -> Config:
    """A configuration from what was saved of it.

    :param kind: its class
    :param fields: its fields
    :param path: the file that they are from, for the message
    :raises ValueError: when the class has no such fields
    """
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{path} is of a release whose {kind.__name__} was another ({error}); train again") from error


def weights_digest(network: nn.Module) -> str:
    """A name for a network's weights, to key caches by."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: on a shared machine, those that a scheduler or a container's limit has given it.

    :param quota: where Linux says how many microseconds of how many a container may compute
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, int(allowed) // int(period)))
    except (OSError, ValueError):  # elsewhere, or "max"
        return cores


def default_workers(device: str | torch.device = "auto") -> int:
    """Processes that train side by side: one a core, or one alone on a GPU, which they would share.

    :param device: that they train on, as :func:`pick_device` takes it
    """
    return 1 if pick_device(device).type == "cuda" else available_cores()
