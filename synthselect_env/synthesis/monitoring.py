"""Checks of a HistoGAN training: its log, its best step, and its collapse."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from synthselect_env.storage import atomic_write

COLLAPSE_RATIO, COLLAPSE_CHECKS = 3.0, 5
"""A training has collapsed after so many checks in succession with a Fréchet distance of more than
this many times the best one. The distance of a sound training wanders, but comes back."""

Row = dict[str, float]
"""Losses, scores and perhaps the Fréchet distance of one step."""


class CollapseError(RuntimeError):
    """The Fréchet distance rose far above its best, and stayed there."""


def best_distance(history: Sequence[Row]) -> float:
    """Return the smallest Fréchet distance so far, infinity if there is none.

    :param history: One row per check
    """
    return min((row["frechet"] for row in history if "frechet" in row), default=float("inf"))


def refuse_collapse(history: Sequence[Row]) -> None:
    """Stop a training whose Fréchet distance does not come back.

    :param history: One row per check, the last one that of the current step
    :raises CollapseError: if the last :data:`COLLAPSE_CHECKS` distances are all above
        :data:`COLLAPSE_RATIO` times the best
    """
    distances = [row["frechet"] for row in history if "frechet" in row]
    recent = distances[-COLLAPSE_CHECKS:]
    if len(recent) < COLLAPSE_CHECKS:
        return
    best = min(distances)
    if min(recent) > COLLAPSE_RATIO * best:
        best_step = next(row["step"] for row in history if row.get("frechet") == best)
        raise CollapseError(
            f"HistoGAN collapsed by step {history[-1]['step']}: the last {COLLAPSE_CHECKS} Fréchet "
            f"distances were {min(recent):.4g} and more, the best {best:.4g} at step {best_step}; "
            "take best.pt, or start again with smaller learning rates or another seed"
        )


def write_log(path: Path, history: Sequence[Row]) -> None:
    """Write one line per check.

    :param path: CSV file, replaced whole
    :param history: One row per check
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
