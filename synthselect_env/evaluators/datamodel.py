"""DatamodelEvaluator: a regression on retrainings predicts what the next one would score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from synthselect_env.bank import FeatureBank, Retrainings
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.evaluators.candidate_scores import candidate_scores
from synthselect_env.metrics import METRICS
from synthselect_env.storage import content_key

PENALTIES = np.geomspace(1e-4, 10, 26)
"""Penalties of the regression that are tried."""

POWERS = (1.0, 1.5, 2.0)
"""Powers of the shares that are tried. Above 1, harm grows faster than the share of bad candidates:
a network shrugs off a few wrong labels, and learns many."""

MIN_LOSS = 1e-6
"""Lower bound that keeps the logarithm of a loss finite."""


class Composition(NamedTuple):
    """Size of k training sets, and shares of what they consist of."""

    size: np.ndarray  # (k, 1), number of images, real ones included
    class_shares: np.ndarray  # (k, c)
    knot_shares: np.ndarray  # (k, h), candidates near each knot of each rank


class RidgeFit(NamedTuple):
    """A ridge regression of one metric on regressors of one power."""

    weights: np.ndarray  # (p,)
    intercept: float
    leave_one_out: np.ndarray  # (m,), prediction of each row by a fit without it
    power: float = 1.0

    def predict(self, regressors: dict[float, np.ndarray]) -> np.ndarray:
        """Return the predictions for k rows.  power to (k, p) -> (k,)"""
        return self.intercept + regressors[self.power] @ self.weights


class DatamodelEvaluator(Evaluator):
    """Predict a retraining's validation metrics from what the training set consists of.

    After the datamodels of Ilyas et al. (2022, arXiv:2202.00622), which regress a network's output
    on the presence of each training image. Here similar candidates share coefficients, so that a
    few dozen retrainings are enough. It predicts thousands of selections per second.

    Candidates are ranked by label fit and by realism, see :class:`CandidateScores`. The regressors
    of a training set are the shares of candidates near each knot of each rank, the imbalance of its
    classes, and the logarithm of its size with its square, as more images help up to a number.
    Each metric is a ridge regression on them. The log-likelihood is predicted by the logarithm of
    the loss, which keeps it negative. The penalty and the power of the shares are those with the
    smallest leave-one-out error.

    Where folds score the retrainings, no label has a part in the rank that predicts its own score.

    An optimiser finds selections that no retraining was like. Retrain those too and fit again:
    learn on the datamodel, correct it, learn again. Its accuracy is on the results page of
    ``benchmarks/probe_fidelity.py``.

    .. code-block:: python

        bank = with_retrainings(bank, CachedEvaluator(RetrainEvaluator(bank), "runs/retrained"))
        DatamodelEvaluator(bank).evaluate(selections, seed=0).log_likelihood

    :param bank: feature bank with the retrainings to fit to; :func:`with_retrainings` makes some
    :param n_knots: number of knots per rank. The influence of a candidate is interpolated linearly
        between them
    :raises ValueError: if the bank has no retrainings, too few of them, or some of other images
    """

    def __init__(self, bank: FeatureBank, n_knots: int = 3) -> None:
        super().__init__(bank)
        if n_knots < 2:
            raise ValueError(f"n_knots must be at least 2, got {n_knots}")
        retrainings = bank.retrainings
        if retrainings is None:
            raise ValueError(
                f"{bank.source}: no retrainings to fit a datamodel to; "
                "make some with synthselect_env.evaluators.with_retrainings"
            )
        if retrainings.images_digest != bank.images_digest:
            raise ValueError(
                f"{bank.source}: the retrainings are of other images or labels than the bank's; "
                "retrain with these, or drop the retrainings: "
                "dataclasses.replace(bank, retrainings=None)"
            )
        self.n_knots = int(n_knots)
        rows = retrainings.fold_of != retrainings.without_fold  # all, where that is None
        self.selections = self.checked(retrainings.selections[rows])
        comparable = retrainings.comparable_metrics
        self.metrics = Evaluations.from_epochs({m: comparable[m][rows] for m in METRICS})

        # What each candidate adds to a training set.
        n_classes = len(bank.classes)
        self._knot_weights = knot_weights(candidate_scores(bank).ranks, self.n_knots)  # (n, h)
        self._class_weights = np.eye(n_classes)[bank.candidates.labels]  # (n, c)
        self._real_counts = _real_counts(bank, retrainings)
        n_shares = self._knot_weights.shape[1]
        required = n_shares + 4
        if len(self.selections) < required:
            raise ValueError(
                f"{bank.source}: {len(self.selections)} retrainings, a datamodel of {n_shares} "
                f"shares, imbalance and size needs at least {required}"
            )

        # One regression per metric.
        self._retrained = self._retrained_sets(retrainings, retrainings.fold_of[rows])
        regressors = self._regressors(self._retrained)
        self._fits: dict[str, RidgeFit] = {}
        for metric in METRICS:
            values = _to_additive(metric, getattr(self.metrics, metric))
            self._fits[metric] = fit_power(regressors, values)

    def settings(self) -> dict[str, object]:
        """Return what the numbers depend on beside bank and selection."""
        # The knot weights hold what ranks are made from: image statistics and retrained networks.
        metrics = [getattr(self.metrics, metric) for metric in METRICS]
        return {
            "n_knots": self.n_knots,
            "powers": POWERS,
            "retrainings": content_key(*self._retrained, self._knot_weights, metrics),
        }

    def leave_one_out(self, metric: str = "log_likelihood") -> np.ndarray:
        """Return the prediction of each retraining by a datamodel without it.  (m,)"""
        return _from_additive(metric, self._fits[metric].leave_one_out)

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Predict the validation metrics of k selections; the seed changes nothing."""
        sets = self._composition(self.checked(selections))
        regressors = self._regressors(sets)
        predictions = {}
        for metric, fit in self._fits.items():
            predictions[metric] = _from_additive(metric, fit.predict(regressors))
        return Evaluations.from_metrics(predictions)

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        """Return the derivative of the predicted log-likelihood by each candidate's weight.

        :param selections: bool (k, n), one row per selection
        :param seed: not used, as nothing is random
        :return: float64 (k, n)
        """
        fit = self._fits["log_likelihood"]
        sets = self._composition(self.checked(selections))

        # Derivatives of the regression by the shares of knots and classes.
        share_weights = fit.weights[:-3]
        imbalance_weight, growth_weight, square_weight = fit.weights[-3:]
        slope = fit.power * sets.knot_shares ** (fit.power - 1)
        by_knot = slope * share_weights  # (k, h)
        deviation = 2 * (sets.class_shares - self._real_shares)  # (k, c)

        # A candidate raises its own shares, and dilutes all shares by adding to the size.
        raised = by_knot @ self._knot_weights.T  # (k, n)
        raised = raised + imbalance_weight * deviation @ self._class_weights.T
        diluted = (by_knot * sets.knot_shares).sum(1)  # (k,)
        imbalance_diluted = (deviation * sets.class_shares).sum(1)
        diluted = diluted + imbalance_weight * imbalance_diluted
        of_size = growth_weight + 2 * square_weight * self._growth(sets)  # (k, 1)
        inner = raised - diluted[:, None] + of_size

        # The log-likelihood is an exponential of the regression, which is its own derivative.
        prediction = fit.predict(self._regressors(sets))
        outer = _from_additive("log_likelihood", prediction)
        return outer[:, None] * inner / sets.size

    @property
    def _real_shares(self) -> np.ndarray:  # (c,)
        return self._real_counts / self._real_counts.sum()

    def _retrained_sets(self, retrainings: Retrainings, fold_of: np.ndarray) -> Composition:
        """Return what the retrainings' training sets consisted of.

        By folds, candidates are ranked by networks that have not seen the fold of the scores. A
        selection by labels that then score it looks too good.

        :param retrainings: the bank's
        :param fold_of: fold of each row of ``selections`` (m,)
        """
        sets = self._composition(self.selections)
        if not retrainings.folds:
            return sets
        shares = sets.knot_shares.copy()
        for fold in np.unique(fold_of):
            rows = fold_of == fold
            ranks = candidate_scores(self.bank, int(fold)).ranks
            counts = self.selections[rows] @ knot_weights(ranks, self.n_knots)
            shares[rows] = counts / sets.size[rows]
        return sets._replace(knot_shares=shares)

    def _composition(self, selections: np.ndarray) -> Composition:
        """Return what training sets consist of.

        :param selections: bool (k, n), one row per selection
        """
        weights = selections.astype(float)
        size = self._real_counts.sum() + weights.sum(1, keepdims=True)
        class_counts = self._real_counts + weights @ self._class_weights
        knot_counts = weights @ self._knot_weights
        return Composition(size, class_counts / size, knot_counts / size)

    def _regressors(self, sets: Composition) -> dict[float, np.ndarray]:
        """Return the inputs of the regression for each power of the shares.  (k, h + 3)"""
        deviation = sets.class_shares - self._real_shares
        imbalance = (deviation**2).sum(1, keepdims=True)
        growth = self._growth(sets)
        regressors = {}
        for power in POWERS:
            columns = [sets.knot_shares**power, imbalance, growth, growth**2]
            regressors[power] = np.concatenate(columns, axis=1)
        return regressors

    def _growth(self, sets: Composition) -> np.ndarray:
        """Return the logarithm of each set's size, in units of the real images.  (k, 1)"""
        return np.log(sets.size / self._real_counts.sum())


def _real_counts(bank: FeatureBank, retrainings: Retrainings) -> np.ndarray:
    """Return the number of real images per class that a network was trained on.  float (c,)"""
    n_classes = len(bank.classes)
    counts = np.bincount(bank.train.labels, minlength=n_classes).astype(float)
    folds = retrainings.folds
    if folds:
        counts += np.bincount(bank.valid.labels, minlength=n_classes)
        if retrainings.without_fold is None:
            counts *= 1 - 1 / folds
    return counts


def knot_weights(ranks: np.ndarray, n_knots: int) -> np.ndarray:
    """Return how near each candidate is to each knot of each rank.

    These are the hat functions of linear interpolation: a candidate on a knot counts for that knot
    alone, and one between two knots for both, the nearer one more.

    :param ranks: ranks from 0 to 1, (n, r)
    :param n_knots: number of knots per rank
    :return: float64 (n, r · n_knots)
    """
    knots = np.linspace(0, 1, n_knots)
    distances = np.abs(ranks[:, :, None] - knots)  # (n, r, n_knots)
    nearness = 1 - distances * (n_knots - 1)
    return np.maximum(0, nearness).reshape(len(ranks), -1)


def _to_additive(metric: str, values: np.ndarray) -> np.ndarray:
    """Return a metric on the scale on which effects add up: the logarithm of a loss."""
    if metric != "log_likelihood":
        return values
    loss = np.maximum(-values, MIN_LOSS)
    return np.log(loss)


def _from_additive(metric: str, values: np.ndarray) -> np.ndarray:
    """Return a metric from the scale on which effects add up."""
    return -np.exp(values) if metric == "log_likelihood" else values


def fit_power(regressors: dict[float, np.ndarray], values: np.ndarray) -> RidgeFit:
    """Fit with each power and return the fit with the smallest leave-one-out error.

    :param regressors: power to regressors (m, p)
    :param values: (m,)
    """

    def error(fit: RidgeFit) -> float:
        return ((fit.leave_one_out - values) ** 2).sum()

    fits = [fit_ridge(x, values)._replace(power=power) for power, x in regressors.items()]
    return min(fits, key=error)


def fit_ridge(x: np.ndarray, y: np.ndarray) -> RidgeFit:
    """Fit with each of :data:`PENALTIES` and return the smallest leave-one-out error's.

    :param x: regressors, (m, p); they are standardised
    :param y: (m,)
    """
    n = len(y)
    mean = x.mean(0)
    std = x.std(0) + 1e-9
    z = (x - mean) / std
    centred = y - y.mean()
    identity = np.eye(z.shape[1])
    fits: list[tuple[float, np.ndarray, np.ndarray]] = []
    for penalty in PENALTIES:
        gram = z.T @ z + penalty * n * identity
        solved = np.linalg.solve(gram, z.T)  # (p, m)
        slopes = solved @ centred

        # Errors of the fits without each row, from the residuals and leverages of the whole fit.
        residuals = centred - z @ slopes
        leverages = (z * solved.T).sum(1)
        errors = residuals / (1 - leverages - 1 / n)
        mean_square = (errors**2).mean()
        fits.append((mean_square, slopes / std, y - errors))

    _, weights, leave_one_out = min(fits, key=lambda fit: fit[0])
    intercept = float(y.mean() - mean @ weights)
    return RidgeFit(weights, intercept, leave_one_out)
