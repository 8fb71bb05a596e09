"""Reproducible subsets of labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def draw_per_class(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw a given number of positions of each class without replacement.

    :param labels: int (n,)
    :param counts: how many of class 0, 1, …
    :param seed: of the draw
    :return: int64 (sum(counts),), increasing
    :raises ValueError: when a class has fewer, no count, or a negative one
    """
    if len(counts) <= labels.max(initial=-1):
        raise ValueError(
            f"{len(counts)} counts were given, and the labels are of {labels.max() + 1} classes; give one for each"
        )
    rng = np.random.default_rng(seed)
    drawn = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        if count < 0:
            raise ValueError(f"{count} pictures of class {label} were asked for")
        if count > len(positions):
            raise ValueError(f"class {label} has {len(positions)} pictures, {count} were asked for")
        drawn.append(rng.permutation(positions)[:count])
    return np.sort(np.concatenate(drawn))


def apportion(labels: np.ndarray, total: int) -> list[int]:
    """Counts of each class that add up to ``total`` in the proportions of ``labels`` (largest remainders).

    :param labels: int (n,)
    :param total: how many in all
    """
    exact = total * np.bincount(labels) / len(labels)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def split_by_group(
    groups: Sequence[str], labels: np.ndarray, shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Split so that no group (patient, slide) is in two parts, and each part has about its share of each class.

    Groups are dealt out largest first, each to the part that it brings closest to its share of every class; the last ones to parts
    that have none yet.

    :param groups: group of each image (n,)
    :param labels: int (n,)
    :param shares: name of a part to its share of the images; they add up to 1
    :param seed: of the order of groups of the same size
    :return: name to positions, int64, increasing
    :raises ValueError: when groups and labels differ in number, the shares do not add up to 1, or there are fewer groups than parts
    """
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups were given for {len(labels)} labels")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares must be positive and add up to 1, got {dict(shares)}")
    if len(names) < len(shares):
        raise ValueError(
            f"{len(names)} groups cannot be split into {len(shares)} parts without dividing one"
        )
    counts = np.zeros((len(names), labels.max() + 1))
    np.add.at(counts, (index, labels), 1)
    total = counts.sum(0)
    wanted = np.array(list(shares.values()))[:, None] * total
    filled, part = np.zeros_like(wanted), np.zeros(len(names), int)
    order = np.random.default_rng(seed).permutation(len(names))
    for dealt, group in enumerate(order[np.argsort(-counts[order].sum(1), kind="stable")]):
        before, after = (
            (f - wanted) ** 2 / np.maximum(wanted * total, 1)
            for f in (filled, filled + counts[group])
        )
        distance, empty = (after - before).sum(1), filled.sum(1) == 0
        if len(names) - dealt <= empty.sum():
            distance[~empty] = np.inf
        part[group] = distance.argmin()
        filled[part[group]] += counts[group]
    return {name: np.flatnonzero(part[index] == i) for i, name in enumerate(shares)}
