"""Observations: one row per candidate, and the only place that knows their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators import candidate_scores

OBSERVATION_LIMIT = 10.0
"""Standardised features are clipped to this many standard deviations; the space is finite."""

MIN_STD = 1e-6
"""Least standard deviation that features are divided by."""

Column = Callable[[FeatureBank], np.ndarray]
"""Bank to one number per candidate (n,), or several (n, w)."""


def _class(bank: FeatureBank) -> np.ndarray:
    return np.eye(len(bank.classes))[bank.candidates.labels]


def _own_cosine(bank: FeatureBank) -> np.ndarray:
    own = bank.candidates.labels[:, None]
    return np.take_along_axis(bank.centroid_cosines, own, axis=1)[:, 0]


def _other_cosine(bank: FeatureBank) -> np.ndarray:
    is_own = _class(bank) == 1
    others = np.where(is_own, -np.inf, bank.centroid_cosines)
    return others.max(1)


def _label_fit(bank: FeatureBank) -> np.ndarray:
    return candidate_scores(bank).label_fit


def _atypicality(bank: FeatureBank) -> np.ndarray:
    realism = candidate_scores(bank).realism
    if realism is None:
        return np.zeros(len(bank.candidates))
    return -realism


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
    mean = bank.train.features.mean(0)
    std = bank.train.features.std(0)
    centred = bank.candidates.features - mean
    rows = centred / np.maximum(std, MIN_STD)
    slices = {"features": slice(0, bank.n_features)}
    if not extended_features:
        return rows, slices

    columns = [rows]
    start = bank.n_features
    for name, column in EXTENDED_COLUMNS.items():
        values = column(bank)
        stop = start + (1 if values.ndim == 1 else values.shape[1])
        columns.append(values)
        slices[name] = slice(start, stop)
        start = stop
    return np.column_stack(columns), slices


def batch_observations(rows: np.ndarray, batches: Sequence[np.ndarray]) -> np.ndarray:
    """Return the observation of each batch.

    :param rows: one row per candidate (n, d), see :func:`candidate_rows`
    :param batches: candidate positions, one array per batch
    :return: float32 (batches, longest batch, d), clipped to ±:data:`OBSERVATION_LIMIT`. Shorter
        batches are padded with rows of zeros
    """
    longest = max(len(batch) for batch in batches)
    shape = (len(batches), longest, rows.shape[1])
    table = np.zeros(shape, np.float32)
    for observation, batch in zip(table, batches):
        observation[: len(batch)] = rows[batch].clip(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)
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
