"""Reproducible subsets of labelled data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_per_class(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw a given number of positions of each class without replacement.

    :param labels: int (n,)
    :param counts: how many of class 0, 1, …
    :param seed: of the draw
    :return: int64 (sum(counts),), increasing
    :raises ValueError: when a class has fewer
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        if count > len(positions):
            raise ValueError(f"class {label} has {len(positions)} pictures, {count} were asked for")
        drawn.append(rng.permutation(positions)[:count])
    return np.sort(np.concatenate(drawn))
