"""Selections to retrain on, and a bank with their retrainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import (
    ClassifierEvaluator,
    RetrainEvaluator,
    candidate_scores,
    draw_design,
    with_retrainings,
)
from synthselect_env.training.config import TrainingConfig


@pytest.mark.parametrize("with_realism", [False, True])
def test_design_covers_sizes_and_ranks(large: FeatureBank, with_realism: bool) -> None:
    bank = large
    if with_realism:
        stats = np.random.default_rng(0).normal(size=(424, 2))
        bank = replace(
            large,
            train=replace(large.train, image_stats=stats[:24]),
            candidates=replace(large.candidates, image_stats=stats[24:]),
        )
    design, ranks = draw_design(bank, 48, seed=0), candidate_scores(bank).ranks
    assert (design == draw_design(bank, 48, seed=0)).all()
    assert not design[0].any() and design[1].all()
    rates = design.mean(1)[2:]
    means = np.array([ranks[mask].mean(0) for mask in design[2:]])
    assert rates.min() < 0.2 and rates.max() > 0.6
    assert (means.min(0) < 0.45).all() and (means.max(0) > 0.7).all()
    if with_realism:
        # Either rank is tilted whatever the other is, so that a regression tells them apart.
        assert abs(np.corrcoef(means.T)[0, 1]) < 0.5


def test_design_goes_on_where_retrainings_stop(
    large: FeatureBank, retrained: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    """It does not move with what retrained networks say, and nothing comes twice."""
    assert np.array_equal(draw_design(large, 9, 0), draw_design(retrained, 9, 0))
    done: list[int] = []
    more = with_retrainings(retrained, pretended(large), 5, on_retraining=done.append)
    selections = more.retrainings.selections
    assert np.array_equal(selections, draw_design(large, 45, 0))
    assert len(np.unique(selections, axis=0)) == 45
    assert done == [1, 2, 3, 4, 5]


def test_retrainings_hold_metrics_and_labels(
    large: FeatureBank, retrained: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    retrain, held = pretended(large), retrained.retrainings
    for mask, brier in zip(held.selections[:3], held.metrics["brier"]):
        assert brier == pytest.approx(retrain.evaluate(mask[None], 0).brier)
    log_p = retrain.predict(held.selections[:1], 0, large.candidates)[0]
    own = log_p[np.arange(400), large.candidates.labels]
    assert held.own_log_probability[0] == pytest.approx(own, abs=0.01)


def test_labels_of_former_retrainings_may_be_unknown(
    large: FeatureBank, retrained: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    untold = replace(retrained.retrainings, own_log_probability=None)
    silent = replace(retrained, retrainings=untold)
    assert silent.digest != retrained.digest
    more = with_retrainings(silent, pretended(large), 5)
    own = more.retrainings.own_log_probability
    assert np.isnan(own[:40]).all() and np.isfinite(own[40:]).all()
    assert np.isfinite(candidate_scores(more).label_fit).all()


def test_folds_take_turns_and_differ_in_nothing_but_the_images(
    toy: FeatureBank, tiny: TrainingConfig
) -> None:
    """Each selection is scored on one fold. A harder fold does not make a selection look worse."""
    asked: list[tuple[int, int]] = []

    class Pretended(RetrainEvaluator):
        def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
            n_scored = len(dataset) - len(self.bank.candidates)
            fold = next(f for f in range(4) if set(self.fold(f).ids) <= set(dataset.ids))
            assert n_scored == len(self.fold(fold))
            log_p = np.empty((len(selections), len(dataset), 2))
            for k, row in enumerate(selections):
                asked.append((fold, int(row.sum())))
                p = 0.5 + 0.1 * fold + 0.0005 * row.sum()
                truth = np.where(dataset.labels[:, None] == np.arange(2), p, 1 - p)
                log_p[k] = np.log(truth)
            return log_p

    masks = np.arange(len(toy.candidates)) < np.arange(8)[:, None]
    told: list[int] = []
    retrain = Pretended(toy, config=tiny, folds=4, device="cpu")
    found = with_retrainings(toy, retrain, masks, on_retraining=told.append).retrainings
    assert found is not None and found.training_config["folds"] == 4
    assert sorted(asked) == sorted((k % 4, k) for k in range(8)) and told == list(range(1, 9))
    raw = found.metrics["log_likelihood"][:, 0]
    metric = found.comparable_metrics["log_likelihood"][:, 0]
    means = [metric[fold::4].mean() for fold in range(4)]
    assert np.ptp(means) < 1e-12 < np.ptp([raw[fold::4].mean() for fold in range(4)])
    assert metric.mean() == pytest.approx(raw.mean())
    assert (metric[4:] > metric[:4]).all(), "the order of selections stays"

    # Further ones go on with the next fold, and all are compared.
    asked.clear()
    more = with_retrainings(replace(toy, retrainings=found), retrain, masks[:3]).retrainings
    assert more is not None and sorted(fold for fold, _ in asked) == [0, 1, 2]
    assert np.array_equal(more.metrics["log_likelihood"][:8, 0], raw)
    asked.clear()
    again = with_retrainings(replace(toy, retrainings=more), retrain, masks[:2]).retrainings
    assert again is not None and sorted(fold for fold, _ in asked) == [0, 3]
    metric = again.comparable_metrics["log_likelihood"][:, 0]
    assert np.ptp([metric[fold::4].mean() for fold in range(4)]) < 1e-12


class PretendedFolds(RetrainEvaluator):
    """A network finds the label of an even candidate likely if its fold is even, else unlikely."""

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        fold = next(f for f in range(self.folds) if set(self.fold(f).ids) <= set(dataset.ids))
        known = dict(zip(self.bank.candidates.ids, np.arange(len(self.bank.candidates)) % 2))
        is_odd = np.array([known.get(name, 0) for name in dataset.ids])
        p = np.where((is_odd + fold) % 2, 0.2, 0.8)[:, None]
        log_p = np.log(np.where(dataset.labels[:, None] == np.arange(2), p, 1 - p))
        return np.repeat(log_p[None], len(selections), axis=0)


def test_by_folds_selections_follow_networks_that_have_not_seen_the_fold(
    large: FeatureBank, tiny: TrainingConfig
) -> None:
    retrain = PretendedFolds(large, config=tiny, folds=2, device="cpu")
    told: list[int] = []
    bank = with_retrainings(large, retrain, 80, on_retraining=told.append)
    selections = bank.retrainings.selections
    assert told == list(range(1, 81))
    assert not selections[:2].any() and selections[2:4].all(), "none and all on each fold"
    odd = np.arange(400) % 2
    for fold in range(2):
        drawn = selections[4 + fold :: 2]
        shares = drawn[:, odd == fold].sum(1) / drawn.sum(1)
        assert shares.mean() > 0.55

    # One more at a time comes to the same.
    growing = large
    for more in (3, 2, 75):
        growing = with_retrainings(growing, retrain, more)
    assert growing.digest == bank.digest
    with pytest.raises(ValueError, match="a design for 2 folds follows its first 4 retrainings"):
        draw_design(large, 5, seed=0, folds=2)


def test_numpys_integers_are_integers(
    toy: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    ours = with_retrainings(toy, pretended(toy), 20, 1)
    theirs = with_retrainings(toy, pretended(toy), np.int64(20), np.int64(1))
    assert ours.digest == theirs.digest


def test_errors(
    large: FeatureBank, retrained: FeatureBank, pretended: type[ClassifierEvaluator]
) -> None:
    retrain = pretended(large)
    with pytest.raises(ValueError, match="selections must be at least 1, got 0"):
        with_retrainings(large, retrain, 0)
    with pytest.raises(ValueError, match=r"must be bool \(k, 400\), k at least 1"):
        with_retrainings(large, retrain, np.zeros((0, 400), bool))
    with pytest.raises(ValueError, match="make one for it"):
        with_retrainings(large, pretended(toy_bank()), 4)
    with pytest.raises(ValueError, match="theirs → yours.*, seed: 0 → 1; .* or drop them"):
        with_retrainings(retrained, retrain, 4, seed=1)
    swapped = replace(retrained, valid=large.test)
    with pytest.raises(ValueError, match="of other images or labels; drop them"):
        with_retrainings(swapped, pretended(swapped), 4)
