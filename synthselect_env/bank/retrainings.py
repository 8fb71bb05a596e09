"""Retrainings: selections that a network was trained on, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synthselect_env.metrics import METRICS


@dataclass(frozen=True, eq=False)
class Retrainings:
    """Selections that a network was retrained on, and its validation metrics.

    :param selections: bool (m, n), one row per retraining
    :param metrics: metric name to (m, e), after the last e epochs. With folds, retraining i is
        scored on fold i modulo their number
    :param training_config: training configuration and seed, JSON-able
    :param images_digest: :attr:`FeatureBank.images_digest` of the images trained and scored on
    :param own_log_probability: log-probability of each candidate's label under each network,
        float16 (m, n); NaN, or None, where it is not known
    :param without_fold: fold to hide. Its networks, which were not trained on it, rank the
        candidates; the scores of the other folds fit the datamodel. None to use all
    """

    selections: np.ndarray
    metrics: dict[str, np.ndarray]
    training_config: dict[str, Any]
    images_digest: str
    own_log_probability: np.ndarray | None = None
    without_fold: int | None = None

    @property
    def folds(self) -> int | None:
        """Number of folds that score the retrainings; None for the validation split."""
        return self.training_config.get("folds")

    @property
    def fold_of(self) -> np.ndarray:
        """Fold that each retraining was scored on, 0 where there are no folds.  int64 (m,)"""
        return np.arange(len(self.selections)) % (self.folds or 1)

    def first(self, k: int) -> Retrainings:
        """Return the first k retrainings."""
        own = self.own_log_probability
        return replace(
            self,
            selections=self.selections[:k],
            metrics={name: values[:k] for name, values in self.metrics.items()},
            own_log_probability=None if own is None else own[:k],
        )

    @property
    def comparable_metrics(self) -> dict[str, np.ndarray]:
        """Metrics as if all retrainings were scored on the same images.  name -> (m, e)

        Folds differ in how hard they are, so each metric is shifted to the same mean in all folds:
        that of all that is not hidden.
        """
        fold_of = self.fold_of
        comparable = {}
        for name, values in self.metrics.items():
            shifted = values.astype(np.float64)
            mean_of_all = np.nanmean(values[fold_of != self.without_fold], axis=0)
            for fold in np.unique(fold_of):
                mean = np.nanmean(values[fold_of == fold], axis=0)
                shifted[fold_of == fold] += mean_of_all - mean
            comparable[name] = shifted
        return comparable

    def check(self, n: int, where: str) -> None:
        """Check that the retrainings are of n candidates and have all metrics.

        :param n: number of candidates
        :param where: name of the retrainings in error messages
        :raises ValueError: if they are malformed
        """
        m = len(self.selections)
        if self.selections.shape != (m, n) or self.selections.dtype != bool:
            raise ValueError(
                f"{where}/selections is {self.selections.dtype} {self.selections.shape}, "
                f"expected bool (m, {n})"
            )
        missing = [metric for metric in METRICS if metric not in self.metrics]
        if missing:
            raise ValueError(
                f"{where}/figures lacks {', '.join(missing)}; a retraining has all metrics"
            )
        wrong = [
            f"{metric} {values.shape}"
            for metric, values in self.metrics.items()
            if values.ndim != 2 or len(values) != m
        ]
        if wrong:
            raise ValueError(
                f"{where}/figures must be arrays ({m}, epochs), one row per retraining; "
                f"got {', '.join(wrong)}"
            )
        own = self.own_log_probability
        if own is not None and (own.shape != (m, n) or own.dtype.kind != "f"):
            raise ValueError(
                f"{where}/own_log_probability is {own.dtype} {own.shape}, expected floats ({m}, {n})"
            )
