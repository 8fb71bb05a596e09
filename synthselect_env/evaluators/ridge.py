"""What a linear probe fits, for k selections at once: ridge regression of the one-hot labels.

With weights s of the pictures (1 for a real or a selected one, 0 for the others), W minimises

    Σ sᵢ |xᵢW - yᵢ|²/2 + λ/2 · Σ sᵢ · |W|²

with the intercept, W's last row, left out of the norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

CHUNK = 4096
"""Candidates that are worked on at once, which bounds the memory that a large pool needs."""

TABLE_BYTES = 2**28
"""Size up to which the candidates' outer products are kept; for a larger pool they are made again, chunk by chunk."""


class Design(NamedTuple):
    """What a head sees of pictures."""

    x: torch.Tensor  # float64 (n, p), the last column ones
    y: torch.Tensor  # float64 (n, c), one-hot


class RidgeHead:
    """Fits k linear classifiers, and differentiates them by the candidates' weights.

    Least squares in closed form, from sums over the training pictures alone. Between two calls only the candidates that changed
    are added and taken away: in an episode, those of one batch. The sums are exact (see :func:`grid`), so that they do not depend
    on the calls before.

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
        parts = zip(real.x.split(CHUNK), real.y.split(CHUNK))
        self._real_sums = torch.stack([self._products(*part).sum(0) for part in parts]).sum(0)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # masks and sums of the last call

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": None, "_last": None}

    def fit(self, masks: torch.Tensor) -> torch.Tensor:
        """The classifiers of k selections, one solve each.  bool (k, n) -> W (k, p, c)"""
        sums = self._sums(masks)
        moment = sums[:, len(self.rows) :].view(len(masks), len(self.penalised), -1)
        return torch.linalg.solve(self._hessian(sums), moment)

    def credit(self, masks: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Derivative of a function of W by each candidate's weight in the training set, by the implicit function theorem.

        dW/dsᵢ = H⁻¹ (xᵢ (yᵢ - xᵢW)ᵀ - λW), H the penalised Gram matrix, the same for all classes

        :param masks: bool (k, n)
        :param weights: W as fitted, (k, p, c)
        :param gradient: of the function by W, (k, p, c)
        :return: (k, n)
        """
        pull = torch.linalg.solve(self._hessian(self._sums(masks)), gradient)
        shrinkage = self.penalty * (pull * weights * self.penalised[:, None]).sum((1, 2))
        credit = torch.empty(masks.shape, dtype=torch.float64, device=masks.device)
        for start in range(0, masks.shape[1], CHUNK):
            x, y = (part[start : start + CHUNK] for part in self.pool)
            credit[:, start : start + CHUNK] = ((x @ pull) * (y - x @ weights)).sum(2)
        return credit - shrinkage[:, None]

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
