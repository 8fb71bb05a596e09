"""SelectionEpisodes: the rules of the game, without an interface to a library."""

from __future__ import annotations

import hashlib
from typing import Any

import gymnasium as gym
import numpy as np

from synthselect_env.bank import FeatureBank
from synthselect_env.envs.observations import (
    OBSERVATION_LIMIT,
    batch_observations,
    candidate_rows,
)
from synthselect_env.envs.rewards import Reward, RewardTracker
from synthselect_env.evaluators import Evaluations, Evaluator, has_credit, require_credit
from synthselect_env.evaluators.base import check_evaluations
from synthselect_env.metrics import METRICS


class RowsBox(gym.spaces.Box):
    """Space of the rows of a batch, which knows the batches that there are.

    A policy can tell from it whether a wrapper changed what it sees, e.g. ``VecNormalize``.

    :param table: rows of all batches, float32 (batches, batch_size, d)
    """

    def __init__(self, table: np.ndarray) -> None:
        super().__init__(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, table.shape[1:], np.float32)
        self.digests = frozenset(map(rows_digest, table))

    def is_batch(self, rows: np.ndarray) -> bool:
        """Return whether rows are those of a batch, unchanged, or those after the last one.

        :param rows: (batch_size, d)
        """
        return rows_digest(rows) in self.digests or not rows.any()


def rows_digest(rows: np.ndarray) -> bytes:
    """Return a digest of the rows of a batch.

    :param rows: (batch_size, d)
    """
    return hashlib.sha256(np.ascontiguousarray(rows, np.float32).tobytes()).digest()


class SelectionEpisodes:
    """Play n episodes side by side over one pool of candidates.

    One step is one batch. Kept candidates stay in the training set until the episode ends (the
    paper's "for further steps"), so step t scores real images + everything kept so far. All n
    selections are scored by one call of the evaluator.

    :param bank: feature bank
    :param evaluator: evaluator that scores selections
    :param reward: definition of the reward
    :param n: number of episodes
    :param n_batches: steps per episode
    :param observation: see :func:`~synthselect_env.envs.observations.candidate_rows`
    """

    def __init__(
        self,
        bank: FeatureBank,
        evaluator: Evaluator,
        reward: Reward,
        n: int,
        n_batches: int,
        observation: str,
    ) -> None:
        self.bank = bank
        self.evaluator = evaluator
        self.n = n
        self.batches = bank.make_batches(n_batches)
        rows, self.columns = candidate_rows(bank, observation)
        self.table = batch_observations(rows, self.batches)  # (batches, batch_size, d)
        self.masks = np.zeros((n, len(bank.candidates)), bool)
        self.step_index = len(self.batches)  # no episode has begun
        self.seed = 0
        self._reward = reward
        self._empty: Evaluations | None = None
        self._tracker: RewardTracker | None = None
        # Selections of the last step, and the number of batches decided by then.
        self._last_step: tuple[np.ndarray, int] | None = None
        self._known_credit: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def batch_size(self) -> int:
        """Rows of an observation, and bits of an action."""
        return self.table.shape[1]

    @property
    def observation_space(self) -> RowsBox:
        """Space of one batch's rows."""
        return RowsBox(self.table)

    @property
    def action_space(self) -> gym.spaces.MultiBinary:
        """Space of the decisions: 1 keeps, 0 discards. Padding rows are ignored."""
        return gym.spaces.MultiBinary(self.batch_size)

    @property
    def finished(self) -> bool:
        """True once the whole pool has been shown."""
        return self.step_index == len(self.batches)

    def action_masks(self) -> np.ndarray:
        """Return the action mask in sb3-contrib's layout: [discard, keep] per row.

        Padding rows can only be discarded.

        :return: bool (2 * batch_size,)
        """
        masks = np.ones((self.batch_size, 2), bool)
        if not self.finished:
            masks[len(self.batches[self.step_index]) :, 1] = False
        return masks.ravel()

    def restart(self, seed: int | None = None) -> None:
        """Begin n new episodes.

        :param seed: random seed of every evaluation from now on, shared by all n (common random
            numbers). It also resets the moving average of a smoothed reward. None keeps both
        """
        if seed is not None:
            if seed != self.seed:
                self._empty = None
            self.seed = seed
            self._tracker = None
            self._known_credit = []
        self.masks[:] = False
        self.step_index = 0
        if self._empty is None:  # without candidates there is one classifier, not n
            self._empty = self._evaluate(self.masks[:1])
            self._check_metric(self._empty)
        if self._tracker is None:
            self._tracker = RewardTracker(self._reward, self._empty, self.n)
        else:
            self._tracker.restart(self._empty)

    def _evaluate(self, masks: np.ndarray) -> Evaluations:
        evaluations = self.evaluator.evaluate(masks, self.seed)
        return check_evaluations(self.evaluator, evaluations, len(masks))

    def _check_metric(self, empty: Evaluations) -> None:
        """Check that the evaluator gives the metric that the reward is made from."""
        metric = self._reward.metric
        if np.isfinite(self._reward.value(empty)).all():
            return
        given = [name for name in METRICS if np.isfinite(getattr(empty, name)).all()]
        raise ValueError(
            f"{type(self.evaluator.unwrapped).__name__} gives no {metric} of the classifier without "
            f"candidates; take a reward from what it gives ({', '.join(given) or 'nothing'}), "
            'e.g. reward={"metric": "accuracy"}'
        )

    def observe(self) -> np.ndarray:
        """Return the current batch, the same for all episodes.

        :return: float32 (batch_size, d); zeros after the last batch
        """
        if self.finished:
            return np.zeros_like(self.table[0])
        return self.table[self.step_index].copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Evaluations]:
        """Apply one decision per candidate of the current batch, and score the selections.

        :param actions: 0 or 1, (n, batch_size)
        :return: rewards (n,), and the evaluations on the validation split
        :raises gymnasium.error.ResetNeeded: before the first episode and after the last batch
        :raises ValueError: if the actions have another shape, or are neither 0 nor 1
        """
        if self.finished or self._tracker is None:
            raise gym.error.ResetNeeded(
                "the episode is over (or has not begun): call reset() before step()"
            )
        actions = np.asarray(actions)
        if actions.shape != (self.n, self.batch_size):
            raise ValueError(
                f"expected an action of {self.batch_size} bits for each of {self.n} episodes, "
                f"got shape {actions.shape}"
            )
        is_decision = (actions == 0) | (actions == 1)
        if not is_decision.all():
            raise ValueError(
                f"an action is 0 (discard) or 1 (keep) for each candidate, got "
                f"{actions[~is_decision].flat[0]!r}; compare probabilities with a threshold"
            )
        batch = self.batches[self.step_index]
        self.masks[:, batch] = actions[:, : len(batch)] > 0
        self.step_index += 1
        self._last_step = self.masks.copy(), self.step_index
        evaluations = self._evaluate(self.masks)
        return self._tracker(evaluations), evaluations

    @property
    def has_credit(self) -> bool:
        """True if :meth:`credit` is the derivative of the reward.

        That takes an unsmoothed log-likelihood, and an evaluator that knows its derivative.
        """
        differentiable = self._reward.metric == "log_likelihood" and not self._reward.smoothing
        return differentiable and has_credit(self.evaluator)

    def credit(self) -> np.ndarray:
        """Return the gradient of the last reward by each candidate's training weight.

        Still available after the episode has ended. Where a reward subtracts the value of the step
        before, so does its gradient: over an episode, a decision's credits add up to the gradient
        of the final value.

        :return: float64 (n, batches so far, batch_size), zero in padding rows
        :raises NotImplementedError: if the evaluator does not implement ``credit``
        :raises gymnasium.error.ResetNeeded: before the first step
        """
        if self._last_step is None:
            raise gym.error.ResetNeeded("nothing has been decided yet: call step() before credit()")
        masks, decided = self._last_step
        last = self.batches[decided - 1]
        credit = self._credit_of(masks)  # (n, candidates)
        if self._reward.reference == "previous" and decided > 1:
            masks_before = masks.copy()
            masks_before[:, last] = False
            before = self._credit_of(masks_before).copy()
            before[:, last] = 0  # the step before knew nothing of this batch
            credit = credit - before
        padded = np.zeros((self.n, decided, self.batch_size))
        for t, batch in enumerate(self.batches[:decided]):
            padded[:, t, : len(batch)] = self._reward.scale * credit[:, batch]
        return padded

    def _credit_of(self, masks: np.ndarray) -> np.ndarray:
        """Return the evaluator's credit, and keep the last two answers."""
        for known, credit in self._known_credit:
            if np.array_equal(known, masks):
                return credit
        credit = require_credit(self.evaluator).credit(masks, self.seed)
        self._known_credit = [*self._known_credit[-1:], (masks, credit)]
        return credit

    def infos(self, evaluations: Evaluations | None = None) -> list[dict[str, Any]]:
        """Return step, number and share kept, and validation metrics of each episode.

        :param evaluations: evaluations of the step; None for those without candidates
        """
        if evaluations is None:
            assert self._empty is not None
            evaluations = Evaluations.concatenate([self._empty] * self.n)
        selected = self.masks.sum(1)
        shown = sum(map(len, self.batches[: self.step_index]))
        return [
            {
                "step": self.step_index,
                "selected": int(selected[i]),
                "selection_rate": float(selected[i]) / max(shown, 1),
                **{metric: float(getattr(evaluations, metric)[i]) for metric in METRICS},
            }
            for i in range(self.n)
        ]
