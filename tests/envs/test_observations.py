"""Observations: standardised features, named columns, and padding."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from stable_baselines3 import PPO

from agents import CreditPPO, TransformerPolicy
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs import observations
from synthselect_env.envs.observations import (
    OBSERVATION_LIMIT,
    OBSERVATIONS,
    SCORE_COLUMNS,
    batch_observations,
    candidate_rows,
    rows_of_width,
)
from synthselect_env.evaluators import candidate_scores


def test_features_are_standardised_by_the_real_images(toy: FeatureBank) -> None:
    rows, columns = candidate_rows(toy, "features")
    train = toy.train.features
    expected = (toy.candidates.features - train.mean(0)) / train.std(0)
    assert columns == {"features": slice(0, 8)}
    assert rows == pytest.approx(expected, abs=1e-5)


def test_scores_are_ranks_in_the_pool(toy: FeatureBank, planted: FeatureBank) -> None:
    rows, columns = candidate_rows(toy)
    values = {name: rows[:, position] for name, position in columns.items()}
    assert list(values) == list(SCORE_COLUMNS)
    assert (values["class"] == np.eye(2)[toy.candidates.labels]).all()
    assert (values["realism"] == 0).all(), "the toy bank knows none"
    assert (values["is candidate"] == 1).all()
    rows, columns = candidate_rows(planted)
    scores = candidate_scores(planted)
    for name, expected in (
        ("own centroid cosine", -planted.centroid_distances),
        ("label fit", scores.label_fit),
        ("realism", scores.realism),
    ):
        rank = rows[:, columns[name]][:, 0]
        assert spearmanr(rank, expected)[0] > 1 - 1e-6
        assert rank.min() == pytest.approx(-1, abs=0.01)
        assert rank.max() == pytest.approx(1, abs=0.01)


def test_batches_are_clipped_and_padded(small: FeatureBank) -> None:
    rows, _ = candidate_rows(small)
    table = batch_observations(100 * rows, small.batches)
    assert table.dtype == np.float32
    assert np.abs(table).max() == OBSERVATION_LIMIT
    table = batch_observations(rows, small.batches)
    for observation, batch in zip(table, small.batches):
        clipped = np.clip(rows[batch], -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
        assert observation[: len(batch)] == pytest.approx(clipped, abs=1e-5)
        assert not observation[len(batch) :].any()


def test_rows_of_a_policys_width(toy: FeatureBank) -> None:
    for observation in OBSERVATIONS:
        rows, _ = candidate_rows(toy, observation)
        assert (rows_of_width(toy, rows.shape[1]) == rows).all()
    with pytest.raises(ValueError, match="gives 7 scores or 9 features"):
        rows_of_width(toy_bank(n_features=9), 8)
    with pytest.raises(ValueError, match="not known which"):
        rows_of_width(toy_bank(n_features=7), 7)
    with pytest.raises(ValueError, match="unknown observation 'all'; one of scores, features"):
        SyntheticSelectionEnv(toy, observation="all")


@pytest.mark.parametrize("at", ["front", "middle"])
def test_a_new_column_breaks_nothing(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """No reader of the rows counts on a column's position."""
    toy = toy_bank(n_features=12)
    width_before = candidate_rows(toy)[0].shape[1]
    known = list(SCORE_COLUMNS.items())
    position = {"front": 0, "middle": 3}[at]
    new = ("noise", lambda bank: np.linspace(-1, 1, len(bank.candidates)))
    columns = dict([*known[:position], new, *known[position:]])
    monkeypatch.setattr(observations, "SCORE_COLUMNS", columns)

    env = SyntheticSelectionEnv(toy)
    assert env.observation_space.shape == (8, width_before + 1)
    rows, _ = candidate_rows(toy)
    noise = rows[:, env.observation_columns["noise"]][:, 0]
    assert noise == pytest.approx(np.linspace(-1, 1, 64))

    # Without a derivative, CreditPPO's critic reads the class from the rows.
    arguments = {"n_steps": 8, "n_epochs": 1, "policy_kwargs": {"width": 8}, "device": "cpu"}
    for algorithm in (CreditPPO, PPO):
        vec_env = SelectionVecEnv(toy, n_envs=2, reward={"metric": "accuracy"})
        model = algorithm(TransformerPolicy, vec_env, batch_size=16, **arguments).learn(16)
        scores = PolicySelector(model).select(toy, 0).scores
        assert ((scores > 0) & (scores < 1)).all()
