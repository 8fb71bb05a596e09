"""Cores, threads and bf16 of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synthselect_env.training.device import (
    available_cores,
    check_device,
    default_workers,
    has_bfloat16,
    pick_device,
    processor_flags,
)


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert default_workers() == 3
    # Processes on a GPU would share it.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_workers() == 1
    assert default_workers("cpu") == 3
    # A process that was forked beside a GPU cannot use it.
    monkeypatch.setattr("synthselect_env.training.device.in_forked_process", lambda: True)
    assert default_workers() == 3


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 3), ("max 100000", 3)],
)
def test_cores_are_those_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores(tmp_path / "cpu.max") == cores


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in (pick_device, check_device):
        with pytest.raises(ValueError, match="unknown device 'gpu'; auto, cpu, cuda or cuda:1"):
            check("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_device("auto")
    check_device("cpu")
    with pytest.raises(ValueError, match="device cuda: torch finds no GPU on this machine"):
        check_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_device("cuda")
    with pytest.raises(ValueError, match="device cuda:1: the last GPU of this machine is cuda:0"):
        check_device("cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_has_no_bfloat16() -> None:
    assert not has_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True), (None, False)],
)
def test_bfloat16_is_fast_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, fast: bool
) -> None:
    """By torch where it says so, else by what Linux lists."""
    names = (flags or "").split()
    if flags:
        listed = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre\n"
        (tmp_path / "cpuinfo").write_text(listed)
    able = {**dict.fromkeys(names, True), "avx10": False, "cpu_name": "amx_tile"}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able, raising=False)
    by_torch = processor_flags.__wrapped__()
    monkeypatch.delattr("torch.cpu.get_capabilities")
    by_linux = processor_flags.__wrapped__(tmp_path / "cpuinfo")
    assert by_torch == by_linux == set(names)
    monkeypatch.setattr("synthselect_env.training.device.processor_flags", lambda: by_linux)
    assert has_bfloat16(torch.device("cpu")) == fast
    assert not has_bfloat16(torch.device("meta"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_an_environment_in_a_forked_process_does_not_wait_for_threads() -> None:
    """As in Gymnasium's AsyncVectorEnv: torch believes in threads that were not forked.

    A plain fork, without an environment, keeps its number of threads.
    """
    code = """
import os, torch, synthselect_env
toy = synthselect_env.load_bank("toy")
torch.set_num_threads(2)
x = torch.rand(300, 300)
torch.linalg.svd(x)
synthselect_env.SyntheticSelectionEnv(toy)
assert torch.get_num_threads() == 2
for in_environment in (True, False):
    child = os.fork()
    if not child:
        if in_environment:
            synthselect_env.SyntheticSelectionEnv(toy)
            torch.linalg.svd(x)
        os._exit(torch.get_num_threads())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(torch.get_num_threads())
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["1", "2", "2"], done.stderr
