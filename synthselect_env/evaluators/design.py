"""The design of retrainings: selections from which a datamodel learns most, and their scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from synthselect_env.bank import FeatureBank, Retrainings
from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import ClassifierEvaluator, Evaluations, EvaluatorWrapper
from synthselect_env.evaluators.candidate_scores import candidate_scores
from synthselect_env.evaluators.retrain import RetrainEvaluator
from synthselect_env.metrics import METRICS

SMALLEST = 0.25
"""Smallest selections of a design, as a share of the real training images."""
RATE_RANGE = (-60.0, 60.0)
"""Log-odds between which that of a size is looked for."""
TILT_RANGE = (-2.0, 5.0)
"""Range of the log-odds' slope along each rank."""
CURVATURE_RANGE = (-6.0, 6.0)
"""Range of the log-odds' weight of each squared rank. Without it no selection would show what the
middle ranks alone are worth, and an agent would find what a datamodel wrongly promises for them."""
CLASS_TILT = 0.5
"""Standard deviation of the log-odds' shift per class."""

IRRELEVANT_SETTINGS = ("device", "bfloat16", "scored_epochs")
"""Settings of a retraining that change rounding only, or epochs that a bank does not store."""


def draw_design(bank: FeatureBank, k: int, seed: int, folds: int | None = None) -> np.ndarray:
    """Draw selections of all sizes, tilted towards ranks and classes.

    The first is empty, the second the whole pool; with folds, the first of each fold are. The
    logarithms of the others' expected sizes are uniform between those of :data:`SMALLEST` and of
    the pool. Candidate i is kept with log-odds ``rate + tilts · ranks_i + curvatures · ranks_i² +
    class shift``, where ranks go from -1 to 1 and the rate makes that size.

    The ranks are the linear probe's. With folds, selection i is scored on fold i modulo their
    number, and ranks are by a network that has not seen it: that of the fold's first retraining.
    Later retrainings change nothing.

    :param bank: feature bank
    :param k: number of selections
    :param seed: random seed
    :param folds: number of folds that score the selections, or None
    :return: bool (k, n)
    :raises ValueError: if the bank lacks the first two retrainings of each fold, and more selections
        are asked for
    """
    rng = np.random.default_rng(seed)
    n = len(bank.candidates)
    each = folds or 1
    extremes = np.repeat([np.zeros(n, bool), np.ones(n, bool)], each, axis=0)
    if k <= len(extremes):
        return extremes[:k]
    ranks_of = _design_ranks(bank, folds)
    labels = bank.candidates.labels
    selections = list(extremes)
    smallest = min(max(SMALLEST * len(bank.train), 1), n / 2)
    for i in range(len(extremes), k):
        ranks = ranks_of[i % each]
        size = np.exp(rng.uniform(np.log(smallest), np.log(n)))
        tilts = rng.uniform(*TILT_RANGE, ranks.shape[1])
        curvatures = rng.uniform(*CURVATURE_RANGE, ranks.shape[1])
        shifts = rng.normal(0, CLASS_TILT, len(bank.classes))
        log_odds = ranks @ tilts + ranks**2 @ curvatures + shifts[labels]
        rate = _rate_of(log_odds, size)
        selections.append(rng.random(n) < expit(log_odds + rate))
    return np.stack(selections)


def _design_ranks(bank: FeatureBank, folds: int | None) -> list[np.ndarray]:
    """Return the ranks from -1 to 1 that selections are tilted by, per fold.  (n, r) each"""
    if folds is None:
        # By the probe alone: the ranks must not depend on how many retrainings there are already.
        scores = candidate_scores(bank)
        return [2 * replace(scores, label_fit=scores.probe_label_fit).ranks - 1]
    held = bank.retrainings
    if held is None or len(held.selections) < 2 * folds:
        raise ValueError(
            f"{bank.source}: a design for {folds} folds follows its first {2 * folds} retrainings; "
            "let with_retrainings draw and make them"
        )
    first = replace(bank, retrainings=held.first(folds))
    return [2 * candidate_scores(first, fold).ranks - 1 for fold in range(folds)]


def _rate_of(log_odds: np.ndarray, size: float) -> float:
    """Return what is to be added to log-odds so that as many are kept on average.

    :param log_odds: (n,)
    :param size: number to keep, between 0 and n
    """

    def surplus(rate: float) -> float:
        return float(expit(log_odds + rate).sum()) - size

    return float(brentq(surplus, *RATE_RANGE))


def with_retrainings(
    bank: FeatureBank,
    retrain: ClassifierEvaluator | EvaluatorWrapper,
    selections: np.ndarray | int = 48,
    seed: int = 0,
    on_retraining: Callable[[int], None] | None = None,
) -> FeatureBank:
    """Return the bank with further retrainings beside those that it has.

    Each network is scored on the validation split and labels every candidate; see
    :func:`~synthselect_env.evaluators.candidate_scores.out_of_bag_label_fit`.

    With folds, each selection is scored on one of them, in turn; see
    :attr:`~synthselect_env.bank.Retrainings.comparable_metrics`.

    :param bank: feature bank
    :param retrain: evaluator that retrains, best a :class:`CachedEvaluator` of a
        :class:`RetrainEvaluator`
    :param selections: selections to retrain on, bool (k, n), or a number of them to draw by
        :func:`draw_design`
    :param seed: random seed of the draw, which goes on where the bank's own stops, and of all
        retrainings (common random numbers)
    :param on_retraining: callback, called with the number of retrainings done
    :raises ValueError: if the bank's own retrainings have another configuration, seed or images, or
        ``retrain`` belongs to another bank, or the bank lacks a fold
    """
    if retrain.bank.images_digest != bank.images_digest:
        raise ValueError(
            f"the evaluator retrains on the images of {retrain.bank.source}, not on those of "
            f"{bank.source}; make one for it"
        )
    seed = int(seed)
    if bank.retrainings is not None:
        _check_comparable(bank, bank.retrainings, retrain, seed)
    if not isinstance(selections, int | np.integer):
        return _with_selections(bank, retrain, selections, seed, on_retraining)

    # Draw them. With folds, the ranks of the later ones need the retrainings of the first.
    if selections < 1:
        raise ValueError(f"selections must be at least 1, got {selections}")
    folds = retrain.folds
    n_before = _n_retrainings(bank)
    n_after = n_before + int(selections)
    n_first = min(2 * folds, n_after) if folds else 0
    for k in (n_first, n_after):
        n_held = _n_retrainings(bank)
        if k > n_held:
            drawn = draw_design(bank, k, seed, folds)[n_held:]
            told = _counted_from(n_held - n_before, on_retraining)
            bank = _with_selections(bank, retrain, drawn, seed, told)
    return bank


def _with_selections(
    bank: FeatureBank,
    retrain: ClassifierEvaluator | EvaluatorWrapper,
    selections: np.ndarray,
    seed: int,
    on_retraining: Callable[[int], None] | None,
) -> FeatureBank:
    """Return the bank with retrainings on these selections, bool (k, n), beside those it has."""
    selections = retrain.checked(selections)
    held, n_held = bank.retrainings, _n_retrainings(bank)
    metrics, own = _retrain(bank, retrain, selections, seed, n_held, on_retraining)

    # Append to those that the bank has.
    if held is not None:
        metrics = {m: np.concatenate([held.metrics[m][:, -1:], metrics[m]]) for m in METRICS}
        known = held.own_log_probability
        if known is None:
            known = np.full(held.selections.shape, np.nan, np.float16)
        own = np.concatenate([known, own])
        selections = np.concatenate([held.selections, selections])
    retrainings = Retrainings(
        selections=selections,
        metrics=metrics,
        training_config=_training_config(retrain, seed),
        images_digest=bank.images_digest,
        own_log_probability=own,
    )
    return replace(bank, retrainings=retrainings)


def _n_retrainings(bank: FeatureBank) -> int:
    return 0 if bank.retrainings is None else len(bank.retrainings.selections)


def _counted_from(
    start: int, on_retraining: Callable[[int], None] | None
) -> Callable[[int], None] | None:
    """Return a callback that adds those done before."""
    if on_retraining is None:
        return None
    return lambda done: on_retraining(start + done)


def _retrain(
    bank: FeatureBank,
    retrain: ClassifierEvaluator | EvaluatorWrapper,
    selections: np.ndarray,
    seed: int,
    n_held: int,
    on_retraining: Callable[[int], None] | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Retrain on each selection.

    :param n_held: number of retrainings that the bank has already. Folds go on from there
    :return: metric name to (k, 1), and the log-probability of each candidate's label, (k, n)
    """
    evaluator, scored = retrain.unwrapped, [bank.valid]
    folds = retrain.folds
    if isinstance(evaluator, RetrainEvaluator) and folds is not None:
        scored = [evaluator.fold(number) for number in range(folds)]
    k, labels = len(selections), bank.candidates.labels
    metrics = {name: np.zeros((k, 1)) for name in METRICS}
    own = np.zeros((k, len(labels)), np.float16)
    done = 0
    for fold, dataset in enumerate(scored):
        n_scored = len(dataset)
        everything = Dataset.concatenate([dataset, bank.candidates])
        candidates = n_scored + np.arange(len(labels))
        rows = np.arange((fold - n_held) % len(scored), k, len(scored))
        # As many at a time as the evaluator works on side by side.
        for start in range(0, len(rows), retrain.batch_size):
            part = rows[start : start + retrain.batch_size]
            log_p = retrain.predict(selections[part], seed, everything)  # (k, scored + n, c)
            evaluations = Evaluations.from_predictions(log_p[:, :n_scored], dataset.labels)
            for name in METRICS:
                metrics[name][part, 0] = getattr(evaluations, name)
            own[part] = log_p[:, candidates, labels]
            done += len(part)
            if on_retraining:
                on_retraining(done)

    return metrics, own


def differing_settings(
    held: Retrainings, retrain: ClassifierEvaluator | EvaluatorWrapper, seed: int
) -> list[str]:
    """Return the settings in which a bank's retrainings differ from further ones.

    Device and precision are left out, as they change rounding only.

    :param held: the bank's retrainings
    :param retrain: evaluator of the further ones
    :param seed: random seed of the further ones
    :return: one ``name: theirs → yours`` per setting
    """
    theirs, yours = _flat(held.training_config), _flat(_training_config(retrain, seed))
    names = [name for name in {**theirs, **yours} if name not in IRRELEVANT_SETTINGS]
    return [
        f"{name}: {theirs.get(name)} → {yours.get(name)}"
        for name in names
        if theirs.get(name) != yours.get(name)
    ]


def _training_config(retrain: ClassifierEvaluator | EvaluatorWrapper, seed: int) -> dict[str, Any]:
    """Return an evaluator's settings and the seed, as a bank stores them."""
    stored: dict[str, Any] = json.loads(json.dumps({"seed": int(seed), **retrain.settings()}))
    return stored


def _flat(training_config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with those of the network's training beside the others."""
    flat = {name: value for name, value in training_config.items() if name != "config"}
    return {**flat, **training_config.get("config", {})}


def _check_comparable(
    bank: FeatureBank,
    held: Retrainings,
    retrain: ClassifierEvaluator | EvaluatorWrapper,
    seed: int,
) -> None:
    """Refuse to mix retrainings that are no draws of one experiment."""
    if held.without_fold is not None:
        raise ValueError(
            f"{bank.source}: its retrainings hide a fold, which further ones would show; retrain the "
            "whole bank"
        )
    remedy = "dataclasses.replace(bank, retrainings=None)"
    differing = differing_settings(held, retrain, seed)
    if differing:
        raise ValueError(
            f"{bank.source}: its retrainings have another configuration or seed "
            f"(theirs → yours), {', '.join(differing)}; go on with theirs, or drop them: {remedy}"
        )
    if held.images_digest != bank.images_digest:
        raise ValueError(
            f"{bank.source}: its retrainings are of other images or labels; drop them: {remedy}"
        )
