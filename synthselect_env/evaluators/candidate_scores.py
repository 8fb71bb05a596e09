"""How promising each candidate looks before anything is selected, and selections drawn by that, from which a datamodel learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.linear_probe import LinearProbeEvaluator

RANKING_COMPONENTS, RANKING_RIDGE = 32, 1.0
"""The probe that ranks candidates. Fixed, and not the evaluator's defaults: retrainings are kept by the selections drawn with it."""

SHARPNESS = 20.0
"""Of the weights of retrained networks by their validation log-likelihood: one that is .05 worse counts a third."""

RANKED_DIGITS = 9
"""Decimals of a score that count for a rank."""

LEAST_PROBABILITY, LEAST_ATYPICALITY = 1e-6, 1e-9
"""Which keep logarithms finite."""

RATE, TILT, CLASS_TILT = (-3.0, 1.5), (-2.0, 5.0), 0.5
"""Ranges of a design selection's log-odds: overall, by each rank, and standard deviation by class. See :func:`draw_design`."""


def ranking_probe(bank: FeatureBank) -> LinearProbeEvaluator:
    """The linear probe that ranks candidates, fitted to the real pictures alone."""
    return LinearProbeEvaluator(bank, n_components=RANKING_COMPONENTS, ridge=RANKING_RIDGE, device="cpu")


def label_fit(bank: FeatureBank) -> np.ndarray:
    """Log-probability of each candidate's label under a probe on the real pictures alone.  (n,)"""
    return ranking_probe(bank).own_log_probability(bank.candidates)


def out_of_bag_fit(bank: FeatureBank) -> np.ndarray | None:
    """Log-probability of each candidate's label under the retrained networks that were not trained on it.  (n,)

    The out-of-bag estimate of Kwon and Zou (2023, arXiv:2304.07718) with the networks of the bank's retrainings in the place of
    trees. They have seen other candidates, and know more than a probe on few real pictures. What is given is the logarithm of the mean
    probability; a network weighs by its validation log-likelihood, see :data:`SHARPNESS`.

    :param bank: the bank
    :return: NaN for a candidate that all networks were trained on; None where the bank has no retrainings, or such that do not tell
    """
    retrainings = bank.retrainings
    if retrainings is None or retrainings.own_log_probability is None:
        return None
    own = np.exp(retrainings.own_log_probability.astype(np.float64))
    worth = retrainings.figures["log_likelihood"][:, -1:]
    weights = np.exp(SHARPNESS * (worth - worth.max())) * (~retrainings.selections & np.isfinite(own))  # (m, n)
    total = weights.sum(0)
    mean = (weights * np.nan_to_num(own)).sum(0) / np.where(total > 0, total, np.nan)
    return np.log(np.maximum(mean, LEAST_PROBABILITY))


def candidate_fit(bank: FeatureBank) -> np.ndarray:
    """How well each candidate's label fits what it shows, a log-probability: out of bag where that is known, by the probe where not.  (n,)"""
    fit, out_of_bag = label_fit(bank), out_of_bag_fit(bank)
    return fit if out_of_bag is None else np.where(np.isnan(out_of_bag), fit, out_of_bag)


def looks(bank: FeatureBank) -> np.ndarray | None:
    """How much each candidate looks like a real picture: less the logarithm of its atypicality.  (n,), or None where that is not known."""
    return None if bank.atypicality is None else -np.log(np.maximum(bank.atypicality, LEAST_ATYPICALITY))


def fit_and_looks(bank: FeatureBank) -> np.ndarray:
    """How well each candidate's label fits, and its looks those of real pictures.  (n,)

    :func:`candidate_fit`, and :func:`looks` where they are known. Measured (benchmarks/ranking.py, pcam-planted, by 48 retrainings of
    an earlier design; the present ones tell .77): it tells sound candidates from others with an area under the curve of .78, by the
    probe alone .75; retrained on the better half, test accuracy gains 5.1 ± .7 points in the place of 4.3 ± .6 (the
    log-likelihood .137 ± .011 and .148 ± .008; 3 seeds). Half the weight on looks reaches .79, and loses by retraining (4.0 ± 1.0).
    """
    fit, likeness = candidate_fit(bank), looks(bank)
    return fit if likeness is None else fit + likeness


def candidate_ranks(bank: FeatureBank) -> np.ndarray:
    """Ranks of each candidate in the pool, 0 to 1: by :func:`candidate_fit` and, where they are known, by :func:`looks`.  (n, 1 or 2)

    Two ranks and not one of their sum: what a wrong label does to a classifier is not what a blurred picture does.
    """
    likeness = looks(bank)
    scores = [candidate_fit(bank)] + ([] if likeness is None else [likeness])
    # copies share their rank; matrix products give equal rows values that differ in the last digits
    ranks = np.stack([rankdata(score.round(RANKED_DIGITS)) for score in scores], axis=1) - 1
    return ranks / max(len(ranks) - 1, 1)


def draw_design(bank: FeatureBank, k: int, seed: int) -> np.ndarray:
    """Selections from which a datamodel learns most: of all sizes, and tilted towards low or high ranks of either kind and to either class.

    :param bank: the bank; its retrainings change nothing
    :param k: how many; the first is empty and the second is the whole pool
    :param seed: of the draw
    :return: bool (k, n)
    """
    rng, n = np.random.default_rng(seed), len(bank.candidates)
    before = replace(bank, retrainings=None)  # which ranks candidates the same however many retrainings there are
    ranks, labels = 2 * candidate_ranks(before) - 1, bank.candidates.labels
    selections = [np.zeros(n, bool), np.ones(n, bool)]
    for _ in range(k - 2):
        tilts = rng.uniform(*TILT, ranks.shape[1])
        log_odds = rng.uniform(*RATE) + ranks @ tilts + rng.normal(0, CLASS_TILT, len(bank.classes))[labels]
        selections.append(rng.random(n) < 1 / (1 + np.exp(-log_odds)))
    return np.stack(selections[:k])
