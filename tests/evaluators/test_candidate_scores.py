"""Scores of candidates before anything is selected."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from synthselect_env import FeatureBank, Retrainings, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.evaluators import (
    DatamodelEvaluator,
    LinearProbeEvaluator,
    candidate_scores,
    draw_design,
)
from synthselect_env.evaluators.candidate_scores import SHARPNESS, label_probe
from synthselect_env.metrics import METRICS


def with_image_stats(bank: FeatureBank) -> FeatureBank:
    rng = np.random.default_rng(0)
    real, pool = rng.normal(size=(24, 2)), rng.normal(size=(400, 2))
    pool[::2] *= 50
    return replace(
        bank,
        train=replace(bank.train, image_stats=real),
        candidates=replace(bank.candidates, image_stats=pool),
    )


def test_are_computed_once_per_bank(
    retrained: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its test split or without, by environments, evaluators and designs."""
    fits: list[LinearProbeEvaluator] = []
    fit = LinearProbeEvaluator._fit_components
    monkeypatch.setattr(
        LinearProbeEvaluator,
        "_fit_components",
        lambda probe, n: fits.append(probe) or fit(probe, n),
    )
    bank = replace(retrained)  # nothing is known of it yet
    env = SyntheticSelectionEnv(bank, evaluator="datamodel")
    assert len(fits) == 1
    SelectionVecEnv(bank, 2, evaluator=DatamodelEvaluator(bank))
    draw_design(bank, 4, seed=0)
    assert candidate_scores(bank) is candidate_scores(env.bank)
    assert label_probe(bank) is fits[0] and len(fits) == 1
    for copied in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        scores = candidate_scores(copied)
        assert np.array_equal(scores.label_fit, candidate_scores(bank).label_fit)


def test_rank_by_label_fit_and_by_realism(large: FeatureBank) -> None:
    scores = candidate_scores(large)
    by_label = np.argsort(scores.label_fit, kind="stable")
    assert scores.ranks.shape == (400, 1) and scores.realism is None
    assert np.array_equal(np.argsort(scores.ranks[:, 0]), by_label)
    assert np.array_equal(scores.label_fit_and_realism, scores.label_fit)

    seen = candidate_scores(with_image_stats(large))
    assert np.array_equal(np.argsort(seen.ranks[:, 0]), by_label)
    by_realism = np.argsort(seen.realism, kind="stable")
    assert np.array_equal(np.argsort(seen.ranks[:, 1]), by_realism)
    assert np.array_equal(seen.label_fit_and_realism, seen.label_fit + seen.realism)
    odd = np.arange(400) % 2 == 0
    assert roc_auc_score(odd, -seen.realism) > 0.95


def test_realism_needs_enough_real_images(large: FeatureBank) -> None:
    wide = np.random.default_rng(0).normal(size=(424, 12))
    bank = replace(
        large,
        train=replace(large.train, image_stats=wide[:24]),
        candidates=replace(large.candidates, image_stats=wide[24:]),
    )
    assert candidate_scores(bank).realism is None


def test_copies_have_one_rank(large: FeatureBank) -> None:
    """A pool with one image many times over, as from a generator with few modes."""
    labels = large.candidates.labels
    first, *copies = np.flatnonzero(labels == 1)[:40]
    features = large.candidates.features.copy()
    features[copies] = features[first]
    candidates = replace(large.candidates, features=features)
    ranks = candidate_scores(replace(large, candidates=candidates)).ranks[:, 0]
    assert (ranks[copies] == ranks[first]).all()
    assert len(np.unique(ranks)) == len(labels) - len(copies)
    assert 0 <= ranks.min() and ranks.max() <= 1


def test_label_fit_is_out_of_bag(large: FeatureBank) -> None:
    """The mean over networks that a candidate was kept from, the better ones weighing more."""
    rng = np.random.default_rng(0)
    selections = rng.random((6, 400)) < 0.6
    own = np.log(rng.uniform(0.01, 1, (6, 400))).astype(np.float16)
    selections[:, 7] = True
    own[2] = np.nan
    metrics = {m: np.linspace(-0.6, -0.5, 6)[:, None] for m in METRICS}
    retrainings = Retrainings(selections, metrics, {}, large.images_digest, own)
    scores = candidate_scores(replace(large, retrainings=retrainings))
    for i in range(400):
        rows = [j for j in range(6) if not selections[j, i] and j != 2]
        if rows:
            weights = np.exp(SHARPNESS * metrics["log_likelihood"][rows, 0])
            mean = np.average(np.exp(own[rows, i].astype(float)), weights=weights)
            assert scores.label_fit[i] == pytest.approx(np.log(mean))
        else:
            assert scores.label_fit[i] == scores.probe_label_fit[i]
    by_probe = candidate_scores(large)
    assert np.array_equal(by_probe.label_fit, by_probe.probe_label_fit)
    assert np.array_equal(by_probe.label_fit, scores.probe_label_fit)


def test_retrained_networks_tell_of_candidates(large: FeatureBank, retrained: FeatureBank) -> None:
    """They know which labels are wrong, and rank better than the probe."""
    sound = large.candidates.flaw == 0
    before, after = (
        roc_auc_score(sound, candidate_scores(bank).label_fit_and_realism)
        for bank in (large, retrained)
    )
    assert after > before + 0.02
