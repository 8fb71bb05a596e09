"""Print the machine and the versions, name caches, and format tables, for every benchmark."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from synthselect_env import FeatureBank
from synthselect_env.storage import library_digest
from synthselect_env.training.device import default_workers


def describe_machine() -> str:
    """Return one line with processor, cores, threads, GPU and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (
            ("Python", platform.python_version()),
            ("torch", torch.__version__),
            ("numpy", np.__version__),
        )
    )
    return f"{processor}, {threads}, {gpu}; {versions}"


def digest(bank: FeatureBank, *arguments: object) -> str:
    """Return eight characters that name a cache.

    They change with the bank, with the arguments, and with an edit of the library.
    """
    key = f"{bank.digest} {arguments!r} {library_digest()}"
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> str:
    """Return a Markdown table, or its head if there are no rows."""
    lines = [markdown_row(header), "|" + "---|" * len(header)]
    return "\n".join([*lines, *map(markdown_row, rows)])


def markdown_row(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def median_range(values: Sequence[float] | np.ndarray, form: str = ".2f") -> str:
    """Return ``median (least to most)``."""
    middle, least, most = (format(f(values), form) for f in (np.median, np.min, np.max))
    return f"{middle} ({least} to {most})"


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, the number of processes that retrain."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="processes that retrain side by side; they share the cores",
    )
