"""Candidate scores: how promising each candidate is before anything is selected.

They are computed once per bank and kept with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.linear_probe import LinearProbeEvaluator

PROBE_COMPONENTS, PROBE_RIDGE = 32, 1.0
"""Settings of the probe that scores candidates. They are fixed, and not the evaluator's defaults,
because designs are drawn with them."""

SHARPNESS = 20.0
"""Weight of a retrained network by its validation log-likelihood: .05 worse counts a third."""

RANK_DECIMALS = 9
"""Decimals of a score that count for its rank. Equal rows differ in the last digits."""

MIN_PROBABILITY, MIN_ATYPICALITY = 1e-6, 1e-9
"""Lower bounds that keep logarithms finite."""

MIN_VARIANCE = 1e-3
"""Added to the variance of each direction of the standardised image statistics. Two statistics
that say the same would leave a direction without any."""


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Scores of n candidates.

    .. code-block:: python

        best_first = np.argsort(-candidate_scores(bank).label_fit_and_realism)

    :param label_fit: log-probability of each candidate's label, float64 (n,): out of bag where
        retrained networks tell, by the probe elsewhere
    :param probe_label_fit: the same by a linear probe on the real images alone, float64 (n,)
    :param realism: similarity of each candidate's image statistics to those of real images,
        float64 (n,); None where a bank has no image statistics
    """

    label_fit: np.ndarray
    probe_label_fit: np.ndarray
    realism: np.ndarray | None

    @property
    def label_fit_and_realism(self) -> np.ndarray:
        """Sum of label fit and realism; label fit alone where realism is not known.  (n,)"""
        if self.realism is None:
            return self.label_fit
        return self.label_fit + self.realism

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each candidate by label fit and, where known, by realism.  0..1, (n, 1 or 2)

        There are two ranks, not one of the sum: what a wrong label does to a classifier is not what
        a blurred image does.
        """
        scores = [self.label_fit]
        if self.realism is not None:
            scores.append(self.realism)
        return np.stack([rank_from_zero_to_one(score) for score in scores], axis=1)


def rank_from_zero_to_one(score: np.ndarray) -> np.ndarray:
    """Return the rank of each candidate by a score, 0 for the lowest and 1 for the highest.  (n,)

    Copies share a rank.
    """
    ranks = rankdata(score.round(RANK_DECIMALS)) - 1
    return ranks / max(len(score) - 1, 1)


def candidate_scores(bank: FeatureBank, fold: int | None = None) -> CandidateScores:
    """Return the scores of a bank's candidates, computed once per bank.

    :param bank: feature bank
    :param fold: fold of the bank's retrainings whose labels are to have no part in the label fit;
        None for the one that they hide, if any
    """
    bank = bank.sealed  # what is derived of a bank with a test split is the same
    fold = _hidden_fold(bank, fold)
    key = f"candidate_scores {fold}"
    if key not in bank.derived:
        probe_fit = label_probe(bank).own_log_probability(bank.candidates)
        out_of_bag = out_of_bag_label_fit(bank, fold)
        fit = probe_fit
        if out_of_bag is not None:
            # The probe knows the labels of all folds.
            other = probe_fit if fold is None else np.nanmean(out_of_bag)
            fit = np.where(np.isnan(out_of_bag), other, out_of_bag)
        bank.derived[key] = CandidateScores(fit, probe_fit, realism(bank))
    return bank.derived[key]


def label_probe(bank: FeatureBank) -> LinearProbeEvaluator:
    """Return the linear probe that scores candidates, fitted once per bank."""
    bank = bank.sealed
    if "label_probe" not in bank.derived:
        bank.derived["label_probe"] = LinearProbeEvaluator(
            bank, n_components=PROBE_COMPONENTS, ridge=PROBE_RIDGE, device="cpu"
        )
    return bank.derived["label_probe"]


def out_of_bag_label_fit(bank: FeatureBank, fold: int | None = None) -> np.ndarray | None:
    """Return the log-probability of each label under networks that did not train on it.

    This is the out-of-bag estimate of Kwon and Zou (2023, arXiv:2304.07718), with the networks of
    the bank's retrainings in place of trees. Probabilities are averaged. A network weighs by its
    validation log-likelihood, see :data:`SHARPNESS`; by folds all weigh the same, as a fold is too
    small to tell them apart, and its labels must not.

    :param bank: feature bank
    :param fold: fold that the networks have not seen either; None for the one that the retrainings
        hide, or else for all networks
    :return: (n,), NaN for a candidate that all networks were trained on; None where the bank's
        retrainings do not tell
    """
    fold = _hidden_fold(bank, fold)
    retrainings = bank.retrainings
    if retrainings is None or retrainings.own_log_probability is None:
        return None
    log_probability = retrainings.own_log_probability.astype(np.float64)
    own = np.exp(log_probability)  # (m, n)
    out_of_bag = ~retrainings.selections & np.isfinite(own)

    # Weights of the networks, 0 for a candidate that a network was trained on.
    weights = np.ones((len(own), 1))  # (m, 1)
    if not retrainings.folds:
        likelihood = retrainings.metrics["log_likelihood"][:, -1:].astype(np.float64)
        weights = np.exp(SHARPNESS * (likelihood - likelihood.max()))
    elif fold is not None:
        weights[retrainings.fold_of != fold] = 0
    weights = weights * out_of_bag  # (m, n)

    total = weights.sum(0)
    total = np.where(total > 0, total, np.nan)
    weighted = weights * np.nan_to_num(own)
    mean = weighted.sum(0) / total
    return np.log(np.maximum(mean, MIN_PROBABILITY))


def _hidden_fold(bank: FeatureBank, fold: int | None) -> int | None:
    """Return the fold that is asked for, or that which the bank's retrainings hide."""
    if fold is None and bank.retrainings is not None:
        return bank.retrainings.without_fold
    return fold


def realism(bank: FeatureBank) -> np.ndarray | None:
    """Return how much each candidate's image statistics resemble those of real images.

    The score is minus the logarithm of a Mahalanobis distance: that of the candidate's image
    statistics to the real training images.

    :param bank: feature bank
    :return: (n,); None where image statistics are not known, or there are too few real images to
        know their spread
    """
    real = bank.train.image_stats
    pool = bank.candidates.image_stats
    if real is None or pool is None or len(real) <= 2 * real.shape[1]:
        return None
    real = real.astype(np.float64)
    pool = pool.astype(np.float64)

    # Standardise by the real images, and whiten by the Cholesky factor of their covariance.
    mean = real.mean(0)
    scale = np.maximum(real.std(0), 1e-9)
    real = (real - mean) / scale
    pool = (pool - mean) / scale
    covariance = real.T @ real / len(real)
    covariance += MIN_VARIANCE * np.eye(len(covariance))
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, pool.T)
    atypicality = np.linalg.norm(whitened, axis=0)
    return -np.log(np.maximum(atypicality, MIN_ATYPICALITY))
