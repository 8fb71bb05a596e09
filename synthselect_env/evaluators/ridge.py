"""Ridge regression of one-hot labels, for k selections at once.

With weights s of the images (1 for a real or a selected one, 0 for the others), W minimises

    Σ sᵢ |xᵢW - yᵢ|²/2 + λ/2 · Σ sᵢ · |W|²

The intercept, W's last row, is left out of the norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_SIZE = 4096
"""Candidates that are worked on at once, which bounds the memory that a large pool needs."""

TABLE_BYTES = 2**28
"""Largest table of outer products that is kept. A larger pool's are made again in chunks."""


class Design(NamedTuple):
    """Inputs and targets of the regression."""

    x: Tensor  # float64 (n, p), the last column ones
    y: Tensor  # float64 (n, c), one-hot


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
        device = real.x.device
        p = real.x.shape[1]
        # The Gram matrix is symmetric: its upper triangle is enough.
        self.rows, self.columns = torch.triu_indices(p, p, device=device)
        self.penalised = torch.ones(p, dtype=torch.float64, device=device)
        self.penalised[-1] = 0
        self._real_sums = self._sum_products(real)
        self._table: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None  # masks and sums

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": None, "_last": None}

    def fit(self, masks: Tensor) -> Tensor:
        """Return the classifiers of k selections.  bool (k, n) -> W (k, p, c)"""
        sums = self._sums(masks)
        n_pairs = len(self.rows)
        moment = sums[:, n_pairs:].unflatten(1, (len(self.penalised), -1))
        return torch.linalg.solve(self._hessian(sums), moment)

    def credit(self, masks: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
        """Return the derivative of a function of W by each candidate's weight.

        By the implicit function theorem, ``dW/dsᵢ = H⁻¹ (xᵢ (yᵢ - xᵢW)ᵀ - λW)``. H is the
        penalised Gram matrix, the same for all classes.

        :param masks: bool (k, n)
        :param weights: fitted W (k, p, c)
        :param gradient: gradient of the function by W (k, p, c)
        :return: (k, n)
        """
        hessian = self._hessian(self._sums(masks))
        pull = torch.linalg.solve(hessian, gradient)  # (k, p, c)
        norm_change = pull * weights * self.penalised[:, None]
        shrinkage = self.penalty * norm_change.sum((1, 2))  # (k,)

        parts = []
        for x, y in _chunks(self.pool):
            residual = y - x @ weights  # (k, part, c)
            part = (x @ pull) * residual
            parts.append(part.sum(2))
        credit = torch.cat(parts, dim=1)
        return credit - shrinkage[:, None]

    def _sums(self, masks: Tensor) -> Tensor:  # (k, n) -> (k, p (p + 1) / 2 + p c)
        """Return the sums over the training images, from those of the last call where shorter."""
        changed = _used_columns(masks)
        masks_before = None
        sums = self._real_sums.repeat(len(masks), 1)
        if self._last is not None and len(self._last[0]) == len(masks):
            last_masks, last_sums = self._last
            since = _used_columns(masks ^ last_masks)
            if len(since) < len(changed):
                changed = since
                masks_before = last_masks
                sums = last_sums.clone()

        for part in changed.split(CHUNK_SIZE):
            whole_pool = len(part) == masks.shape[1]  # no copy of its columns is needed
            columns = masks if whole_pool else masks[:, part]
            change = columns.to(torch.float64)
            if masks_before is not None:
                change -= masks_before[:, part].to(torch.float64)
            sums.addmm_(change, self._product_table(part))
        self._last = masks.clone(), sums
        return sums

    def _hessian(self, sums: Tensor) -> Tensor:  # -> (k, p, p)
        n_pairs = len(self.rows)
        gram = self._symmetric(sums[:, :n_pairs])
        n_images = gram[:, -1, -1:]  # the column of ones counts them
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += self.penalty * n_images * self.penalised
        return gram

    def _symmetric(self, sums: Tensor) -> Tensor:
        """Return matrices from their upper triangles.  (k, p (p + 1) / 2) -> (k, p, p)"""
        p = len(self.penalised)
        gram = sums.new_empty(len(sums), p, p)
        gram[:, self.rows, self.columns] = sums
        gram[:, self.columns, self.rows] = sums
        return gram

    def _product_table(self, positions: Tensor) -> Tensor:
        """Return the products of some candidates.  (m,) -> (m, p (p + 1) / 2 + p c)"""
        x, y = self.pool
        table_bytes = 8 * len(x) * len(self._real_sums)
        if self._table is None and table_bytes <= TABLE_BYTES:
            self._table = self._products(x, y)
        if self._table is None:
            return self._products(x[positions], y[positions])
        if len(positions) == len(x):
            return self._table
        return self._table[positions]

    def _products(self, x: Tensor, y: Tensor) -> Tensor:
        """Return each row's products with itself, every pair once, and with its label."""
        pairs = x[:, self.rows] * x[:, self.columns]  # (n, p (p + 1) / 2)
        with_label = x.unsqueeze(2) * y.unsqueeze(1)  # (n, p, c)
        return torch.cat([pairs, with_label.flatten(1)], dim=1)

    def _sum_products(self, images: Design) -> Tensor:
        """Return the sum of all images' products.  (p (p + 1) / 2 + p c,)"""
        sums = []
        for x, y in _chunks(images):
            products = self._products(x, y)
            sums.append(products.sum(0))
        return torch.stack(sums).sum(0)


def _chunks(images: Design) -> Iterator[tuple[Tensor, Tensor]]:
    """Return inputs and targets in parts that bound memory."""
    inputs = images.x.split(CHUNK_SIZE)
    targets = images.y.split(CHUNK_SIZE)
    return zip(inputs, targets)


def _used_columns(masks: Tensor) -> Tensor:
    """Return the positions of the columns in which any row is true.  (k, n) -> (m,)"""
    used = masks.any(0)
    return used.nonzero()[:, 0]


def rounding_step(*parts: Tensor) -> float:
    """Return the finest power of two to round components to, so that sums are exact.

    Let g be that step. Sums of multiples of g² are exact in float64 while they stay below 2⁵² g².
    By Cauchy and Schwarz none exceeds the largest sum of squares of a component over all images.
    Exact sums are the same in any order: for one selection or a thousand at once, from nothing or
    from earlier sums, on the CPU and on a GPU.

    :param parts: components of the real images and of the candidates, (n, p) each
    """
    squares = [part.square().sum(0) for part in parts]
    largest = torch.stack(squares).sum(0).max().item()
    n_images = sum(len(part) for part in parts)
    # Twice, because rounding may enlarge a little, and differences of two masks are summed first.
    bound = max(2 * largest, n_images, 2.0)
    bits = (52 - math.ceil(math.log2(bound))) // 2
    return 2.0**-bits
