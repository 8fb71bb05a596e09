"""Devices, precision, and random numbers that leave the global generators alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

_IMPORTED_BY = os.getpid()

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_tile"})
"""Processor features, each of which makes bf16 faster than float32."""

SMALL_SIDE = 32
"""Short side in pixels up to which oblong images are labelled in float32. In bf16, torch 2.14 gives
wrong numbers on processors with AMX for a strided convolution from 4×2 to 2×1 pixels."""


def in_forked_process() -> bool:
    """Return whether this process was forked after it imported this module."""
    return os.getpid() != _IMPORTED_BY


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device to compute on.

    :param device: torch device, or "auto" for CUDA where there is a GPU and the CPU elsewhere. In a
        forked process "auto" is the CPU, as CUDA does not survive a fork
    :raises ValueError: if torch knows no such device
    """
    if device == "auto":
        usable = torch.cuda.is_available() and not in_forked_process()
        return torch.device("cuda" if usable else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; auto, cpu, cuda or cuda:1") from error


def check_device(device: str | torch.device) -> None:
    """Check that a device can be computed on here.

    Evaluators do not check it, as they may be sent to a machine with a GPU.

    :param device: torch device, or "auto"
    :raises ValueError: if it is unknown, or a GPU that is not there
    """
    picked = pick_device(device)
    if picked.type != "cuda":
        return
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not n:
        raise ValueError(f"device {device}: torch finds no GPU on this machine; take cpu or auto")
    if (picked.index or 0) >= n:
        raise ValueError(
            f"device {device}: the last GPU of this machine is cuda:{n - 1}; take that, or auto"
        )


def has_bfloat16(device: torch.device) -> bool:
    """Return whether bf16 is faster than float32 on a device.

    That takes an x86 processor with AVX512-BF16 or AMX, or a GPU from Ampere on. Elsewhere torch
    emulates bf16, at a fraction of float32's speed.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        with torch.cuda.device(device):  # torch answers for the current device
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not BFLOAT16_FLAGS.isdisjoint(processor_flags())


@cache
def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's features by Linux's names; none where they are not known.

    :param cpuinfo: Linux's list, for a torch that has none
    """
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return frozenset(name for name, present in capabilities.items() if present is True)
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return frozenset(flags[0]) if flags else frozenset()


def autocast(device: torch.device, size: tuple[int, int] | None = None) -> torch.autocast:
    """Return bf16 autocast where :func:`has_bfloat16`, float32 elsewhere.

    :param device: device of the computation
    :param size: (height, width) of images that a whole network sees; small oblong ones are computed
        in float32 on the CPU, see :data:`SMALL_SIDE`
    """
    enabled = has_bfloat16(device)
    if size is not None and device.type == "cpu":
        enabled = enabled and (size[0] == size[1] or min(size) > SMALL_SIDE)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them afterwards.

    Initialisers and dropout take no generator, hence a scope instead of an argument.

    :param seed: random seed
    :param device: CUDA device whose generator is seeded, too
    """
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.random.default_generator.manual_seed(int(seed))
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(seed))
        yield


@contextmanager
def torch_threads(n: int, device: torch.device) -> Iterator[None]:
    """Let torch compute with n threads inside the block, if it computes on the CPU.

    :param n: number of threads
    :param device: device of the computation
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process may use.

    On a shared machine that is what a scheduler or a container's limit allows.

    :param quota: file in which Linux states a container's share of processor time
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, int(allowed) // int(period)))
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return cores


def default_workers(device: str | torch.device = "auto") -> int:
    """Return the number of processes that train side by side.

    :param device: device that they train on: one process per core, or one alone on a GPU
    """
    return 1 if pick_device(device).type == "cuda" else available_cores()
