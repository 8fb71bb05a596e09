"""A regression on full retrainings that were done: what the next one would score."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.evaluators.candidate_scores import candidate_scores
from synthselect_env.metrics import METRICS

PENALTIES = np.geomspace(1e-4, 10, 26)
"""Of the regression; the one with the smallest leave-one-out error is taken, for each metric."""

POWERS = (1.0, 1.5, 2.0)
"""Of the shares; chosen likewise. A network shrugs off a few wrong labels and learns many, so that harm grows faster than their share."""

LEAST_LOSS = 1e-6
"""Which keeps the logarithm of a loss finite."""


class _Fit(NamedTuple):
    """A ridge regression."""

    weights: np.ndarray
    intercept: float
    left_out: np.ndarray
    """What it predicts for each row when it is fitted without."""
    power: float = 1.0

    def linear(self, described: dict[float, np.ndarray]) -> np.ndarray:
        """What it predicts for what :meth:`DatamodelEvaluator._describe` says.  (k,)"""
        return self.intercept + described[self.power] @ self.weights


class _Parts(NamedTuple):
    """What k training sets are made of."""

    size: np.ndarray
    """(k, 1)"""
    class_shares: np.ndarray
    """(k, c)"""
    shares: np.ndarray
    """Of candidates near each knot of each rank.  (k, n_hats)"""


class DatamodelEvaluator(Evaluator):
    """Predicts a full retraining's validation figures from what the training set is made of, thousands a second.

    After the datamodels of Ilyas et al. (2022, arXiv:2202.00622), which regress a network's output on the presence of each training
    image. Here candidates share coefficients, so that a few dozen retrainings are enough. They are ranked by how well their label
    fits, and by how much they look like real images (:func:`~synthselect_env.evaluators.candidate_scores.candidate_ranks`); a training set is
    described by the shares that candidates near each of ``n_knots`` ranks of either kind have in it, by how far its classes' shares are
    from the real ones, and by the logarithm of its size. Each metric of the last epoch is a ridge regression on these, the log-likelihood by
    the logarithm of the loss, which cannot fall below nothing; the penalty and the power to which shares are raised are chosen by
    leave-one-out error.

    Measured on pcam-planted (benchmarks/probe_fidelity.py): it tells the order of 48 other selections by their retrained test
    log-likelihood with a Spearman correlation of .91, and each of eight selections that optimisers found on it gains at least half of what was
    promised, on the test split and in the mean over 3 retrainings. On pcam, where less is to be won, .68 (the retrainings' own validation:
    .77); there, what PPO is promised is kept, CreditPPO's promise in part, and what climbing it without a policy was promised is not. Leave-one-out correlation of the log-likelihood: pcam-planted .99, pcam .81,
    cervical .84; by one rank, of the sum of label fit + realism, on the same retrainings pcam-planted .94, and .88 in the place of .91.

    An optimiser finds selections that no retraining was like. Retrain those, too, and fit again: learn on the datamodel, correct it,
    learn again.

    :param bank: real splits and candidates; its retrainings are what the datamodel is fitted to. :func:`with_retrainings` makes some
    :param n_knots: of each rank, between which the influence of a candidate is interpolated linearly
    :raises ValueError: when the bank has no retrainings, too few of them, or such of other images
    """

    def __init__(self, bank: FeatureBank, n_knots: int = 3) -> None:
        super().__init__(bank)
        if n_knots < 2:
            raise ValueError(f"n_knots must be at least 2, got {n_knots}")
        if bank.retrainings is None:
            raise ValueError(
                f"{bank.source}: no retrainings to fit a datamodel to; make some with synthselect_env.evaluators.with_retrainings"
            )
        self.selections, self.n_knots = self.checked(bank.retrainings.selections), int(n_knots)
        if bank.retrainings.images_digest != bank.images_digest:
            raise ValueError(
                f"{bank.source}: the retrainings are of other pictures or labels than the bank's; retrain with these, or "
                "drop the retrainings: dataclasses.replace(bank, retrainings=None)"
            )
        self.metrics = Evaluations.from_epochs(bank.retrainings.metrics)
        ranks = candidate_scores(bank).ranks
        hats = np.maximum(
            0, 1 - np.abs(ranks[:, :, None] - np.linspace(0, 1, n_knots)) * (n_knots - 1)
        )  # (n, 1 or 2, n_knots)
        self._hats = hats.reshape(len(ranks), -1)  # (n, n_hats)
        if len(self.selections) < (least := self._hats.shape[1] + 3):
            raise ValueError(
                f"{bank.source}: {len(self.selections)} retrainings, a datamodel of {self._hats.shape[1]} shares and two more figures needs at least {least}"
            )
        self._classes = np.eye(len(bank.classes))[bank.candidates.labels]
        self._real = np.bincount(bank.train.labels, minlength=len(bank.classes)).astype(float)
        described = self._describe(self._parts(self.selections.astype(float)))
        self._fits = {m: _fitted(described, _linked(m, getattr(self.metrics, m))) for m in METRICS}

    def settings(self) -> dict[str, object]:
        """What the figures depend on beside the bank."""
        content = hashlib.sha256(np.packbits(self.selections, axis=1).tobytes())
        content.update(
            self._hats.tobytes()
        )  # ranks come from appearances and networks, too, which the bank's features do not tell
        for metric in METRICS:
            content.update(getattr(self.metrics, metric).tobytes())
        return {"n_knots": self.n_knots, "powers": POWERS, "retrainings": content.hexdigest()}

    def leave_one_out(self, metric: str = "log_likelihood") -> np.ndarray:
        """What a datamodel without it predicts for each of the retrainings.  (m,)"""
        return _unlinked(metric, self._fits[metric].left_out)

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Predict the validation metrics of k selections; the seed changes nothing."""
        described = self._describe(self._parts(self.checked(selections).astype(float)))
        predicted = {m: _unlinked(m, fit.linear(described)) for m, fit in self._fits.items()}
        return Evaluations.from_metrics(predicted)

    def credit(self, selections: np.ndarray, seed: int) -> np.ndarray:
        """Return the derivative of the predicted log-likelihood by each candidate's weight.

        :param selections: bool (k, n), one row per selection
        :param seed: not used, as nothing is random
        :return: float64 (k, n)
        """
        fit = self._fits["log_likelihood"]
        parts = self._parts(self.checked(selections).astype(float))
        steepness = fit.power * parts.shares ** (fit.power - 1) * fit.weights[:-2]  # (k, n_hats)
        balance, growth = fit.weights[-2:]
        deviation = 2 * (parts.class_shares - self._real / self._real.sum())  # (k, c)
        own = steepness @ self._hats.T + balance * deviation @ self._classes.T  # (k, n)
        mean = (steepness * parts.shares).sum(1) + balance * (deviation * parts.class_shares).sum(1)
        # The link is an exponential, which is its own derivative.
        outer = _unlinked("log_likelihood", fit.linear(self._describe(parts)))
        return outer[:, None] * (own - mean[:, None] + growth) / parts.size

    def _parts(self, weights: np.ndarray) -> _Parts:
        """What training sets are made of.  (k, n)"""
        size = self._real.sum() + weights.sum(1, keepdims=True)
        return _Parts(
            size, (self._real + weights @ self._classes) / size, weights @ self._hats / size
        )

    def _describe(self, parts: _Parts) -> dict[float, np.ndarray]:
        """What a regression sees of training sets, for each power.  (k, n_hats + 2)"""
        imbalance = ((parts.class_shares - self._real / self._real.sum()) ** 2).sum(
            1, keepdims=True
        )
        rest = imbalance, np.log(parts.size / self._real.sum())
        return {power: np.concatenate([parts.shares**power, *rest], axis=1) for power in POWERS}


def _linked(metric: str, values: np.ndarray) -> np.ndarray:
    """In the unit in which effects add up."""
    return np.log(np.maximum(-values, LEAST_LOSS)) if metric == "log_likelihood" else values


def _unlinked(metric: str, values: np.ndarray) -> np.ndarray:
    return -np.exp(values) if metric == "log_likelihood" else values


def _fitted(described: dict[float, np.ndarray], values: np.ndarray) -> _Fit:
    """The regression with the power that predicts best when left out."""
    fits = [_ridge(x, values)._replace(power=power) for power, x in described.items()]
    return min(fits, key=lambda fit: ((fit.left_out - values) ** 2).sum())


def _ridge(x: np.ndarray, y: np.ndarray) -> _Fit:
    """The regression with the penalty that predicts best when left out."""
    mean, std = x.mean(0), x.std(0) + 1e-9
    z, centred, n = (x - mean) / std, y - y.mean(), len(y)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for penalty in PENALTIES:
        solved = np.linalg.solve(z.T @ z + penalty * n * np.eye(z.shape[1]), z.T)
        errors = (centred - z @ (solved @ centred)) / (
            1 - (z * solved.T).sum(1) - 1 / n
        )  # of the fits without each row
        if best is None or (errors**2).mean() < best[0]:
            best = (errors**2).mean(), solved @ centred / std, y - errors
    assert best is not None
    return _Fit(best[1], float(y.mean() - mean @ best[1]), best[2])
