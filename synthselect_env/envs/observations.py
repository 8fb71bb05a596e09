"""Observations: one row per candidate, and the only place that knows their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.candidate_scores import candidate_scores, rank_from_zero_to_one

OBSERVATION_LIMIT = 10.0
"""Standardised features are clipped to this many standard deviations; the space is finite."""

MIN_STD = 1e-6
"""Least standard deviation that features are divided by."""

OBSERVATIONS = ("scores", "features")
"""What a row may show of a candidate."""

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


def _realism(bank: FeatureBank) -> np.ndarray:
    realism = candidate_scores(bank).realism
    return np.zeros(len(bank.candidates)) if realism is None else realism


def _is_candidate(bank: FeatureBank) -> np.ndarray:
    return np.ones(len(bank.candidates))


def _ranked(column: Column) -> Column:
    """Return a column of the ranks in the pool, from -1 to 1."""
    return lambda bank: 2 * rank_from_zero_to_one(column(bank)) - 1


SCORE_COLUMNS: dict[str, Column] = {
    "class": _class,
    "own centroid cosine": _ranked(_own_cosine),
    "other centroid cosine": _ranked(_other_cosine),
    "label fit": _ranked(_label_fit),
    "realism": _ranked(_realism),
    "is candidate": _is_candidate,
}
"""Columns of scores, in order.

``class`` is one column per class. ``other centroid cosine`` is the cosine to the nearest centroid
of another class. ``is candidate`` is 1, which tells a candidate from a padding row. The others are
ranks in the pool from -1 to 1, 0 for a realism that is not known. Ranks mean the same on all pools,
whatever their extractor.
"""

FORMER_COLUMNS: tuple[Column, ...] = (
    _class,
    _own_cosine,
    _other_cosine,
    _label_fit,
    lambda bank: -_realism(bank),
    _is_candidate,
)
"""Columns after the features in rows that policies of former versions read."""


def candidate_rows(
    bank: FeatureBank, observation: str = "scores"
) -> tuple[np.ndarray, dict[str, slice]]:
    """Return one row per candidate, and the position of each named column.

    :param bank: feature bank
    :param observation: "scores" for :data:`SCORE_COLUMNS`, or "features" for the paper's features,
        one column of that name, standardised by mean and standard deviation of the real training
        images
    :return: float (n, d), and column name to its slice of the d columns
    :raises ValueError: if the observation is unknown
    """
    if observation not in OBSERVATIONS:
        raise ValueError(f"unknown observation {observation!r}; one of {', '.join(OBSERVATIONS)}")
    if observation == "features":
        return _standardised_features(bank), {"features": slice(0, bank.n_features)}
    columns, slices, start = [], {}, 0
    for name, column in SCORE_COLUMNS.items():
        values = column(bank)
        stop = start + (1 if values.ndim == 1 else values.shape[1])
        columns.append(values)
        slices[name] = slice(start, stop)
        start = stop
    return np.column_stack(columns), slices


def _standardised_features(bank: FeatureBank) -> np.ndarray:
    mean = bank.train.features.mean(0)
    std = bank.train.features.std(0)
    centred = bank.candidates.features - mean
    return centred / np.maximum(std, MIN_STD)


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
    :raises ValueError: if the bank gives rows of no such width, or of two kinds
    """
    n_scores = len(bank.classes) + len(SCORE_COLUMNS) - 1
    if width == n_scores == bank.n_features:
        raise ValueError(
            f"{bank.source} has {width} features, as many as a candidate has scores, so it is not "
            "known which of them the policy was trained on; extract more features"
        )
    if width == n_scores:
        return candidate_rows(bank, "scores")[0]
    if width == bank.n_features:
        return candidate_rows(bank, "features")[0]
    columns = [_standardised_features(bank), *(column(bank) for column in FORMER_COLUMNS)]
    former = np.column_stack(columns)
    if width == former.shape[1]:
        return former
    raise ValueError(
        f"the policy was trained on rows of {width} numbers; {bank.source} gives {n_scores} scores "
        f"or {bank.n_features} features; take a bank with as many classes, or the same extractor"
    )
