"""SyntheticSelectionEnv: one batch of candidates a step, keep or discard each, rewarded by the retrained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from synthselect_env.bank import N_BATCHES, FeatureBank
from synthselect_env.bank.embedded import resolve_bank
from synthselect_env.data import decode
from synthselect_env.envs.rewards import DEFAULT_REWARD, Reward, RewardTracker, resolve_reward
from synthselect_env.evaluators import Evaluations, Evaluator, make_evaluator
from synthselect_env.evaluators.candidate_scores import candidate_fit, looks
from synthselect_env.metrics import METRICS

OBSERVATION_LIMIT = 10.0
"""Standardised features are clipped to this many standard deviations, which makes the observation space finite."""


def observations(bank: FeatureBank, batches: list[np.ndarray], context: bool) -> np.ndarray:
    """What an agent sees of each batch.

    Features, standardised by the real training split's mean and standard deviation. With ``context``, also the class (one
    column each), the cosine to the centroid of the own class and to the nearest other one, the log-probability of the label
    (:func:`~synthselect_env.evaluators.candidate_scores.candidate_fit`), the logarithm of the atypicality (zeros where it is not known), and a column of ones that
    tells a candidate from padding. Batches shorter than the longest are padded with rows of zeros.

    :param bank: the bank
    :param batches: candidate positions, an array a batch
    :param context: whether to append the context columns
    :return: float32 (batches, longest batch, d), within ±:data:`OBSERVATION_LIMIT`
    """
    mean, std = bank.train.features.mean(0), bank.train.features.std(0)
    rows = (bank.candidates.features - mean) / np.maximum(std, 1e-6)
    if context:
        n, labels = len(bank.candidates), bank.candidates.labels
        classes = np.eye(len(bank.classes))[labels]
        own = bank.centroid_cosines[np.arange(n), labels]
        other = np.where(classes == 1, -np.inf, bank.centroid_cosines).max(1)
        likeness = looks(bank)
        unlike = np.zeros(n) if likeness is None else -likeness
        rows = np.column_stack([rows, classes, own, other, candidate_fit(bank), unlike, np.ones(n)])
    table = np.zeros((len(batches), max(map(len, batches)), rows.shape[1]), np.float32)
    for i, batch in enumerate(batches):
        table[i, : len(batch)] = np.clip(rows[batch], -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
    return table


class SelectionEpisodes:
    """n episodes side by side over one pool: the rules of the game, without an interface to a library.

    One step is one batch; what is kept accumulates within the episode, and step t scores real + everything kept so far
    (the paper's selected images stay in the training set "for further steps"). An evaluation scores all n at once.

    :param bank: the bank
    :param evaluator: scores selections
    :param reward: evaluation to scalar
    :param n: number of episodes
    :param n_batches: steps in an episode
    :param context: see :func:`observations`
    """

    def __init__(self, bank: FeatureBank, evaluator: Evaluator, reward: Reward, n: int, n_batches: int, context: bool) -> None:
        self.bank, self.evaluator, self.n = bank, evaluator, n
        self.batches = bank.make_batches(n_batches)
        self.table = observations(bank, self.batches, context)
        self.masks = np.zeros((n, len(bank.candidates)), bool)
        self.step_index = len(self.batches)  # no episode has begun
        self.seed = 0
        self._reward = reward
        self._none: Evaluations | None = None  # of this seed; without candidates there is one classifier, not n
        self._tracker: RewardTracker | None = None
        self._decided: tuple[np.ndarray, int] | None = None  # what the last step scored, and how many batches had been decided
        self._known: list[tuple[np.ndarray, np.ndarray]] = []  # credit that was asked for

    @property
    def batch_size(self) -> int:
        """Rows of an observation, bits of an action."""
        return self.table.shape[1]

    @property
    def observation_space(self) -> gym.spaces.Box:
        """One batch's features."""
        return gym.spaces.Box(-OBSERVATION_LIMIT, OBSERVATION_LIMIT, self.table.shape[1:], np.float32)

    @property
    def action_space(self) -> gym.spaces.MultiBinary:
        """Keep (1) or discard (0) a candidate each; bits of padding rows are ignored."""
        return gym.spaces.MultiBinary(self.batch_size)

    def action_masks(self) -> np.ndarray:
        """Which answers count, discard and keep for each row in turn: a padding row cannot be kept.  bool (2 * batch_size,)"""
        masks = np.ones((self.batch_size, 2), bool)
        if not self.finished:
            masks[len(self.batches[self.step_index]) :, 1] = False
        return masks.ravel()

    def restart(self, seed: int | None = None) -> None:
        """Begin n new episodes.

        :param seed: of every evaluation from now on, the same for all n (common random numbers); a smoothed reward's average
            begins afresh with it. None goes on with both.
        """
        if seed is not None:
            if seed != self.seed:
                self._none = None
            self.seed, self._tracker, self._known = seed, None, []
        self.masks[:] = False
        self.step_index = 0
        if self._none is None:
            self._none = self.evaluator.evaluate(self.masks[:1], self.seed)
        if self._tracker is None:
            self._tracker = RewardTracker(self._reward, self._none, self.n)
        else:
            self._tracker.restart(self._none)

    def observe(self) -> np.ndarray:
        """The present batch, the same for all episodes; zeros after the last.  (batch_size, d)"""
        return self.table[self.step_index].copy() if not self.finished else np.zeros_like(self.table[0])

    @property
    def finished(self) -> bool:
        """Whether the pool has been seen."""
        return self.step_index == len(self.batches)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Evaluations]:
        """Keep what the actions say.

        :param actions: (n, batch_size), 0 or 1
        :return: rewards (n,), and the evaluations they are made from
        :raises gymnasium.error.ResetNeeded: before the first episode and after the last batch
        :raises ValueError: when the actions have another shape
        """
        if self.finished:
            raise gym.error.ResetNeeded("the episode is over (or has not begun): call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != (self.n, self.batch_size):
            raise ValueError(f"expected an action of {self.batch_size} bits for each of {self.n} episodes, got shape {actions.shape}")
        batch = self.batches[self.step_index]
        self.masks[:, batch] = actions[:, : len(batch)] > 0
        self.step_index += 1
        self._decided = self.masks.copy(), self.step_index
        evaluations = self.evaluator.evaluate(self.masks, self.seed)
        assert self._tracker is not None
        return self._tracker(evaluations), evaluations

    @property
    def has_credit(self) -> bool:
        """Whether the reward has a derivative that the evaluator knows: a log-likelihood, not smoothed."""
        return self.evaluator.has_credit and self._reward.metric == "log_likelihood" and not self._reward.smoothing

    def credit(self) -> np.ndarray:
        """What each decision of the episode has to do with the last step's reward; known also after a restart.

        The derivative of that reward by the weight that each candidate of the batches so far has in the training set. Where a reward
        subtracts the figure of the step before, so does its derivative: over an episode, those of a decision add up to that of the
        final figure.

        :return: float64 (n, batches so far, batch_size), zero in padding rows
        :raises NotImplementedError: when the evaluator has no credit
        :raises gymnasium.error.ResetNeeded: before the first step
        """
        if self._decided is None:
            raise gym.error.ResetNeeded("nothing has been decided yet: call step() before credit()")
        masks, seen = self._decided
        last = self.batches[seen - 1]
        worth = self._worth(masks)
        if self._reward.baseline == "previous" and seen > 1:
            before = masks.copy()
            before[:, last] = False
            earlier = self._worth(before).copy()
            earlier[:, last] = 0  # the step before knew nothing of this batch
            worth = worth - earlier
        padded = np.zeros((self.n, seen, self.batch_size))
        for t, batch in enumerate(self.batches[:seen]):
            padded[:, t, : len(batch)] = self._reward.scale * worth[:, batch]
        return padded

    def _worth(self, masks: np.ndarray) -> np.ndarray:
        """The evaluator's credit, remembered: what one step asks for is what the next one subtracts.  (n, n of the pool)"""
        for known, worth in self._known:
            if np.array_equal(known, masks):
                return worth
        worth = self.evaluator.credit(masks, self.seed)
        self._known = [*self._known[-1:], (masks, worth)]
        return worth

    def infos(self, evaluations: Evaluations | None = None) -> list[dict[str, Any]]:
        """The same small scalars for each episode at each step: step, number and share kept, validation metrics."""
        if evaluations is None:
            assert self._none is not None, "no episode has begun"
            evaluations = Evaluations.from_epochs({name: np.repeat(values, self.n, axis=0) for name, values in self._none.epochs.items()})
        kept = self.masks.sum(1)
        seen = sum(map(len, self.batches[: self.step_index]))
        return [
            {
                "step": self.step_index,
                "selected": int(kept[i]),
                "selection_rate": float(kept[i]) / max(seen, 1),
                **{m: float(getattr(evaluations, m)[i]) for m in METRICS},
            }
            for i in range(self.n)
        ]


class SyntheticSelectionEnv(gym.Env[np.ndarray, np.ndarray]):
    """Choose which synthetic candidates join the training set (Ye, Xue et al., MICCAI 2020, arXiv:2008.11331).

    An episode shows the pool in class-balanced batches, nearest to their class centroid first. The observation is one
    batch's features, ``Box(batch, d)``; the action keeps or discards each candidate, ``MultiBinary(batch)``; the reward is
    what the classifier retrained on real + kept scores on the validation split. The test split is not used.

    :param bank: a :class:`FeatureBank`, the name of an embedded one, a path, or None for ``default_bank``
    :param evaluator: "datamodel", "linear_probe", "resnet18", "resnet34", or an :class:`Evaluator`; None for the first where the bank has
        retrainings, and the second where it has none
    :param reward: a name in :data:`~synthselect_env.envs.rewards.REWARDS`, a :class:`Reward`, or a dictionary of its parameters
    :param n_batches: steps in an episode
    :param context: append class, centroid cosines, fit of the label and atypicality to the features; False for the paper's features alone
    :param evaluator_kwargs: passed to the evaluator's constructor when it is given by name
    :param render_mode: None, or "rgb_array": the last batch, kept candidates framed green and discarded ones red
    :param default_bank: the bank of a registered id
    :raises ValueError: when an argument is unknown
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        bank: FeatureBank | str | Path | None = None,
        evaluator: str | Evaluator | None = None,
        reward: str | Reward | dict[str, object] = DEFAULT_REWARD,
        n_batches: int = N_BATCHES,
        context: bool = True,
        evaluator_kwargs: dict[str, object] | None = None,
        render_mode: str | None = None,
        default_bank: str = "pcam",
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}; None or one of {', '.join(self.metadata['render_modes'])}")
        self.bank = resolve_bank(default_bank if bank is None else bank).sealed
        scorer = make_evaluator(evaluator, self.bank, **(evaluator_kwargs or {}))
        self.render_mode = render_mode
        self._episodes = SelectionEpisodes(self.bank, scorer, resolve_reward(reward), 1, n_batches, context)
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space
        self._seeded = False

    @property
    def evaluator(self) -> Evaluator:
        """What scores the selection; another one makes another environment."""
        return self._episodes.evaluator

    @property
    def selection(self) -> np.ndarray:
        """What this episode has kept so far.  bool (n,)"""
        return self._episodes.masks[0].copy()

    def action_masks(self) -> np.ndarray:
        """For MaskablePPO: whether each row may be discarded, and whether it may be kept, in turn.  bool (2 * batch,)"""
        return self._episodes.action_masks()

    @property
    def has_credit(self) -> bool:
        """Whether :meth:`credit` is the derivative of what is rewarded."""
        return self._episodes.has_credit

    def credit(self) -> np.ndarray:
        """Derivative of the last reward by each decision so far; see :meth:`SelectionEpisodes.credit`.  float64 (steps so far, batch)"""
        return self._episodes.credit()[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.  Without a seed, evaluations keep the seed of the episode before (common random numbers)."""
        super().reset(seed=seed)
        begin = seed is not None or not self._seeded
        self._seeded = True
        self._episodes.restart(int(self.np_random.integers(2**31)) if begin else None)
        return self._episodes.observe(), self._episodes.infos()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Keep the candidates of the present batch whose bit is 1, and show the next batch.

        :raises gymnasium.error.ResetNeeded: before the first reset and after the last batch
        :raises ValueError: when the action has another shape
        """
        rewards, evaluations = self._episodes.step(np.asarray(action)[None])
        return self._episodes.observe(), float(rewards[0]), self._episodes.finished, False, self._episodes.infos(evaluations)[0]

    def render(self) -> np.ndarray | None:
        """The batch of the last step as a picture, uint8 (h, w, 3); all grey before the first step."""
        if self.render_mode is None:
            return None
        decided = self._seeded and self._episodes.step_index > 0
        batch = self._episodes.batches[self._episodes.step_index - 1 if decided else 0]
        return framed(self.bank, batch, self._episodes.masks[0][batch] if decided else None)


def framed(bank: FeatureBank, batch: np.ndarray, kept: np.ndarray | None, side: int = 24, columns: int = 32) -> np.ndarray:
    """Candidates in rows, each in a frame: green for kept, red for discarded, grey for undecided.

    :param bank: the bank; without pictures, the frames are filled with a lighter shade
    :param batch: candidate positions (m,)
    :param kept: bool (m,), or None
    :param side: width of a tile in pixels, frame included
    :param columns: tiles a row
    :return: uint8 (h, w, 3)
    """
    frame = 2
    height = side  # of a tile; pictures keep their proportions
    if bank.candidates.images is not None and len(batch):
        tall, wide = decode(bank.candidates.images[batch[:1]]).shape[1:3]
        height = round((side - 2 * frame) * tall / wide) + 2 * frame
    colours = (
        np.full((len(batch), 3), 128, np.uint8) if kept is None else np.where(kept[:, None], (40, 160, 60), (200, 50, 40)).astype(np.uint8)
    )
    tiles = np.repeat(np.repeat(colours[:, None, None, :], height, 1), side, 2)
    rows, inner = slice(frame, height - frame), slice(frame, side - frame)
    if bank.candidates.images is None:
        tiles[:, rows, inner] = 255 - (255 - colours[:, None, None, :]) // 3
    else:
        tiles[:, rows, inner] = decode(bank.candidates.images[batch], (height - 2 * frame, side - 2 * frame))
    padding = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.full((padding, height, side, 3), 255, np.uint8)])
    return tiles.reshape(-1, columns, height, side, 3).swapaxes(1, 2).reshape(-1, columns * side, 3)
