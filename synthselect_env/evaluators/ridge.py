"""Ridge regression of one-hot labels, for k selections at once.

With weights s of the images (1 for a real or a selected one, 0 for the others), W minimises

    Σ sᵢ |xᵢW - yᵢ|²/2 + λ/2 · Σ sᵢ · |W|²

The intercept, W's last row, is left out of the norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

CHUNK_SIZE = 4096
"""Candidates that are worked on at once, which bounds the memory that a large pool needs."""

TABLE_BYTES = 2**28
"""Largest table of outer products that is kept. A larger pool's are made again in chunks."""


class Design(NamedTuple):
    """Inputs and targets of the regression."""

    x: torch.Tensor  # float64 (n, p), the last column ones
    y: torch.Tensor  # float64 (n, c), one-hot


class RidgeHead:
    """Fit k linear classifiers, and differentiate them by the candidates' weights.

    Least squares in closed form, from sums over the training images alone. Between two calls only
    the candidates that changed are added and taken away, which in an episode are those of one
    batch. The sums are exact (see :func:`rounding_step`), so they do not depend on earlier calls.

    :param real: real training images
    :param pool: candidates
    :param penalty: λ above
    """

    def __init__(self, real: Design, pool: Design, penalty: float) -> None:
        self.real = real
        self.pool = pool
        self.penalty = penalty
        p = real.x.shape[1]
        # The Gram matrix is symmetric: its upper triangle is enough.
        self.rows, self.columns = torch.triu_indices(p, p, device=real.x.device)
        self.penalised = torch.ones(p, dtype=torch.float64, device=real.x.device)
        self.penalised[-1] = 0
        self._table: torch.Tensor | None = None
        parts = zip(real.x.split(CHUNK_SIZE), real.y.split(CHUNK_SIZE))
        self._real_sums = torch.stack([self._products(*part).sum(0) for part in parts]).sum(0)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # masks and sums

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": None, "_last": None}

    def fit(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the classifiers of k selections.  bool (k, n) -> W (k, p, c)"""
        sums = self._sums(masks)
        moment = sums[:, len(self.rows) :].view(len(masks), len(self.penalised), -1)
        return torch.linalg.solve(self._hessian(sums), moment)

    def credit(
        self, masks: torch.Tensor, weights: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        """Return the derivative of a function of W by each candidate's weight.

        By the implicit function theorem, ``dW/dsᵢ = H⁻¹ (xᵢ (yᵢ - xᵢW)ᵀ - λW)``. H is the
        penalised Gram matrix, the same for all classes.

        :param masks: bool (k, n)
        :param weights: fitted W (k, p, c)
        :param gradient: gradient of the function by W (k, p, c)
        :return: (k, n)
        """
        pull = torch.linalg.solve(self._hessian(self._sums(masks)), gradient)  # (k, p, c)
        penalised = self.penalised[:, None]
        shrinkage = self.penalty * (pull * weights * penalised).sum((1, 2))  # (k,)
        credit = torch.empty(masks.shape, dtype=torch.float64, device=masks.device)
        for start in range(0, masks.shape[1], CHUNK_SIZE):
            chunk = slice(start, start + CHUNK_SIZE)
            x, y = self.pool.x[chunk], self.pool.y[chunk]
            credit[:, chunk] = ((x @ pull) * (y - x @ weights)).sum(2)
        return credit - shrinkage[:, None]

    def _sums(self, masks: torch.Tensor) -> torch.Tensor:  # (k, n) -> (k, p (p + 1) / 2 + p c)
        """Return the sums over the training images, from those of the last call where shorter."""
        changed = masks.any(0).nonzero()[:, 0]
        masks_before = None
        sums = self._real_sums.repeat(len(masks), 1)
        if self._last is not None and len(self._last[0]) == len(masks):
            last_masks, last_sums = self._last
            since = (masks ^ last_masks).any(0).nonzero()[:, 0]
            if len(since) < len(changed):
                changed, masks_before, sums = since, last_masks, last_sums.clone()
        for part in changed.split(CHUNK_SIZE):
            whole_pool = len(part) == masks.shape[1]  # no copy of its columns is needed
            change = (masks if whole_pool else masks[:, part]).to(torch.float64)
            if masks_before is not None:
                change -= masks_before[:, part].to(torch.float64)
            sums.addmm_(change, self._product_table(part))
        self._last = masks.clone(), sums
        return sums

    def _hessian(self, sums: torch.Tensor) -> torch.Tensor:  # -> (k, p, p)
        gram = self._symmetric(sums[:, : len(self.rows)])
        n_images = gram[:, -1, -1:]  # the column of ones counts them
        gram.diagonal(dim1=1, dim2=2)[:] += self.penalty * n_images * self.penalised
        return gram

    def _symmetric(self, sums: torch.Tensor) -> torch.Tensor:
        """Return matrices from their upper triangles.  (k, p (p + 1) / 2) -> (k, p, p)"""
        p = len(self.penalised)
        gram = sums.new_empty(len(sums), p, p)
        gram[:, self.rows, self.columns] = sums
        gram[:, self.columns, self.rows] = sums
        return gram

    def _product_table(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the products of some candidates.  (m,) -> (m, p (p + 1) / 2 + p c)"""
        (n, p), c = self.pool.x.shape, self.pool.y.shape[1]
        if self._table is None and 8 * n * (len(self.rows) + p * c) <= TABLE_BYTES:
            self._table = self._products(*self.pool)
        if self._table is not None:
            return self._table if len(positions) == n else self._table[positions]
        return self._products(self.pool.x[positions], self.pool.y[positions])

    def _products(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return each row's products with itself, every pair once, and with its label."""
        pairs = x[:, self.rows] * x[:, self.columns]  # (n, p (p + 1) / 2)
        with_label = (x[:, :, None] * y[:, None, :]).flatten(1)  # (n, p c)
        return torch.cat([pairs, with_label], dim=1)


def rounding_step(*parts: torch.Tensor) -> float:
    """Return the finest power of two to round components to, so that sums are exact.

    Let g be that step. Sums of multiples of g² are exact in float64 while they stay below 2⁵² g².
    By Cauchy and Schwarz none exceeds the largest sum of squares of a component over all images.
    Exact sums are the same in any order: for one selection or a thousand at once, from nothing or
    from earlier sums, on the CPU and on a GPU.

    :param parts: components of the real images and of the candidates, (n, p) each
    """
    largest = torch.stack([part.square().sum(0) for part in parts]).sum(0).max().item()
    # Twice, because rounding may enlarge a little, and differences of two masks are summed first.
    bound = max(2 * largest, sum(map(len, parts)), 2.0)
    bits = (52 - math.ceil(math.log2(bound))) // 2
    return 2.0**-bits
