"""Reproducible subsets of labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def draw_per_class(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draw a given number of positions per class without replacement.

    :param labels: int (n,)
    :param counts: number of positions of class 0, 1, …
    :param seed: random seed
    :return: int64 (sum(counts),), increasing
    :raises ValueError: if a class has fewer images, no count, or a negative one
    """
    n_classes = labels.max(initial=-1) + 1
    if len(counts) < n_classes:
        raise ValueError(
            f"{len(counts)} counts were given, and the labels are of {n_classes} classes; "
            "give one for each"
        )
    rng = np.random.default_rng(seed)
    drawn = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        if count < 0:
            raise ValueError(f"{count} images of class {label} were asked for")
        if count > len(positions):
            raise ValueError(f"class {label} has {len(positions)} images, {count} were asked for")
        drawn.append(rng.permutation(positions)[:count])
    return np.sort(np.concatenate(drawn))


def apportion(labels: np.ndarray, total: int) -> list[int]:
    """Return counts per class in the proportions of the labels.

    The counts add up to ``total``. They are rounded by the method of largest remainders.

    :param labels: int (n,)
    :param total: sum of the counts
    """
    exact = total * np.bincount(labels) / len(labels)
    counts = np.floor(exact).astype(int)
    largest_remainder_first = np.argsort(counts - exact, kind="stable")
    counts[largest_remainder_first[: total - counts.sum()]] += 1
    return counts.tolist()


def split_by_group(
    groups: Sequence[str] | None,
    labels: np.ndarray,
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Split images so that no group (patient, slide) is in two parts.

    Each part gets about its share of each class. Groups are dealt out largest first, each to the
    part that it brings closest to its share of every class. The last ones go to parts that have
    none yet.

    :param groups: group of each image (n,); None if each image is one
    :param labels: int (n,)
    :param shares: name of a part to its share of the images; they add up to 1
    :param seed: random seed of the order of groups of the same size
    :return: name of a part to its positions, int64, increasing
    :raises ValueError: if groups and labels differ in number, the shares do not add up to 1, or
        there are fewer groups than parts
    """
    if groups is None:
        groups = [f"{i:09d}" for i in range(len(labels))]
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups were given for {len(labels)} labels")
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    excess = sum(shares.values()) - 1
    if min(shares.values()) <= 0 or abs(excess) > 1e-9:
        raise ValueError(f"shares must be positive and add up to 1, got {dict(shares)}")
    if len(names) < len(shares):
        raise ValueError(
            f"{len(names)} groups cannot be split into {len(shares)} parts without dividing one"
        )
    n_classes = labels.max() + 1
    counts = np.zeros((len(names), n_classes))  # (groups, classes)
    np.add.at(counts, (group_of, labels), 1)
    share_of = np.array(list(shares.values()))
    part_of_group = _deal_groups(counts, share_of, seed)
    part_of = part_of_group[group_of]  # (n,)
    return {name: np.flatnonzero(part_of == i) for i, name in enumerate(shares)}


def _deal_groups(counts: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return the part that each group is dealt to.

    :param counts: images per group and class, float (groups, classes)
    :param shares: share of each part (parts,)
    :param seed: random seed of the order of groups of the same size
    :return: int (groups,)
    """
    n_groups = len(counts)
    total = counts.sum(0)
    wanted = shares[:, None] * total  # (parts, classes)
    tolerance = np.maximum(wanted * total, 1)
    filled = np.zeros_like(wanted)
    part_of = np.zeros(n_groups, int)

    # Largest first, in random order where sizes are the same.
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_groups)
    sizes = counts[order].sum(1)
    order = order[np.argsort(-sizes, kind="stable")]
    for dealt, group in enumerate(order):
        before = (filled - wanted) ** 2 / tolerance
        after = (filled + counts[group] - wanted) ** 2 / tolerance
        cost = (after - before).sum(1)
        is_empty = filled.sum(1) == 0
        if n_groups - dealt <= is_empty.sum():  # one group left for each empty part
            cost[~is_empty] = np.inf
        part = cost.argmin()
        part_of[group] = part
        filled[part] += counts[group]
    return part_of


def assign_folds(
    labels: np.ndarray, folds: int, groups: Sequence[str] | None = None, seed: int = 0
) -> np.ndarray:
    """Assign images to folds of about the same size and the same shares of the classes.

    :param labels: int (n,)
    :param folds: number of folds
    :param groups: group (patient, slide) of each image, none of which is divided; None if they are
        not known
    :param seed: random seed of the assignment
    :return: fold of each image, int64 (n,), in 0..folds - 1
    :raises ValueError: if there are fewer than two folds, or fewer groups than folds
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    shares = {str(fold): 1 / folds for fold in range(folds)}
    fold_of = np.zeros(len(labels), np.int64)
    for fold, positions in split_by_group(groups, labels, shares, seed).items():
        fold_of[positions] = int(fold)
    return fold_of
