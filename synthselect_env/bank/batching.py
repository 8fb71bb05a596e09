"""Class-balanced batches in centroid order, as the paper shows its pool to the controller."""

from __future__ import annotations

import numpy as np

N_BATCHES = 8
"""The paper cuts its pool of 4,096 candidates into 8 batches of 512."""


def make_batches(
    labels: np.ndarray,
    distances: np.ndarray,
    n_classes: int,
    n_batches: int,
) -> list[np.ndarray]:
    """Cut a pool into class-balanced batches, nearest candidates first.

    Within its class, each candidate is ranked by its distance (ties by position), and batch i takes
    the i-th part of each class. Within a batch the classes stand one after the other. Parts differ
    by at most one candidate per class where the pool does not divide evenly.

    :param labels: class of each candidate, int (n,)
    :param distances: distance of each candidate to its class centroid (n,)
    :param n_classes: number of classes
    :param n_batches: number of batches, 1 to n
    :return: candidate positions, one int64 array per batch
    :raises ValueError: if a batch would be empty
    """
    if not 1 <= n_batches <= len(labels):
        raise ValueError(f"{len(labels)} candidates cannot be cut into {n_batches} batches")
    parts: list[list[np.ndarray]] = [[] for _ in range(n_batches)]
    first = 0  # batch that gets the next surplus candidate, so that they are spread evenly
    for label in range(n_classes):
        positions = np.flatnonzero(labels == label)
        order = np.argsort(distances[positions], kind="stable")
        size, surplus = divmod(len(positions), n_batches)
        sizes = np.full(n_batches, size)
        larger = (first + np.arange(surplus)) % n_batches
        sizes[larger] += 1
        first = (first + surplus) % n_batches
        cuts = np.cumsum(sizes)[:-1]
        pieces = np.split(positions[order], cuts)
        for part, piece in zip(parts, pieces):
            part.append(piece)
    return [np.concatenate(part) for part in parts]
