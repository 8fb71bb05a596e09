"""RidgeCritic: credit by regression, for evaluators without a derivative."""

from __future__ import annotations

import numpy as np

PENALTY = 1e-3
"""Penalty of the ridge regression, as a share of its Gram matrix's trace."""


class RidgeCritic:
    """Estimate each candidate's credit from pairs of selection and reward.

    The reward is taken to be linear in the sum of the kept candidates' rows. Ridge regression fits
    it on the deviations from each group's mean. A group is the selections that were drawn from the
    same batch. All pairs seen so far count, older ones less.

    .. code-block:: python

        critic = RidgeCritic()
        critic.update(rows, actions, rewards)
        credit = critic.credit(rows)

    :param decay: weight of the pairs seen so far against those of the next rollout
    """

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = decay
        self._gram: np.ndarray | None = None

    def update(self, rows: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Learn from a rollout.

        :param rows: candidates' rows of each batch (t, n, d)
        :param actions: decisions of e selections on each batch, 0 or 1 (t, e, n)
        :param rewards: reward of each selection (t, e)
        """
        if self._gram is None:
            d = rows.shape[2]
            self._gram = np.zeros((d, d))
            self._moment = np.zeros(d)
        self._gram *= self.decay
        self._moment *= self.decay
        for batch, bits, reward in zip(rows.astype(np.float64), actions, rewards):
            sums = (bits - bits.mean(0)) @ batch  # (e, d)
            self._gram += sums.T @ sums
            self._moment += sums.T @ (reward - reward.mean())

    def credit(self, rows: np.ndarray) -> np.ndarray:
        """Estimate the reward that keeping each candidate adds.

        :param rows: candidates' rows of each batch (t, n, d)
        :return: credit of each candidate (t, n), zero before the first update
        """
        if self._gram is None:
            return np.zeros(rows.shape[:2])
        d = len(self._gram)
        penalty = PENALTY * np.trace(self._gram) + 1e-12
        return rows @ np.linalg.solve(self._gram + penalty * np.eye(d), self._moment)
