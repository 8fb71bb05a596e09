"""Credit where the evaluator has none: a regression of rewards on what was kept."""

from __future__ import annotations

import numpy as np

PENALTY = 1e-3
"""Of the ridge regression, as a share of the trace of its Gram matrix."""


class RidgeCritic:
    """Estimates what a candidate is worth from pairs of a selection and its reward.

    The reward of keeping a set is taken to be linear in the sum of the kept candidates' rows, and fitted by ridge regression on the
    deviations from the mean of each group, that is the selections from one batch. All pairs that were ever seen count, older ones less.

    :param decay: weight of the pairs seen so far against those of the next rollout
    """

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = decay
        self._gram: np.ndarray | None = None

    def update(self, rows: np.ndarray, kept: np.ndarray, rewards: np.ndarray) -> None:
        """Learn from a rollout.

        :param rows: (t, n, d), the batches
        :param kept: (t, e, n), what e selections kept of each
        :param rewards: (t, e)
        """
        if self._gram is None:
            self._gram, self._moment = np.zeros((rows.shape[2], rows.shape[2])), np.zeros(rows.shape[2])
        self._gram *= self.decay
        self._moment *= self.decay
        for batch, bits, reward in zip(rows.astype(np.float64), kept, rewards):
            sums = (bits - bits.mean(0)) @ batch  # (e, d)
            self._gram += sums.T @ sums
            self._moment += sums.T @ (reward - reward.mean())

    def credit(self, rows: np.ndarray) -> np.ndarray:
        """What keeping each candidate is estimated to add to the reward.  (t, n, d) -> (t, n)"""
        if self._gram is None:
            return np.zeros(rows.shape[:2])
        d = len(self._gram)
        penalty = PENALTY * np.trace(self._gram) + 1e-12
        return rows @ np.linalg.solve(self._gram + penalty * np.eye(d), self._moment)
