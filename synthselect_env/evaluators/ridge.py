"""What a linear probe fits, for k selections at once: ridge regression of the one-hot labels, or logistic regression.

With weights s of the pictures (1 for a real or a selected one, 0 for the others), W minimises

    Σ sᵢ loss(xᵢW, yᵢ) + λ/2 · Σ sᵢ · |W|²

with the intercept, W's last row, left out of the norm. ``loss`` is half the squared error, or the cross-entropy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch

CHUNK = 4096
"""Candidates that are worked on at once, which bounds the memory that a large pool needs."""

TABLE_BYTES = 2**28
"""Size up to which the candidates' outer products are kept; for a larger pool they are made again, chunk by chunk."""

NEWTON_STEPS, HALVINGS = 8, 12
"""Of the logistic fit; a step is halved where it would not improve the objective, and not taken where even so it does not."""

ROUNDING = 1e-12
"""Relative, of the objective, which at its minimum goes up and down by that."""


class Design(NamedTuple):
    """What a head sees of pictures."""

    x: torch.Tensor  # float64 (n, p), the last column ones
    y: torch.Tensor  # float64 (n, c), one-hot


class Head(ABC):
    """Fits k linear classifiers, and differentiates them by the weights of the candidates.

    :param real: the real training pictures
    :param pool: the candidates
    :param penalty: λ above
    """

    def __init__(self, real: Design, pool: Design, penalty: float) -> None:
        self.real, self.pool, self.penalty = real, pool, penalty
        p = real.x.shape[1]
        self.rows, self.columns = torch.triu_indices(p, p, device=real.x.device)  # x xᵀ is symmetric
        self.penalised = torch.ones(p, dtype=torch.float64, device=real.x.device)
        self.penalised[-1] = 0
        self._table: torch.Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": None}

    @abstractmethod
    def fit(self, masks: torch.Tensor) -> torch.Tensor:
        """The classifiers of k selections.  bool (k, n) -> W (k, p, c)"""

    @abstractmethod
    def solve_hessian(self, masks: torch.Tensor, weights: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """H⁻¹ times the right side, H the objective's second derivative at W.  (k, n), (k, p, c), (k, p, c) -> (k, p, c)"""

    @abstractmethod
    def predict(self, scores: torch.Tensor) -> torch.Tensor:
        """What is compared with the one-hot labels: y minus it is the loss's negative derivative by the scores."""

    def credit(self, masks: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Derivative of a function of W by each candidate's weight in the training set, by the implicit function theorem.

        dW/dsᵢ = H⁻¹ (xᵢ (yᵢ - predict(xᵢW))ᵀ - λW)

        :param masks: bool (k, n)
        :param weights: W as fitted, (k, p, c)
        :param gradient: of the function by W, (k, p, c)
        :return: (k, n)
        """
        pull = self.solve_hessian(masks, weights, gradient)
        shrinkage = self.penalty * (pull * weights * self.penalised[:, None]).sum((1, 2))
        credit = torch.empty(masks.shape, dtype=torch.float64, device=masks.device)
        for start in range(0, masks.shape[1], CHUNK):
            x, y = (part[start : start + CHUNK] for part in self.pool)
            credit[:, start : start + CHUNK] = ((x @ pull) * (y - self.predict(x @ weights))).sum(2)
        return credit - shrinkage[:, None]

    def pairs(self, x: torch.Tensor) -> torch.Tensor:
        """The outer product of each row with itself, every pair of columns once.  (n, p) -> (n, p (p + 1) / 2)"""
        return x[:, self.rows] * x[:, self.columns]

    def symmetric(self, sums: torch.Tensor) -> torch.Tensor:
        """Matrices from their upper triangles.  (k, p (p + 1) / 2) -> (k, p, p)"""
        p = len(self.penalised)
        gram = sums.new_empty(len(sums), p, p)
        gram[:, self.rows, self.columns] = sums
        gram[:, self.columns, self.rows] = sums
        return gram

    def table(self, positions: torch.Tensor) -> torch.Tensor:
        """Outer products of candidates, and products of components and labels.  (m,) -> (m, p (p + 1) / 2 + p c)"""
        (n, p), c = self.pool.x.shape, self.pool.y.shape[1]
        if self._table is None and 8 * n * (len(self.rows) + p * c) <= TABLE_BYTES:
            self._table = self._products(*self.pool)
        if self._table is not None:
            return self._table if len(positions) == n else self._table[positions]
        return self._products(self.pool.x[positions], self.pool.y[positions])

    def _products(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.pairs(x), (x[:, :, None] * y[:, None, :]).flatten(1)], dim=1)


class RidgeHead(Head):
    """Least squares in closed form, from sums over the training pictures alone.

    Between two calls only the candidates that changed are added and taken away: in an episode, those of one batch. The sums are
    exact (see :func:`grid`), so that they do not depend on the calls before.
    """

    def __init__(self, real: Design, pool: Design, penalty: float) -> None:
        super().__init__(real, pool, penalty)
        parts = zip(real.x.split(CHUNK), real.y.split(CHUNK))
        self._real_sums = torch.stack([self._products(*part).sum(0) for part in parts]).sum(0)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # masks and sums of the last call

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_last": None}

    def _sums(self, masks: torch.Tensor) -> torch.Tensor:  # (k, n) -> (k, p (p + 1) / 2 + p c)
        changed = masks.any(0).nonzero()[:, 0]
        before = None
        sums = self._real_sums.repeat(len(masks), 1)
        last = self._last
        if last is not None and len(last[0]) == len(masks):
            since = (masks ^ last[0]).any(0).nonzero()[:, 0]
            if len(since) < len(changed):
                changed, before, sums = since, last[0], last[1].clone()
        for part in changed.split(CHUNK):
            # all of a pool that has a table: no copies of it
            change = (masks if len(part) == masks.shape[1] else masks[:, part]).to(torch.float64)
            if before is not None:
                change -= before[:, part].to(torch.float64)
            sums.addmm_(change, self.table(part))
        self._last = masks.clone(), sums
        return sums

    def _hessian(self, sums: torch.Tensor) -> torch.Tensor:
        gram = self.symmetric(sums[:, : len(self.rows)])
        gram.diagonal(dim1=1, dim2=2)[:] += self.penalty * gram[:, -1, -1:] * self.penalised  # the column of ones counts the pictures
        return gram

    def fit(self, masks: torch.Tensor) -> torch.Tensor:
        """The classifiers of k selections, one solve each.  bool (k, n) -> W (k, p, c)"""
        sums = self._sums(masks)
        moment = sums[:, len(self.rows) :].view(len(masks), len(self.penalised), -1)
        return torch.linalg.solve(self._hessian(sums), moment)

    def solve_hessian(self, masks: torch.Tensor, weights: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """H is the penalised Gram matrix, the same for all classes and whatever W.  -> (k, p, c)"""
        return torch.linalg.solve(self._hessian(self._sums(masks)), right)

    def predict(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores themselves."""
        return scores


class LogisticHead(Head):
    """Softmax regression by a fixed number of Newton steps."""

    def __init__(self, real: Design, pool: Design, penalty: float) -> None:
        super().__init__(real, pool, penalty)
        self._start = real.x.new_zeros(1, real.x.shape[1], real.y.shape[1])
        self._start = self.fit(torch.zeros(1, len(pool.x), dtype=torch.bool, device=real.x.device))

    def _training(self, masks: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The training set in chunks: x (m, p), y (m, c), and each picture's weight (k or 1, m)."""
        yield *self.real, self.real.x.new_ones(1, len(self.real.x))
        for i in range(0, masks.shape[1], CHUNK):
            yield self.pool.x[i : i + CHUNK], self.pool.y[i : i + CHUNK], masks[:, i : i + CHUNK].to(torch.float64)

    def _size(self, masks: torch.Tensor) -> torch.Tensor:  # (k,)
        return len(self.real.x) + masks.sum(1).to(torch.float64)

    def _objective(self, masks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # (k,)
        value = self.penalty / 2 * self._size(masks) * (weights.square() * self.penalised[:, None]).sum((1, 2))
        for x, y, s in self._training(masks):
            value -= (s * ((x @ weights).log_softmax(2) * y).sum(2)).sum(1)
        return value

    def fit(self, masks: torch.Tensor) -> torch.Tensor:
        """The classifiers of k selections, by Newton's method.  bool (k, n) -> W (k, p, c)

        It begins with the fit without candidates, or with nothing where that is better: a fit that is sure of its few
        real pictures is so wrong of candidates with other labels that Newton's method does not come back from there.
        """
        weights = self._start.repeat(len(masks), 1, 1)
        value, nothing = self._objective(masks, weights), self._size(masks) * math.log(weights.shape[2])
        weights = torch.where((nothing < value)[:, None, None], 0.0, weights)
        value = torch.minimum(value, nothing)
        for _ in range(NEWTON_STEPS):
            gradient = self.penalty * self._size(masks)[:, None, None] * weights * self.penalised[:, None]
            for x, y, s in self._training(masks):
                gradient -= x.T @ (s[:, :, None] * (y - self.predict(x @ weights)))
            step = self.solve_hessian(masks, weights, gradient)
            for halving in range(HALVINGS + 1):
                after = self._objective(masks, weights - step)
                worse = ~(after <= value + ROUNDING * value.abs())  # or not a number
                if not worse.any():
                    break
                step = torch.where(worse[:, None, None], 0.0 if halving == HALVINGS else step / 2, step)
            weights, value = weights - step, torch.where(worse, value, after)
        return weights

    def solve_hessian(self, masks: torch.Tensor, weights: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """H couples the classes: one system of p c unknowns a selection.  -> (k, p, c)"""
        k, p, c = weights.shape
        size, sums = self._size(masks), {(i, j): weights.new_zeros(k, len(self.rows)) for i in range(c) for j in range(i, c)}
        for x, _, s in self._training(masks):
            q, pairs = self.predict(x @ weights), self.pairs(x)
            for i, j in sums:
                sums[i, j].addmm_(s * q[:, :, i] * (float(i == j) - q[:, :, j]), pairs)
        hessian = weights.new_zeros(k, c, p, c, p)
        for (i, j), part in sums.items():
            hessian[:, i, :, j] = hessian[:, j, :, i] = self.symmetric(part)
        for i in range(c):
            hessian[:, i, :, i].diagonal(dim1=1, dim2=2)[:] += self.penalty * size[:, None] * self.penalised
        # a shift of all intercepts changes nothing: curvature along it makes the matrix invertible, and no step goes that way
        hessian[:, :, -1, :, -1] += size[:, None, None] / c
        solved = torch.linalg.solve(hessian.view(k, c * p, c * p), right.transpose(1, 2).reshape(k, c * p, 1))
        return solved.view(k, c, p).transpose(1, 2)

    def predict(self, scores: torch.Tensor) -> torch.Tensor:
        """The probabilities of the classes.  (…, c) -> (…, c)"""
        return scores.softmax(-1)


HEADS: dict[str, type[Head]] = {"ridge": RidgeHead, "logistic": LogisticHead}
"""Heads by name."""


def grid(*parts: torch.Tensor) -> float:
    """The finest power of two g such that products of components rounded to multiples of g add up exactly in float64.

    Sums of multiples of g² are exact while they stay below 2⁵² g². By Cauchy and Schwarz none exceeds the largest sum of squares
    of a component over all pictures. Exact sums are the same in whatever order they are added up: for one selection or a
    thousand at once, from nothing or from the sums before, on the CPU and on a GPU. For ten thousand pictures g is about 10⁻⁵
    standard deviations.

    :param parts: components of the real pictures and of the candidates, (n, p)
    """
    largest = sum(part.square().sum(0) for part in parts).max().item()  # type: ignore[union-attr]
    # 2: rounding may enlarge a little, and a difference of two masks is summed before it is added
    bits = (52 - math.ceil(math.log2(max(2 * largest, sum(map(len, parts)), 2.0)))) // 2
    return 2.0**-bits
