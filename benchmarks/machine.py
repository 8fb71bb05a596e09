"""What benchmarks share: the header that names machine and versions, and a name for what a cache depends on."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
from pathlib import Path

import numpy as np
import torch

from synthselect_env import FeatureBank
from synthselect_env.storage import library_digest
from synthselect_env.training.device import default_workers


def describe_machine() -> str:
    """One line: processor, cores, threads, GPU, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        if cpuinfo.exists()
        else []
    )
    processor = names[0] if names else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {gpu}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"


def digest(bank: FeatureBank, *arguments: object) -> str:
    """Eight characters that change with the bank, the arguments, or an edit of the library, to name a cache by."""
    return hashlib.sha256(f"{bank.digest} {arguments!r} {library_digest()}".encode()).hexdigest()[
        :8
    ]


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the user say how many processes retrain side by side; by default one a core, or one where there is a GPU."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="processes that retrain side by side; they share the cores",
    )
