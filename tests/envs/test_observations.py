"""Observations: standardised features, named columns, and padding."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents import CreditPPO, TransformerPolicy
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs import observations
from synthselect_env.envs.observations import (
    EXTENDED_COLUMNS,
    OBSERVATION_LIMIT,
    batch_observations,
    candidate_rows,
    rows_of_width,
)
from synthselect_env.evaluators import candidate_scores


def test_features_are_standardised_by_the_real_images(toy: FeatureBank) -> None:
    rows, columns = candidate_rows(toy, extended_features=False)
    train = toy.train.features
    expected = (toy.candidates.features - train.mean(0)) / train.std(0)
    assert columns == {"features": slice(0, 8)}
    assert rows == pytest.approx(expected, abs=1e-5)


def test_extended_columns(toy: FeatureBank, planted: FeatureBank) -> None:
    rows, columns = candidate_rows(toy, extended_features=True)
    values = {name: rows[:, position] for name, position in columns.items()}
    assert list(values) == ["features", *EXTENDED_COLUMNS]
    assert (values["features"] == candidate_rows(toy, False)[0]).all()
    assert (values["class"] == np.eye(2)[toy.candidates.labels]).all()
    own_cosine = values["own centroid cosine"][:, 0]
    assert 1 - own_cosine == pytest.approx(toy.centroid_distances, abs=1e-5)
    assert (values["label fit"][:, 0] == candidate_scores(toy).label_fit).all()
    assert (values["log atypicality"] == 0).all()  # the toy bank knows no realism
    rows, columns = candidate_rows(planted, extended_features=True)
    atypicality = rows[:, columns["log atypicality"]][:, 0]
    assert (atypicality == -candidate_scores(planted).realism).all()


def test_batches_are_clipped_and_padded(small: FeatureBank) -> None:
    rows, _ = candidate_rows(small, extended_features=True)
    table = batch_observations(100 * rows, small.batches)
    assert table.dtype == np.float32
    assert np.abs(table).max() == OBSERVATION_LIMIT
    table = batch_observations(rows, small.batches)
    for observation, batch in zip(table, small.batches):
        clipped = np.clip(rows[batch], -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
        assert observation[: len(batch)] == pytest.approx(clipped, abs=1e-5)
        assert not observation[len(batch) :].any()


def test_rows_of_a_policys_width(toy: FeatureBank) -> None:
    for extended in (False, True):
        rows, _ = candidate_rows(toy, extended)
        assert (rows_of_width(toy, rows.shape[1]) == rows).all()
    with pytest.raises(ValueError, match="same extractor"):
        rows_of_width(toy_bank(n_features=9), 8)


@pytest.mark.parametrize("at", ["front", "middle"])
def test_a_new_column_breaks_nothing(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """No reader of the rows counts on a column's position."""
    width_before = candidate_rows(toy, extended_features=True)[0].shape[1]
    known = list(EXTENDED_COLUMNS.items())
    position = {"front": 0, "middle": 3}[at]
    new = ("noise", lambda bank: np.linspace(-1, 1, len(bank.candidates)))
    columns = dict([*known[:position], new, *known[position:]])
    monkeypatch.setattr(observations, "EXTENDED_COLUMNS", columns)

    env = SyntheticSelectionEnv(toy)
    assert env.observation_space.shape == (8, width_before + 1)
    rows, _ = candidate_rows(toy, extended_features=True)
    noise = rows[:, env.observation_columns["noise"]][:, 0]
    assert noise == pytest.approx(np.linspace(-1, 1, 64))

    # Without a derivative, CreditPPO's critic reads the class from the rows.
    arguments = {"n_steps": 8, "n_epochs": 1, "policy_kwargs": {"width": 8}, "device": "cpu"}
    for algorithm in (CreditPPO, PPO):
        vec_env = SelectionVecEnv(toy, n_envs=2, reward={"metric": "accuracy"})
        model = algorithm(TransformerPolicy, vec_env, batch_size=16, **arguments).learn(16)
        scores = PolicySelector(model).select(toy, 0).scores
        assert ((scores > 0) & (scores < 1)).all()
