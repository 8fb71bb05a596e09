"""Print the machine and the versions, name caches, and format tables, for every benchmark."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators import CachedEvaluator, Evaluations
from synthselect_env.storage import content_key, library_digest
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
    return content_key(bank.digest, repr(arguments), library_digest())[:8]


def score_on(
    evaluator: CachedEvaluator, masks: np.ndarray, seed: int, *datasets: Dataset
) -> list[Evaluations]:
    """Train once per selection and return its metrics on each dataset.

    :param evaluator: evaluator that retrains
    :param masks: selections, bool (k, n)
    :param seed: random seed of the training
    :param datasets: datasets to score
    """
    log_p = evaluator.predict(masks, seed, Dataset.concatenate(datasets))
    ends = np.cumsum([len(dataset) for dataset in datasets])
    parts = np.split(log_p, ends[:-1], axis=1)
    return [Evaluations.from_predictions(p, d.labels) for p, d in zip(parts, datasets)]


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


def mean_and_error(
    values: Sequence[float] | np.ndarray, scale: float = 1.0, digits: int = 4
) -> str:
    """Return ``mean ± standard error``, with the sign of the mean.

    :param values: one value per case
    :param scale: factor on both, e.g. 100 for points
    :param digits: decimals
    """
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{scale * values.mean():+.{digits}f} ± {scale * error:.{digits}f}".replace("-", "−")


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, the number of processes that retrain."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="processes that retrain side by side; they share the cores",
    )
