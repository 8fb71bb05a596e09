"""Observations: one row per candidate, and the only place that knows their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators import candidate_scores

OBSERVATION_LIMIT = 10.0
"""Standardised features are clipped to this many standard deviations; the space is finite."""

Column = Callable[[FeatureBank], np.ndarray]
"""Bank to one number per candidate (n,), or several (n, w)."""


def _class(bank: FeatureBank) -> np.ndarray:
    return np.eye(len(bank.classes))[bank.candidates.labels]


def _own_cosine(bank: FeatureBank) -> np.ndarray:
    return bank.centroid_cosines[np.arange(len(bank.candidates)), bank.candidates.labels]


def _other_cosine(bank: FeatureBank) -> np.ndarray:
    return np.where(_class(bank) == 1, -np.inf, bank.centroid_cosines).max(1)


def _label_fit(bank: FeatureBank) -> np.ndarray:
    return candidate_scores(bank).label_fit


def _atypicality(bank: FeatureBank) -> np.ndarray:
    realism = candidate_scores(bank).realism
    return np.zeros(len(bank.candidates)) if realism is None else -realism


def _is_candidate(bank: FeatureBank) -> np.ndarray:
    return np.ones(len(bank.candidates))


EXTENDED_COLUMNS: dict[str, Column] = {
    "class": _class,
    "own centroid cosine": _own_cosine,
    "other centroid cosine": _other_cosine,
    "label fit": _label_fit,
    "log atypicality": _atypicality,
    "is candidate": _is_candidate,
}
"""Columns of extended features, after the features, in order.

``class`` is one column per class. ``other centroid cosine`` is the cosine to the nearest centroid
of another class. ``log atypicality`` is minus the realism, zero where that is not known.
``is candidate`` is 1, which tells a candidate from a padding row.
"""


def candidate_rows(
    bank: FeatureBank, extended_features: bool
) -> tuple[np.ndarray, dict[str, slice]]:
    """Return one row per candidate, and the position of each named column.

    The first columns, "features", are the features, standardised by mean and standard deviation of
    the real training images. :data:`EXTENDED_COLUMNS` follow on request.

    :param bank: feature bank
    :param extended_features: whether to append the extended columns; False for the paper's features
    :return: float (n, d), and column name to its slice of the d columns
    """
    mean, std = bank.train.features.mean(0), bank.train.features.std(0)
    parts = {"features": (bank.candidates.features - mean) / np.maximum(std, 1e-6)}
    if extended_features:
        parts |= {name: column(bank) for name, column in EXTENDED_COLUMNS.items()}
    widths = [1 if values.ndim == 1 else values.shape[1] for values in parts.values()]
    ends = np.cumsum(widths)
    slices = {name: slice(int(end - w), int(end)) for name, w, end in zip(parts, widths, ends)}
    rows = np.column_stack(list(parts.values())) if extended_features else parts["features"]
    return rows, slices


def batch_observations(rows: np.ndarray, batches: Sequence[np.ndarray]) -> np.ndarray:
    """Return the observation of each batch.

    :param rows: one row per candidate (n, d), see :func:`candidate_rows`
    :param batches: candidate positions, one array per batch
    :return: float32 (batches, longest batch, d), clipped to ±:data:`OBSERVATION_LIMIT`. Shorter
        batches are padded with rows of zeros
    """
    longest = max(map(len, batches))
    table = np.zeros((len(batches), longest, rows.shape[1]), np.float32)
    for observation, batch in zip(table, batches):
        observation[: len(batch)] = np.clip(rows[batch], -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
    return table


def rows_of_width(bank: FeatureBank, width: int) -> np.ndarray:
    """Return the candidate rows that a policy of this width can read.

    :param bank: feature bank
    :param width: columns of the policy's observations
    :return: float (n, width)
    :raises ValueError: if the bank gives rows of no such width
    """
    rows, _ = candidate_rows(bank, extended_features=width != bank.n_features)
    if rows.shape[1] != width:
        raise ValueError(
            f"the policy was trained on rows of {width} numbers, {bank.source} gives "
            f"{rows.shape[1]}; extract its features with the same extractor"
        )
    return rows
