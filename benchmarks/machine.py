"""The header of every benchmark: machine, versions, threads."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch


def describe_machine() -> str:
    """One line: processor, cores, threads, GPU, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    processor = names[0] if names else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {gpu}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
